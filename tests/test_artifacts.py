"""Where artifacts may lie, and how much of one is taken: whoever may write to the tracking server says both."""

import os
import resource
import threading
from pathlib import Path
from unittest.mock import Mock

import mlflow
import pytest
from helpers.hostile_server import CONFIG, RUN_ID, Server, refused
from mlflow.entities import Run, RunData, RunInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from normstudy.errors import TrackingError
from normstudy.report.read import LARGEST, without_measure
from normstudy.tracking import Artifact, Measure
from normstudy.tracking.store import artifact_location

pytest_plugins = ["helpers.hostile_server"]


ENDLESS = ["Transfer-Encoding: chunked", f"Content-Length: {2**40}", "Connection: close"]


@pytest.mark.parametrize("header", ENDLESS)
def test_of_an_artifact_without_end_no_more_is_taken_than_the_largest_has(hostile: Server, header: str) -> None:
    hostile.artifacts[Artifact.MISCLASSIFIED] = header
    refused(f"run {RUN_ID}: artifact misclassified/table.json: it is larger than 8,388,608 bytes")
    assert hostile.streamed < 3 * LARGEST  # the sockets hold some megabytes that nobody took


@pytest.mark.parametrize("kind", ["device", "pipe", "sparse"])
def test_of_a_file_without_end_no_more_is_read_than_the_largest_has(hostile: Server, tmp_path: Path, kind: str) -> None:
    hostile.uri = str(tmp_path / "artifacts")
    path = tmp_path / "artifacts" / Artifact.MISCLASSIFIED
    path.parent.mkdir(parents=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 2**40)
    complaint = ": it is larger than 8,388,608 bytes" if kind == "sparse" else r" can't be read \((OSError|Mlflow.*)\)"
    refused(f"run {RUN_ID}: artifact misclassified/table.json{complaint}")


def test_of_an_object_without_end_in_any_other_store_no_more_is_written(
    hostile: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Endless(ArtifactRepository):
        log_artifact = log_artifacts = list_artifacts = Mock()

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            with Path(local_path).open("wb", buffering=0) as file:
                while sum(written) < 8 * LARGEST:
                    written.append(file.write(b" " * 2**20))

    monkeypatch.setitem(_artifact_repository_registry._registry, "endless", Endless)
    hostile.uri = "endless://bucket/1"
    refused(f"run {RUN_ID}: artifact misclassified/table.json can't be read \\(OSError\\)")
    assert LARGEST <= sum(written) <= LARGEST + 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_password_and_token_are_sent_to_no_other_host(hostile: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with Server() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        host, own = (address.removeprefix("http://") for address in (other.address, hostile.address))
        for uri in (f"mlflow-artifacts://{host}/1", f"http://{host}/1", f"http://{host}\\@{own}/1", "models:/m/1"):
            hostile.uri = uri
            refused(f"run {RUN_ID}: its artifacts are not on {hostile.address} but ")
            with pytest.raises(TrackingError, match="its artifacts are not on"):
                without_measure([CONFIG], Measure.WEIGHTS, may_diverge=False)
        other.shutdown()
    assert "Bearer secret" in hostile.authorization
    assert not other.requests


def test_artifacts_that_were_moved_are_said_to_be_looked_for_where_they_were(hostile: Server, tmp_path: Path) -> None:
    hostile.uri = f"{tmp_path}/old/mlruns/1"
    old = f"{tmp_path}/old"
    refused(f"looked for in {old}/mlruns/1, and there is no {old}; if it was moved: ln -s ITS_NEW_PLACE {old}$")


def location(uri: str) -> Run:
    info = RunInfo(RUN_ID, "1", "user", "FINISHED", 0, 1, "active", artifact_uri=uri)
    return Run(info, RunData())


@pytest.mark.parametrize(
    ("store", "uri", "allowed"),
    [
        ("https://h:5000", "mlflow-artifacts:/1", True),
        ("https://user:pw@h:5000", "https://h:5000/artifacts", True),
        ("https://h:5000", "http://h:5000/artifacts", False),  # the password would go in clear
        ("https://h:5000", "s3://bucket/1", True),
        *(("https://h:5000", folder, False) for folder in ("file:///x", "file:/x", "/x", "FILE:///x", "c:/x", "x", "")),
        ("https://h:5000", "http://[::1", False),
        ("postgresql://h/mlflow", "http://h/artifacts", False),
        ("postgresql://h/mlflow", "/shared/1", True),
        ("sqlite:///mlflow.db", "/folder/1", True),
        ("sqlite:///mlflow.db", "", False),
        ("sqlite:///mlflow.db", "http:///folder", False),
        ("http://localhost:5000", "file:///folder/1", True),
        ("http://[::1]:5000", "/folder/1", True),
        ("http://127.1.2.3", "/folder/1", True),
        ("http://localhost.example.com", "/folder/1", False),
        ("http://127.0.0.1@example.com", "/folder/1", False),
        ("http://example.com/127.0.0.1", "/folder/1", False),
    ],
)
def test_places_of_artifacts(store: str, uri: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: store)
    if allowed:
        assert artifact_location(location(uri)) == uri
    else:
        with pytest.raises(TrackingError, match=f"^run {RUN_ID}: its artifacts are not on [^@]* but "):
            artifact_location(location(uri))
