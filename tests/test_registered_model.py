"""The registered model of a variant: which trials become a version, and which version the alias names."""

import mlflow
import pytest
from helpers.fake_server import FakeServer

from normstudy.config import VARIANTS, TrainConfig
from normstudy.tracking import Tag, TrainedModel
from normstudy.tracking.client import Server
from normstudy.tracking.event_log import Begin, Event, EventLog
from normstudy.tracking.run import is_of_main_comparison
from normstudy.tracking.uploader import Upload

NAME = "digitnet-gn"


def run_with_model(started: int) -> str:
    """A run whose model is there, whole."""
    client = mlflow.MlflowClient()
    run_id = str(client.create_run("0", start_time=started).info.run_id)
    model = client.create_logged_model("0", name=f"{NAME}-seed0", source_run_id=run_id, tags={Tag.NOTE: "what it is"})
    client.finalize_logged_model(model.model_id, "READY")
    return run_id


def test_alias_names_the_run_that_started_last_in_whatever_order_runs_arrive(store: str) -> None:
    server, client = Server(), mlflow.MlflowClient()
    runs = {started: run_with_model(started) for started in (2_000, 3_000, 1_000)}
    for started, newest in ((2_000, 2_000), (3_000, 3_000), (1_000, 3_000), (3_000, 3_000)):
        server.register(runs[started], NAME)
        assert client.get_model_version_by_alias(NAME, "newest").run_id == runs[newest]
    versions = client.search_model_versions(f"name = '{NAME}'")
    assert sorted(str(version.run_id) for version in versions) == sorted(runs.values())  # each once
    assert {version.description for version in versions} == {"what it is"}


def test_a_store_without_a_registry_is_said_once_and_fails_no_run(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow.MlflowClient, "_get_registry_client", lambda self: 1 / 0)
    server, run_id = Server(), run_with_model(1_000)
    server.register(run_id, NAME)
    server.register(run_id, NAME)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("normstudy: no model is registered: tracking server sqlite:")


@pytest.mark.parametrize(("status", "registered"), [("FINISHED", [NAME]), ("KILLED", [])])
def test_only_a_run_that_finished_registers_its_model(
    status: str, registered: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path_factory.mktemp("state")))
    log = EventLog.create("0123456789abcdef", Begin(name="GN", key_tag=Tag.TRIAL_KEY, experiment="x", store=None))
    (log.files / "result").mkdir()
    (log.files / "result" / "weights").touch()
    trained = TrainedModel(norm="gn", network="plain", groups=4, weights="weights", step=1, registered=NAME)
    log.add_files("result", model=trained)
    log.append(Event.model_validate({"status": status}))
    server = FakeServer()
    Upload(log, server).push()
    assert [name for _, name in server.registered] == registered


def test_the_main_comparisons_trials_alone_are_registered() -> None:
    for variant in VARIANTS:
        assert is_of_main_comparison(TrainConfig(**variant, seed=7, device="cpu", threads=2))
        assert not is_of_main_comparison(TrainConfig(**variant, epochs=1))
    assert not is_of_main_comparison(TrainConfig(norm="bn"))
