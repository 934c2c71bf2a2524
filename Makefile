# Every target sets up .venv first when it is missing or its requirements changed. READY is what trains and reports;
# DEV adds what tests, checks, the site and the notebook need; CLUSTER adds Ray and what checks the files of deploy/.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.dev
CLUSTER := .venv/.cluster
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
export MLFLOW_DISABLE_TELEMETRY := true
export NO_MKDOCS_2_WARNING := true
SEEDS ?= 1
LIST := $(BIN)/python -m normstudy experiments

.PHONY: help study report export answer site notebook ui test test-faults check bench bench-cuda lock clean
help:
	@echo "make study   train the three variants on MNIST, 20 epochs each, and report them in report/;"
	@echo "             SEEDS=10 for the whole main comparison"
	@echo "make report  rebuild every table, figure and page, and the README's block, from the exported runs; trains nothing"
	@echo "make export  read the tracking server and keep the tables in results/"
	@echo "make answer  train everything again, some hours on 2 cores; then export and report. NORMSTUDY_FASHION must name"
	@echo "             the folder of Fashion-MNIST's four archives"
	@echo "make site    the pages of docs/ as a site, in site/"
	@echo "make notebook  run the notebook, all three variants, 20 epochs; the executed copy is in notebooks/executed/"
	@echo "make ui      browse the runs at http://127.0.0.1:5000"
	@echo "make test    run all tests"
	@echo "make test-faults  slow tests: they kill processes and servers, fill disks, cut networks; 15 minutes"
	@echo "make check   ruff, mypy, pip-audit, and whether the site can be built"
	@echo "make bench   compare speed with the usual loop and Lightning, into docs/benchmarks: 8 minutes; needs a clean tree"
	@echo "make bench-cuda  the same on a GPU, into docs/benchmarks/cuda: 6 minutes"

$(READY): pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) --compile-bytecode --require-hashes -r requirements.txt
	$(INSTALL) --no-deps --editable .
	touch $(READY)

$(DEV): $(READY) requirements-dev.txt
	$(INSTALL) --require-hashes -r requirements-dev.txt
	touch $(DEV)

$(CLUSTER): $(READY) requirements-cluster.txt
	$(INSTALL) --require-hashes -r requirements-cluster.txt
	touch $(CLUSTER)

study: $(READY)
	$(BIN)/python -m normstudy study experiments/main.py --seeds $(SEEDS)
	$(BIN)/python -m normstudy report experiments/main.py --seeds $(SEEDS)

report: $(READY)
	$(BIN)/python -m normstudy report --from results --out docs/experiments --readme

export: $(READY)
	set -e; for name in $$($(LIST) --names); do \
		$(BIN)/python -m normstudy report experiments/$$name.py --out report/$$name --export results; done

# Fashion-MNIST comes last, hours later, so its folder is asked for first.
answer: $(READY)
	@test -d "$$NORMSTUDY_FASHION" || { echo "NORMSTUDY_FASHION must name the folder of Fashion-MNIST's archives" >&2; exit 2; }
	$(LIST) --commands | sed 's|^|$(BIN)/|' | bash -ex
	$(MAKE) export
	$(MAKE) report

site: $(DEV)
	$(BIN)/mkdocs build --strict

notebook: $(DEV)
	mkdir -p notebooks/executed
	$(BIN)/jupyter execute --output=executed/normalization_study --timeout=-1 notebooks/normalization_study.ipynb

ui: $(READY)
	$(BIN)/python -m normstudy ui

test: $(DEV)
	$(BIN)/python -m pytest

# A file at a time on each of two workers: most of their time they wait for a process to come, to go or to be missed.
test-faults: $(DEV) $(CLUSTER)
	$(BIN)/python -m pytest -m faults --dist loadfile --durations=0 --durations-min=5

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py
# Not with --quiet: it hides the warnings from --strict too.
	@site=$$(mktemp -d); trap 'rm -rf "$$site"' EXIT; \
		said=$$($(BIN)/mkdocs build --strict --site-dir "$$site" 2>&1) || { echo "$$said"; exit 1; }
	@echo "mkdocs: the site can be built"

# Lightning is only compared with, so it stays out of the lock. OPTIONS='--out FOLDER' writes elsewhere.
bench: $(READY)
	$(INSTALL) --editable '.[bench]'
	$(BIN)/python -m benchmarks $(OPTIONS)

# The locks name every package with its hashes, and no index. Each holds the first, so that versions agree.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url
lock: $(READY)
	$(COMPILE) --generate-hashes --output-file requirements.txt pyproject.toml
	$(COMPILE) --generate-hashes --constraint requirements.txt --extra dev --extra server \
		--output-file requirements-dev.txt pyproject.toml
	$(COMPILE) --generate-hashes --constraint requirements-dev.txt --extra ray --extra cluster \
		--output-file requirements-cluster.txt pyproject.toml
	sed '/^      - /d' conda.yaml > conda.yaml.new
	$(COMPILE) --no-deps --constraint requirements.txt pyproject.toml | sed 's/^/      - /' >> conda.yaml.new
	mv conda.yaml.new conda.yaml

# On a machine with a GPU; BENCH_PYTHON names another environment, torch 2.11 or newer.
BENCH_PYTHON ?= $(BIN)/python
bench-cuda: $(READY)
	$(INSTALL) --editable '.[bench]'
	$(BENCH_PYTHON) -m benchmarks.cuda $(OPTIONS)

clean:
	rm -rf .venv
