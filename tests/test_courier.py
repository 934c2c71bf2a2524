"""From the spool to the server: in order, once, whatever the server does."""

import shutil
import time
from pathlib import Path

import mlflow
import pytest
from conftest import SMALL
from mlflow.entities import Run

from normstudy import courier
from normstudy.config import TrainConfig
from normstudy.courier import Courier, Delivery, deliver
from normstudy.errors import StorageError, StudyError, Superseded
from normstudy.experiments import Experiment
from normstudy.launch import dry_run, single, study
from normstudy.ledger import newest_record, reap, sync
from normstudy.runs import finished_trials
from normstudy.spool import Spool, state_root
from normstudy.tracking import Metric, Tag, chosen_experiment, connect
from normstudy.trials import State, claim_new, get, take

CONFIG = TrainConfig(norm="bn", device="cpu", **SMALL)
PAIR = Experiment(name="pair", question="?", configs=(CONFIG, CONFIG.model_copy(update={"seed": 1})))


def all_runs() -> list[Run]:
    return list(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def snapshot(run_id: str) -> dict[str, object]:
    """All that the server has of a run, but for when and by whom."""
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_id)
    models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name != Tag.HEARTBEAT},
        "points": {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in Metric},
        "datasets": len(run.inputs.dataset_inputs),
        "models": [(model.model_id, str(model.status)) for model in models],
        "outputs": [output.model_id for output in run.outputs.model_outputs],
        "files": sorted(str(path.relative_to(path.parents[1])) for path in artifacts(run).rglob("*")),
    }


def artifacts(run: Run) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=""))


def test_replaying_every_event_again_changes_nothing(store: str, tmp_path: Path) -> None:
    single(CONFIG, offline=True)
    folder = newest_record(CONFIG.trial_key)
    assert folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    connect()
    assert deliver(folder, "KILLED", "?") == len(Spool(copy).events())
    [run] = all_runs()
    before = snapshot(run.info.run_id)
    assert before["status"] == "FINISHED"
    assert [step for step, _ in before["points"][Metric.TEST_LOSS]] == [1, 2]  # type: ignore[index]
    deliver(copy, "KILLED", "?")
    assert len(all_runs()) == 1
    assert snapshot(run.info.run_id) == before


@pytest.mark.parametrize("name", ["../events.jsonl", "/etc/hostname", "start/../../lock"])
def test_record_of_another_machine_sends_no_file_but_its_own(store: str, tmp_path: Path, name: str) -> None:
    connect()
    spool = Spool(tmp_path / "key.attempt")
    spool.own(patience=1.0)
    spool.append("open", run_id=None, attempt="a", experiment="normstudy", parent=None, token=None, tags={}, params={})
    spool.append("artifacts", folder=name)
    with pytest.raises(StorageError, match="is no file of this record"):
        Delivery(spool).send()
    [run] = all_runs()
    assert not [*mlflow.MlflowClient().list_artifacts(run.info.run_id)]


def test_study_without_a_server_is_the_same_study_once_it_is_synced(store: str) -> None:
    study(PAIR, offline=True)
    assert {state for _, state, _ in dry_run(PAIR, offline=True)} == {State.FINISHED}
    assert sync() > 0
    assert sync() == 0
    [parent] = [run for run in all_runs() if Tag.STUDY_KEY in run.data.tags]
    assert parent.info.status == "FINISHED"
    records = finished_trials(list(PAIR.configs), parent.info.run_id)
    assert [record.config.seed for record in records] == [0, 1]
    assert len(all_runs()) == 3
    assert {state for _, state, _ in dry_run(PAIR)} == {State.FINISHED}
    assert not [*state_root(None).glob("*/events.jsonl")]


def test_trial_that_finished_elsewhere_is_not_sent_a_second_time(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    single(CONFIG, offline=True)
    single(CONFIG)
    assert sync() == 0
    assert "BN, seed 0 has finished elsewhere, as run" in capsys.readouterr().err
    assert len(all_runs()) == 1


def test_finished_trial_is_left_alone_and_forced_one_is_a_new_run(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    single(CONFIG)
    single(CONFIG)
    assert "BN, seed 0 has finished already: run" in capsys.readouterr().out
    assert len(all_runs()) == 1
    single(CONFIG, force=True)
    assert [run.info.status for run in all_runs()] == ["FINISHED"] * 2


def test_diverged_trial_is_not_tried_again_unless_forced(store: str) -> None:
    config = TrainConfig(norm="none", lr=1e9, device="cpu", **SMALL)
    with pytest.raises(Exception, match="diverged"):
        single(config)
    with pytest.raises(StudyError, match=r"NONE, seed 0: diverged \(run [0-9a-f]{32}: Diverged: .*not finite at step"):
        single(config)
    assert len(all_runs()) == 1


def test_courier_says_once_that_the_server_is_away_and_once_that_it_is_back(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.01)
    tries, send = [], Delivery.send

    def sometimes(delivery: Delivery) -> bool:
        tries.append(None)
        if 2 <= len(tries) < 6:
            raise ConnectionError("refused")
        return send(delivery)

    monkeypatch.setattr(Delivery, "send", sometimes)
    spool = Spool(tmp_path / "key.attempt")
    spool.own(patience=1.0)
    with Courier() as working:
        working.add(spool)
        deadline = time.monotonic() + 20
        while len(tries) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
    told = [line for line in capsys.readouterr().err.splitlines() if "tracking server" in line]
    assert [("is away" in line, "is back" in line) for line in told] == [(True, False), (False, True)]


def test_process_whose_run_was_taken_over_stops_and_leaves_the_run_alone(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(courier, "RETRY_SECONDS", 0.05)
    asked: list[None] = []

    def rival() -> None:
        asked.append(None)
        if len(asked) == 15:
            [run] = all_runs()
            assert take(get(run.info.run_id), "elsewhere:1:rival")
            time.sleep(2)

    with pytest.raises(Superseded, match="another process has taken it over"):
        single(CONFIG.model_copy(update={"epochs": 40}), stop_signal=rival)
    [run] = all_runs()
    assert run.info.status == "RUNNING"  # the rival's now
    assert Tag.FAILURE not in run.data.tags


def test_reap_ends_what_a_killed_process_left_and_nothing_else(store: str) -> None:
    connect()
    experiment = chosen_experiment()
    claims = [
        claim_new(
            experiment, Tag.TRIAL_KEY, f"key{number}", f"elsewhere:{number}:x", {Tag.NAME: f"trial {number}"},
            attempt=str(number), again=False, waiting=None, force=False,
        )
        for number in range(2)
    ]  # fmt: skip
    assert reap() == []  # their hearts beat a moment ago
    dead = str(claims[0].run_id)  # type: ignore[union-attr]
    mlflow.MlflowClient().set_tag(dead, Tag.HEARTBEAT, 1_000)
    original, courier_time = courier.time.sleep, []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normstudy.trials.time.sleep", lambda seconds: courier_time.append(seconds) or original(0))
        [line] = reap()
    assert line.startswith(f"trial 0 (run {dead}) is FAILED: its process is gone (last heartbeat: 1970-01-01")
    assert len(courier_time) == 1
    assert {run.info.status for run in all_runs()} == {"FAILED", "RUNNING"}
    assert "its process is gone" in mlflow.get_run(dead).data.tags[Tag.FAILURE]
