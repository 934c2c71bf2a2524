"""Which runs are read, and that a run is read whole or not at all."""

import re
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from helpers.project import SMALL
from helpers.studied import EXPERIMENT, finished_run, study_run

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.experiment import Experiment
from normstudy.launch.measure import log
from normstudy.report import read as reading
from normstudy.report import report
from normstudy.report.collect import of_runs, tables_of
from normstudy.report.read import finished_trials, planned_in, without_measure
from normstudy.report.tables import ErrorTables, Tables
from normstudy.tracking import Measure, Metric, Tag, mlflow_private


def test_a_parent_run_knows_what_it_planned(studied_store: str) -> None:
    parent_id = study_run()
    assert planned_in(parent_id) == EXPERIMENT
    with pytest.raises(ReportError, match="parent=0123: not the run of a study"):
        planned_in("0123")


@pytest.mark.parametrize("parent_id", ["../../x", "x' OR '1' = '1", "/etc", "a\nb", "runs:/x"])
def test_a_parent_that_is_no_run_id_is_refused_in_one_line(parent_id: str) -> None:
    with pytest.raises(ReportError, match=r"^parent=[^\n]*: not a run id$"):
        planned_in(parent_id)


def test_missing_failed_killed_and_running_variants_are_named_and_nothing_is_written(
    store: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    states = {"bn": "FAILED", "ln": "KILLED", "in": "RUNNING", "gn": None}
    configs = [TrainConfig(norm=norm) for norm in states]
    for config, state in zip(configs, states.values(), strict=True):
        if state:
            run = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key, Tag.FAILURE: f"reason {config.norm}"})
            if state != "RUNNING":
                client.set_terminated(run.info.run_id, state)
    planned = Experiment(name="study", question="?", configs=tuple(configs))
    with pytest.raises(ReportError, match=r"^0 of 4 trials finished on ") as caught:
        report(planned, parent_id=None, out=tmp_path / "report")
    message = str(caught.value)
    assert re.search(r"BN is FAILED \(run [0-9a-f]{32}: reason bn\)", message)
    assert re.search(r"LN is KILLED \(run [0-9a-f]{32}: reason ln\)", message)
    assert re.search(r"IN is still running \(run [0-9a-f]{32}", message)
    assert "GN is missing" in message
    assert f" on {store}: train the rest, " in message
    assert "\n" not in message
    assert not (tmp_path / "report").exists()


def test_history_with_a_hole_and_errors_that_disagree_with_the_accuracy_are_refused(store: str) -> None:
    hole, other = TrainConfig(epochs=4), TrainConfig(epochs=1)
    finished_run(hole, steps=[1, 2, 4])
    with pytest.raises(ReportError, match="has no value at epoch 3"):
        finished_trials([hole], None)
    finished_run(other, steps=[1], accuracy=0.989)
    with pytest.raises(ReportError, match="0 misclassified images, its accuracy says 100"):
        finished_trials([other], None)


def test_newest_finished_run_is_taken_and_of_a_step_logged_twice_the_newest_value(store: str) -> None:
    config, client = TrainConfig(epochs=2), mlflow.MlflowClient()
    finished_run(config, steps=[1, 2], accuracy=0.998)
    time.sleep(0.01)
    newest = finished_run(config, steps=[1, 2], accuracy=0.998)
    client.log_metric(newest, Metric.TRAIN_LOSS, 7.0, step=1, timestamp=99)
    time.sleep(0.01)
    client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key})
    [record] = finished_trials([config], None)
    assert record.run_id == newest
    assert record.epochs[Metric.TRAIN_LOSS].tolist() == [7.0, pytest.approx(1.0)]


def diverged_run(config: TrainConfig, *, step: int, epochs: int) -> str:
    """A run that failed at this step, after so many whole epochs."""
    run_id = finished_run(config, steps=[*range(1, epochs + 1)], accuracy=0.9)
    client = mlflow.MlflowClient()
    client.set_tag(run_id, Tag.FAILURE, f"Diverged: the training loss is not finite at step {step}")
    client.set_tag(run_id, Tag.FAILURE_STEP, str(step))
    client.set_terminated(run_id, "FAILED")
    return run_id


