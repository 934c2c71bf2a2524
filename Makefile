# Every target sets up .venv first when it is missing or its requirements changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help study report notebook ui test test-faults check bench lock clean
help:
	@echo "make study   train the three variants on MNIST, 20 epochs each, and write the report"
	@echo "make report  rebuild figures, tables and the README's block from the logged runs"
	@echo "make notebook  run the notebook: all three variants, 20 epochs"
	@echo "make ui      browse the runs at http://127.0.0.1:5000"
	@echo "make test    run all tests"
	@echo "make test-faults  tests that kill processes and servers, fill disks, cut networks: up to 20 minutes"
	@echo "make check   ruff, mypy and pip-audit"
	@echo "make bench   compare speed and memory with the usual loop and Lightning, into docs/benchmarks"

$(READY): pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

study: $(READY)
	$(BIN)/python -m normstudy study experiments/assignment.py
	$(BIN)/python -m normstudy report experiments/assignment.py --readme

report: $(READY)
	$(BIN)/python -m normstudy report experiments/assignment.py --readme

notebook: $(READY)
	$(BIN)/jupyter execute --inplace --timeout=-1 notebooks/normalization_study.ipynb

ui: $(READY)
	$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

test: $(READY)
	$(BIN)/python -m pytest

# A file at a time on each of two workers: most of their time they wait for a process to come, to go or to be missed.
test-faults: $(READY)
	$(BIN)/python -m pytest -m faults --dist loadfile --durations=0 --durations-min=5

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

# Lightning is only compared with, so it stays out of the lock. `make bench OPTIONS=--resume` completes a broken run.
bench: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[bench]'
	$(BIN)/python -m benchmarks $(OPTIONS)

# The lock names every package with its hashes, and no index.
lock: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra ray --extra server --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --output-file requirements.txt pyproject.toml

clean:
	rm -rf .venv
