"""Where artifacts may lie, and how much of one is taken: whoever may write to the tracking server says both."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import mlflow
import pytest
from helpers.hostile_server import CONFIG, RUN_ID, Server, read_trials, refused, serving
from mlflow.entities import Run, RunData, RunInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from normstudy.errors import TrackingError
from normstudy.report.read import LARGEST, without_measure
from normstudy.tracking import Artifact, Measure
from normstudy.tracking.store import artifact_location


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(tmp_path, monkeypatch) as server:
        yield server


ENDLESS = ["Transfer-Encoding: chunked", f"Content-Length: {2**40}", "Connection: close"]


@pytest.mark.parametrize("header", ENDLESS)
def test_of_an_artifact_without_end_no_more_is_taken_than_the_largest_has(server: Server, header: str) -> None:
    server.artifacts[Artifact.MISCLASSIFIED] = header
    refused(f"run {RUN_ID}: artifact misclassified/table.json: it is larger than 8,388,608 bytes")
    assert server.streamed < 3 * LARGEST  # the sockets hold some megabytes that nobody took


@pytest.mark.parametrize("kind", ["device", "pipe", "sparse"])
def test_of_a_file_without_end_no_more_is_read_than_the_largest_has(server: Server, tmp_path: Path, kind: str) -> None:
    server.uri = str(tmp_path / "artifacts")
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
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Endless(ArtifactRepository):
        log_artifact = log_artifacts = list_artifacts = Mock()

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            with Path(local_path).open("wb", buffering=0) as file:
                while sum(written) < 8 * LARGEST:
                    written.append(file.write(b" " * 2**20))

    monkeypatch.setitem(_artifact_repository_registry._registry, "endless", Endless)
    server.uri = "endless://bucket/1"
    refused(f"run {RUN_ID}: artifact misclassified/table.json can't be read \\(OSError\\)")
    assert LARGEST <= sum(written) <= LARGEST + 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_password_and_token_are_sent_to_no_other_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with Server() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        host, own = (address.removeprefix("http://") for address in (other.address, server.address))
        for uri in (f"mlflow-artifacts://{host}/1", f"http://{host}/1", f"http://{host}\\@{own}/1", "models:/m/1"):
            server.uri = uri
            refused(f"run {RUN_ID}: its artifacts are not on {server.address} but ")
            with pytest.raises(TrackingError, match="its artifacts are not on"):
                without_measure([CONFIG], Measure.WEIGHTS, may_diverge=False)
        other.shutdown()
    assert "Bearer secret" in server.authorization
    assert not other.requests


@pytest.fixture
def elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same server by a name that is not this machine's: 0.0.0.0 is no loopback address, and still leads here."""
    server.address = server.address.replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    mlflow.set_tracking_uri(server.address)
    return server


FOLDERS = ["file://{}/chosen", "file:{}/chosen", "{}/chosen", "FILE://{}/chosen", "c:/chosen", "chosen", ""]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_server_elsewhere_chooses_no_folder_of_this_machine(elsewhere: Server, tmp_path: Path, folder: str) -> None:
    elsewhere.uri = folder.format(tmp_path)
    refused(f"^run {RUN_ID}: its artifacts are not on {elsewhere.address} but ")
    with pytest.raises(TrackingError, match="its artifacts are not on"):
        artifact_location(mlflow.get_run(RUN_ID))


def test_a_server_of_this_machine_may_keep_artifacts_in_a_folder_of_it(server: Server, tmp_path: Path) -> None:
    server.uri = f"file://{tmp_path}/artifacts"
    for path, content in server.artifacts.items():
        (tmp_path / "artifacts" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifacts" / path).write_bytes(content)
    records = read_trials()
    assert [record.run_id for record in records] == [RUN_ID]


def test_artifacts_that_were_moved_are_said_to_be_looked_for_where_they_were(server: Server, tmp_path: Path) -> None:
    server.uri = f"{tmp_path}/old/mlruns/1"
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
        ("https://h:5000", "http://[::1", False),
        ("postgresql://h/mlflow", "http://h/artifacts", False),
        ("postgresql://h/mlflow", "/shared/1", True),
        ("sqlite:///mlflow.db", "/folder/1", True),
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
