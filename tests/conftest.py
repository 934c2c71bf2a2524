"""Shared fixtures: a migrated store to copy, a small real study, a tracker in memory."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

PROJECT = Path(__file__).parents[1]
SMALL = {"epochs": 2, "train_size": 640}
SMALL_OPTIONS = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


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
    """The text, which must be one line."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    with chdir(path.parent):  # MLflow lays artifacts below the folder that it is first used in
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty store of this test's own, which MLflow uses here and in child processes."""
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    with using(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, monkeypatch) as uri:
        yield uri


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


@pytest.fixture(scope="session")
def studied(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store after a small but real study of the three variants: `python -m normstudy study`.

    The first test worker that asks trains it, the others wait for that one.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "studied"
    uri, finished = f"sqlite:///{folder / 'mlflow.db'}", folder / "finished"
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            folder.mkdir()
            shutil.copy(migrated_store, folder / "mlflow.db")
            experiment = str(PROJECT / "experiments" / "assignment.py")
            done = run_cli("study", experiment, "--seeds", "1", *SMALL_OPTIONS, store=uri, cwd=folder)
            assert done.returncode == 0, done.stderr + done.stdout
            finished.touch()
    return uri


@pytest.fixture
def studied_store(studied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """That store, to read from."""
    with using(studied, tmp_path, monkeypatch) as uri:
        yield uri
