"""The registered model of a variant: which trials become a version, and which version the alias names."""

import json
from pathlib import Path

import mlflow
import pytest
import torch
from helpers.fake_server import FakeServer
from helpers.leases import BEGIN, KEY
from mlflow.entities import LoggedModelOutput
from safetensors.torch import save_file

from normstudy.config import VARIANTS, TrainConfig
from normstudy.data import load_images
from normstudy.model import DigitNet
from normstudy.tracking import Tag, TrainedModel
from normstudy.tracking.client import Server
from normstudy.tracking.event_log import Event, EventLog
from normstudy.tracking.logged_model import Classifier, log_model
from normstudy.tracking.run import is_of_main_comparison
from normstudy.tracking.upload import Upload

pytest_plugins = ["helpers.leases"]
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
    for version in versions:  # what the model's page shows
        model = client.get_logged_model(str(version.source).removeprefix("models:/"))
        assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": version.version}]
    assert {version.description for version in versions} == {"what it is"}


def test_a_model_that_a_killed_process_left_half_is_made_whole_and_not_doubled(store: str, tmp_path: Path) -> None:
    client, weights = mlflow.MlflowClient(), tmp_path / "model.safetensors"
    save_file(DigitNet("gn").state_dict(), weights)
    trained = TrainedModel(norm="gn", network="plain", groups=4, weights="", step=1, name=f"{NAME}-seed0")
    run_id = str(client.create_run("0").info.run_id)
    half = client.create_logged_model("0", name=trained.name, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(half.model_id, 1)])
    for _ in range(2):
        log_model(run_id, trained, weights)
    [model] = client.search_logged_models(["0"])
    assert (model.model_id, model.status) == (half.model_id, "READY")
    assert client.get_run(run_id).info.status == "RUNNING"


def test_networks_of_one_shape_are_served_each_with_its_own_weights(store: str, tmp_path: Path) -> None:
    weights, images = tmp_path / "model.safetensors", load_images()[1].images[:3]
    trained = TrainedModel(norm="bn", network="small", groups=4, weights="", step=1, name="digitnet-bn")
    expected = {}
    for _ in range(2):  # the second is exported from the first's program
        network = DigitNet("bn", network="small")
        for value in network.state_dict().values():
            value += torch.rand(value.shape).to(value.dtype)
        save_file(network.state_dict(), weights)
        run_id = str(mlflow.MlflowClient().create_run("0").info.run_id)
        log_model(run_id, trained, weights)
        expected[run_id] = Classifier(network.eval())(images).detach().numpy()
    models = mlflow.MlflowClient().search_logged_models(["0"])
    for model in models:
        served = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
        assert served.metadata.model_id == model.model_id
        assert served.predict(images.numpy()) == pytest.approx(expected[str(model.source_run_id)], abs=1e-6)
    assert len(models) == len(expected) == 2


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
    status: str, registered: list[str], state: Path, server: FakeServer
) -> None:
    log = EventLog.create(KEY, BEGIN)
    (log.files / "result").mkdir()
    (log.files / "result" / "weights").touch()
    trained = TrainedModel(norm="gn", network="plain", groups=4, weights="weights", step=1, registered=NAME)
    log.add_files("result", model=trained)
    log.append(Event.model_validate({"status": status}))
    Upload(log, server).push()
    assert [name for _, name in server.registered] == registered


def test_the_main_comparisons_trials_alone_are_registered() -> None:
    for variant in VARIANTS:
        assert is_of_main_comparison(TrainConfig(**variant, seed=7, device="cpu", threads=2))
        assert not is_of_main_comparison(TrainConfig(**variant, epochs=1))
    assert not is_of_main_comparison(TrainConfig(norm="bn"))
