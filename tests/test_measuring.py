"""Trained networks are measured once each, and what is measured agrees with what their runs logged."""

import signal
from collections.abc import Iterator
from dataclasses import replace

import mlflow
import pytest
from conftest import SMALL
from safetensors.torch import load_file

from normstudy.config import L1, TrainConfig
from normstudy.errors import ConfigError, Interrupted
from normstudy.experiments import Experiment
from normstudy.measure import ZERO
from normstudy.measuring import measure
from normstudy.runs import finished_trials
from normstudy.signals import StopSignal
from normstudy.tracking import Artifact, Measure, Metric

CONFIG = TrainConfig(norm="bn", l1=L1, **SMALL)  # of the small study
WHOLE = Experiment(name="edge", question="?", configs=(CONFIG,), measures=("weights", "statistics"))


@pytest.fixture
def stop_signal() -> Iterator[StopSignal]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield StopSignal()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_each_finished_run_gets_its_tables_once(studied_store: str, stop_signal: StopSignal) -> None:
    assert measure(WHOLE, stop_signal) == 2
    assert measure(WHOLE, stop_signal) == 0
    [record] = finished_trials(WHOLE.configs, None, measures=[Measure.WEIGHTS, Measure.STATISTICS])
    path = mlflow.artifacts.download_artifacts(run_id=record.run_id, artifact_path=Artifact.WEIGHTS)
    near_zero = [(value.abs() < ZERO).flatten() for value in load_file(path).values() if value.ndim > 1]
    share = sum(int(part.sum()) for part in near_zero) / sum(len(part) for part in near_zero)
    assert record.measures[Measure.WEIGHTS]["zero_share"].tolist() == [pytest.approx(share)]
    found = record.measures[Measure.STATISTICS].set_index("statistics")["accuracy"]
    assert found["as trained"] == record.epochs[Metric.TEST_ACCURACY].iloc[-1]
    assert 0 < found["re-estimated"] < 1
    assert mlflow.get_run(record.run_id).info.status == "FINISHED"


def test_a_stop_signal_ends_measuring_and_logs_nothing(studied_store: str, stop_signal: StopSignal) -> None:
    other = replace(WHOLE, configs=(TrainConfig(norm="ln", **SMALL),), measures=("weights",))
    stop_signal.number = signal.SIGTERM
    with pytest.raises(Interrupted, match="stopped by signal 15"):
        measure(other, stop_signal)
    stop_signal.number = None
    assert measure(other, stop_signal) == 1


def test_calibration_without_images_held_out_is_refused(studied_store: str, stop_signal: StopSignal) -> None:
    with pytest.raises(ConfigError, match="calibration: needs val_size above 0"):
        measure(replace(WHOLE, measures=("calibration",)), stop_signal)


def test_an_experiment_without_measures_is_refused_with_the_choices(stop_signal: StopSignal) -> None:
    with pytest.raises(ConfigError, match="experiment=edge: names no MEASURES; choose from weights, statistics, shift"):
        measure(replace(WHOLE, measures=()), stop_signal)
