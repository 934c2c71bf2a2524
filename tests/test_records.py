"""A record and its run on a real store: the same whatever way it took, and seeds in lock-step each in a true state."""

import shutil
from pathlib import Path

import mlflow
import pytest
from helpers.studied import all_runs

from normstudy.config import TrainConfig
from normstudy.errors import Interrupted
from normstudy.experiment import Experiment
from normstudy.launch import worker
from normstudy.launch.maintenance import sync
from normstudy.launch.registry import Registry
from normstudy.launch.state import Outcome, TrialState
from normstudy.launch.study import dry_run, open_registry, single, study
from normstudy.report.read import finished_trials
from normstudy.tracking import Metric, Tag
from normstudy.tracking.event_log import logs

SMALL = {"epochs": 2, "train_size": 128}
CONFIG = TrainConfig(norm="bn", device="cpu", **SMALL)
PAIR = Experiment(name="pair", question="?", configs=(CONFIG, CONFIG.model_copy(update={"seed": 1})))
pytestmark = pytest.mark.usefixtures("small_test_set")


def snapshot(run_id: str) -> dict[str, object]:
    """All that the server has of a run, but for when and by whom."""
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_id)
    models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    assert run.inputs
    assert run.outputs
    root = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=""))
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name != Tag.HEARTBEAT},
        "points": {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in Metric},
        "datasets": len(run.inputs.dataset_inputs),
        "models": [(model.model_id, str(model.status)) for model in models],
        "outputs": [output.model_id for output in run.outputs.model_outputs],
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*")),
    }


def test_a_record_that_is_sent_again_changes_nothing_and_is_removed_again(store: str, tmp_path: Path) -> None:
    single(CONFIG, offline=True)
    [log] = logs(CONFIG.trial_key)
    shutil.copytree(log.folder, tmp_path / "copy")
    assert sync() == (1, 0)
    [run] = all_runs()
    before = snapshot(run.info.run_id)
    assert before["status"] == "FINISHED"
    assert [step for step, _ in before["points"][Metric.TEST_LOSS]] == [1, 2]  # type: ignore[index]
    assert not logs()
    shutil.copytree(tmp_path / "copy", log.folder)
    assert sync() == (1, 0)
    assert len(all_runs()) == 1
    assert snapshot(run.info.run_id) == before
    assert not logs()


def test_study_without_a_server_is_the_same_study_once_it_is_synced(store: str) -> None:
    study(PAIR, offline=True)
    assert {state for _, state, _ in dry_run(PAIR, offline=True)} == {TrialState.FINISHED}
    assert sync() == (3, 0)
    assert sync() == (0, 0)
    [parent] = [run for run in all_runs() if Tag.STUDY_KEY in run.data.tags]
    assert (parent.info.status, parent.data.metrics["variants/BN n"]) == ("FINISHED", 2)
    records = finished_trials(list(PAIR.configs), parent.info.run_id)
    assert [record.config.seed for record in records] == [0, 1]
    assert {record.tags[Tag.PARENT] for record in records} == {parent.info.run_id}
    assert len(all_runs()) == 3
    assert {state for _, state, _ in dry_run(PAIR)} == {TrialState.FINISHED}


def test_finished_trial_is_left_alone_and_forced_one_is_a_new_run(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    single(CONFIG)
    single(CONFIG)
    assert "BN, seed 0 has finished already: run" in capsys.readouterr().out
    assert len(all_runs()) == 1
    single(CONFIG, force=True)
    assert [run.info.status for run in all_runs()] == ["FINISHED"] * 2


def test_a_trial_that_cannot_begin_to_train_leaves_no_run_open(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(worker, "train_together", broken)
    with pytest.raises(MemoryError):
        single(CONFIG)
    [run] = all_runs()
    assert (run.info.status, run.data.tags[Tag.FAILURE]) == ("FAILED", "MemoryError: too large")


def leases(registry: Registry, stop_after: int | None) -> dict[str, Outcome]:
    """Train both seeds of the pair in lock-step; a stop comes after so many batches."""
    asked: list[None] = []

    def stop() -> int | None:
        asked.append(None)
        return 15 if stop_after is not None and len(asked) > stop_after else None

    return worker.train_leased(registry, PAIR.configs, stop_signal=stop)


def test_seeds_in_lock_step_go_on_together_though_one_has_finished_elsewhere(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = SMALL["train_size"] // CONFIG.batch_size
    with pytest.raises(Interrupted):
        leases(open_registry(offline=False), stop_after=steps + 2)
    [other] = [run for run in all_runs() if run.data.params["seed"] == "1"]
    mlflow.MlflowClient().set_terminated(other.info.run_id, "FINISHED")
    refused = leases(open_registry(offline=False), stop_after=None)
    assert refused == {PAIR.configs[1].trial_key: (TrialState.FINISHED, f"run {other.info.run_id}")}
    resumed = snapshot(next(run.info.run_id for run in all_runs() if run.data.params["seed"] == "0"))
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path / "fresh"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "fresh")
    leases(open_registry(offline=False), stop_after=None)
    fresh = mlflow.search_runs(experiment_names=["fresh"], filter_string="params.seed = '0'", output_format="list")
    expected = snapshot(fresh[0].info.run_id)
    for metric in (Metric.TRAIN_LOSS, Metric.TEST_LOSS, Metric.TEST_ACCURACY):
        assert resumed["points"][metric] == expected["points"][metric], metric  # type: ignore[index]
