# Ray's head and workers, with this project in /normstudy. Build it in the project's folder:
#   docker build --file deploy/trials.Dockerfile --tag registry.example.org/normstudy:0.8.0 .
FROM python:3.11.15-slim-bookworm
# KubeRay's probes call wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 normstudy
WORKDIR /normstudy
COPY requirements-cluster.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-cluster.txt
COPY pyproject.toml README.md LICENSE ./
COPY normstudy normstudy
COPY experiments experiments
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --editable .
# No git here: the commit is then `unknown` in the runs.
ENV GIT_PYTHON_REFRESH=quiet
USER normstudy