STEPS = 640 // TrainConfig().batch_size  # of an epoch on 640 images


@pytest.mark.parametrize(("step", "epochs"), [(1, 0), (STEPS, 0), (STEPS + 1, 1), (2 * STEPS, 1)])
def test_diverged_run_has_its_step_its_whole_epochs_and_no_result(store: str, step: int, epochs: int) -> None:
    diverging, finished = TrainConfig(lr=3.0, **SMALL), TrainConfig(norm="ln", lr=3.0, **SMALL)
    run_id = diverged_run(diverging, step=step, epochs=epochs)
    finished_run(finished, steps=[1, 2], accuracy=0.998)
    records = finished_trials([diverging, finished], None, may_diverge=True)
    assert [record.diverged_at for record in records] == [step, None]
    assert [len(record.epochs) for record in records] == [epochs, 2]
    tables = tables_of(Tables, "edge", records)
    row = tables.results.set_index("run_id").loc[run_id]
    assert row["diverged_at"] == step
    assert row[["test_accuracy", "test_loss", "train_accuracy", "errors"]].isna().all()
    assert tables.results["diverged_at"].isna().tolist() == [False, True]
    assert len(tables.epochs[tables.epochs["run_id"] == run_id]) == epochs
    assert tables.epochs[str(Metric.TEST_ACCURACY)].dtype == float
    assert run_id not in set(tables.misclassified["run_id"])


def test_run_that_failed_is_refused_unless_it_diverged_where_one_may_and_has_its_epochs(store: str) -> None:
    config = TrainConfig(lr=3.0, **SMALL)
    run_id = diverged_run(config, step=STEPS + 1, epochs=0)
    with pytest.raises(ReportError, match=rf"GN is FAILED \(run {run_id}: Diverged: .* at step {STEPS + 1}\)"):
        finished_trials([config], None)
    with pytest.raises(ReportError, match=f"run {run_id}: train/loss has no value at epoch 1"):
        finished_trials([config], None, may_diverge=True)
    mlflow.MlflowClient().delete_tag(run_id, Tag.FAILURE_STEP)
    with pytest.raises(ReportError, match=f"GN is FAILED .run {run_id}"):
        finished_trials([config], None, may_diverge=True)


def test_measures_are_read_with_their_run_and_one_that_is_missing_is_named(store: str) -> None:
    config = TrainConfig(epochs=2)
    configs = [config, config.model_copy(update={"seed": 1})]
    for one in configs:
        finished_run(one, steps=[1, 2])
    [(_, first), (_, second)] = without_measure(configs, Measure.WEIGHTS, may_diverge=False)
    log(first, {Measure.WEIGHTS: pd.DataFrame({"zero_share": [0.25]})})
    with pytest.raises(ReportError, match=f"run {second}: artifact measures/weights.json can't be read"):
        finished_trials(configs, None, measures=[Measure.WEIGHTS])
    log(second, {Measure.WEIGHTS: pd.DataFrame({"zero_share": [0.5]})})
    records = finished_trials(configs, None, measures=[Measure.WEIGHTS])
    weights = of_runs(
        [record.measures[Measure.WEIGHTS] for record in records], tables_of(Tables, "edge", records).results
    )
    assert weights[["run_id", "seed", "zero_share"]].to_numpy().tolist() == [[first, 0, 0.25], [second, 1, 0.5]]


def test_reading_in_parts_gives_what_reading_at_once_gives(studied_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = EXPERIMENT.configs
    whole = tables_of(ErrorTables, "study", finished_trials(configs, None))
    monkeypatch.setattr(mlflow_private, "BULK_RUNS", 2)
    monkeypatch.setattr(reading, "RUNS_A_PAGE", 2)
    in_parts = tables_of(ErrorTables, "study", finished_trials(configs, None))
    monkeypatch.setattr(mlflow_private, "bulk_history", lambda run_ids, metric: None)
    one_by_one = tables_of(ErrorTables, "study", finished_trials(configs, None))
    for name, table in whole.frames().items():
        pd.testing.assert_frame_equal(table, getattr(in_parts, name), check_exact=True)
        pd.testing.assert_frame_equal(table, getattr(one_by_one, name), check_exact=True)
