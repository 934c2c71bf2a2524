"""The project as a user runs it, and the store that a test has for itself."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

PROJECT = Path(__file__).parents[2]


SMALL = {"epochs": 2, "train_size": 640}


SMALL_OPTIONS = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def run_cli(*arguments: str, store: str, cwd: Path = PROJECT, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m normstudy ...` as a user runs it, against a store."""
    return subprocess.run(
        [sys.executable, "-m", "normstudy", *arguments],
        cwd=cwd,
        env=clean_environment(store, **environment),
        capture_output=True,
        text=True,
        timeout=380,
    )


def clean_environment(store: str, **more: str) -> dict[str, str]:
    """The environment without any MLflow setting but the store; the project is importable from anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(PROJECT)}
    if store.startswith("sqlite:///"):  # records of runs stand beside their store
        settings["NORMSTUDY_STATE"] = str(Path(store.removeprefix("sqlite:///")).parent / "state")
    return {**kept, **settings, "PATH": path, **more}


def only_line(text: str) -> str:
    """The text, which must be one line beside the one that says what a command begins."""
    lines = [
        line
        for line in text.strip().splitlines()
        if not re.match(r"normstudy (train|study|measure|report)\b", line) or "error" in line
    ]
    assert len(lines) == 1, text
    return lines[0]


@contextmanager
def using(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow in this process looks at `uri`; artifacts land below `folder`."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NORMSTUDY_STATE", str(folder / "state"))
    monkeypatch.chdir(folder)
    mlflow.set_tracking_uri(uri)
    mlflow.tracking.fluent._active_experiment_id = None
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
