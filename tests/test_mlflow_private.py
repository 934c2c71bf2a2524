"""The calls of MLflow that its documentation doesn't promise, against its public ones, on a file and over HTTP."""

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest
from helpers.project import using
from helpers.servers import tracking_server
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.rest_utils import http_request

from normstudy.tracking import mlflow_private
from normstudy.tracking.mlflow_private import bulk_history, first_bytes


@pytest.fixture(params=["file", "http"])
def uri(request: pytest.FixtureRequest, migrated_store: Path, tmp_path: Path) -> Iterator[str]:
    """A store with MLflow's tables, as a file and behind a real `mlflow server` that also serves the artifacts."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(migrated_store.read_bytes())
    store = f"sqlite:///{database}"
    with tracking_server(store, tmp_path) if request.param == "http" else nullcontext() as server:
        yield server.address if server else store


def test_bulk_history_and_first_bytes_are_what_the_public_calls_give(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(uri, tmp_path, monkeypatch):
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("mine")
        runs = [client.create_run(experiment).info for _ in range(2)]
        for place, run in enumerate(runs):
            for step in range(3):
                client.log_metric(run.run_id, "test/loss", place + step / 10, step=step, timestamp=step)
            client.log_text(run.run_id, "0123456789", "folder/file.txt")
        found = bulk_history([run.run_id for run in runs], "test/loss")
        public = [
            (run.run_id, p.step, p.timestamp, p.value)
            for run in runs
            for p in client.get_metric_history(run.run_id, "test/loss")
        ]
        assert sorted(map(tuple, found)) == sorted(public)
        assert first_bytes(runs[0].artifact_uri, "folder/file.txt", 100) == b"0123456789"
        assert first_bytes(runs[0].artifact_uri, "folder/file.txt", 4) == b"0123"
        monkeypatch.setattr(mlflow_private, "BULK_POINTS", 5)  # fewer than there are: the answer is cut short
        assert bulk_history([run.run_id for run in runs], "test/loss") == []


def test_mlflow_has_the_names_that_are_called() -> None:
    assert {"endpoint", "method", "extra_headers"} < set(inspect.signature(http_request).parameters)
    assert isinstance(inspect.getattr_static(HttpArtifactRepository, "_host_creds"), property)
    assert [*inspect.signature(ArtifactRepository._download_file).parameters] == [
        "self",
        "remote_file_path",
        "local_path",
    ]
    assert hasattr(LocalArtifactRepository, "get_local_path")
