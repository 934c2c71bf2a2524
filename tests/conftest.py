"""Shared fixtures: a migrated store to copy, a small real study, a tracker in memory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from filelock import FileLock
from helpers.project import PROJECT, SMALL_OPTIONS, run_cli, using

from normstudy.config import TrainConfig
from normstudy.data import Data, load_data

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


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
            experiment = str(PROJECT / "experiments" / "main.py")
            done = run_cli("study", experiment, "--seeds", "1", *SMALL_OPTIONS, store=uri, cwd=folder)
            assert done.returncode == 0, done.stderr + done.stdout
            finished.touch()
    return uri


@pytest.fixture
def studied_store(studied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """That store, to read from."""
    with using(studied, tmp_path, monkeypatch) as uri:
        yield uri


@pytest.fixture
def small_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that train are evaluated on the first 500 test images, in a tenth of a second instead of two."""

    def loaded(config: TrainConfig, device: torch.device) -> Data:
        data = load_data(config, device)
        return replace(data, test=data.test.take(torch.arange(500)))

    monkeypatch.setattr("normstudy.train.load_data", loaded)
