"""Trained networks are measured once, from the weights that their own runs hold."""

import math
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from helpers.project import SMALL
from safetensors.torch import save_file

from normstudy import robustness as measure
from normstudy.config import TrainConfig
from normstudy.data import Data
from normstudy.errors import ConfigError, Interrupted, ReportError
from normstudy.experiment import Experiment
from normstudy.launch import measure as measuring
from normstudy.launch import study as launch
from normstudy.model import DigitNet
from normstudy.report.read import TrialRecord
from normstudy.report.runs import finished_trials, without_measure
from normstudy.robustness import zero_share
from normstudy.tracking import Artifact, Measure

CONFIGS = tuple(TrainConfig(**{**SMALL, "epochs": 1}, norm=norm, val_size=64, device="cpu") for norm in ("bn", "gn"))


def asking(*measures: str, configs: tuple[TrainConfig, ...] = CONFIGS) -> Experiment:
    return Experiment(name="mine", question="?", configs=configs, measures=measures)  # type: ignore[arg-type]


def never() -> None:
    """No signal has come."""


def records(*measures: Measure) -> list[TrialRecord]:
    return finished_trials(CONFIGS, None, measures=measures)


def small_test_split(monkeypatch: pytest.MonkeyPatch, images: int = 500) -> None:
    """Only the first test images are asked about."""
    load = measuring.load_data

    def loaded(config: TrainConfig, device: object) -> Data:
        data = load(config, device)  # type: ignore[arg-type]
        return replace(data, test=data.test.take(data.test.indices[:images]))

    monkeypatch.setattr(measuring, "load_data", loaded)


def test_trained_networks_are_measured_once_and_their_tables_are_those_of_their_weights(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = asking("weights", "statistics", "shift", "calibration")
    for config in CONFIGS:
        launch.single(config)
    small_test_split(monkeypatch)
    monkeypatch.setattr(measure, "SEVERITIES", (1,))
    monkeypatch.setattr(measure, "CORRUPTIONS", {"inversion": measure.CORRUPTIONS["inversion"]})
    assert measuring.measure(small, never) == 8  # four of each of two networks
    assert measuring.measure(small, never) == 0
    for record in records(*Measure):
        found, bn = record.measures, record.config.norm == "bn"
        own = zero_share(measuring.trained(record.config, record.run_id))
        assert found[Measure.WEIGHTS]["zero_share"].tolist() == [own]
        kinds = ["as trained", "re-estimated"] if bn else ["as trained"]
        assert found[Measure.STATISTICS]["statistics"].tolist() == kinds
        shifts = found[Measure.SHIFT]
        assert shifts["corruption"].tolist() == ["none"] * len(kinds) + ["inversion"] * len(kinds)
        clean = shifts.loc[shifts["severity"] == 0, "accuracy"].tolist()
        wrong = record.misclassified["index"][record.misclassified["index"] < 500]
        assert found[Measure.STATISTICS]["accuracy"][0] == pytest.approx(1 - len(wrong) / 500)
        assert clean[0] == pytest.approx(1 - (wrong % 4 == 0).sum() / 125)  # every fourth
        [sure] = found[Measure.CALIBRATION].to_dict(orient="records")
        assert 0.01 < sure["temperature"] < 100
        assert math.isclose(sure["nll"], found[Measure.STATISTICS]["loss"][0], rel_tol=1e-4)
        bins = found[Measure.RELIABILITY]
        assert bins.groupby("scaled")["count"].sum().tolist() == [500, 500]


def test_a_run_whose_measuring_broke_off_between_two_tables_is_measured_again(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch.single(CONFIGS[1])
    small_test_split(monkeypatch)
    only, log_to_run = asking("calibration", configs=CONFIGS[1:]), measuring.log_to_run

    def breaks_down(*arguments: object, **more: object) -> None:
        log_to_run(*arguments, **more)  # type: ignore[arg-type]
        raise ReportError("the server went away")

    monkeypatch.setattr(measuring, "log_to_run", breaks_down)
    with pytest.raises(ReportError, match="the server went away"):
        measuring.measure(only, never)
    monkeypatch.setattr(measuring, "log_to_run", log_to_run)
    assert measuring.measure(only, never) == 1
    [record] = finished_trials(CONFIGS[1:], None, measures=[Measure.CALIBRATION, Measure.RELIABILITY])
    assert {len(table) > 0 for table in record.measures.values()} == {True}


def test_a_stop_signal_leaves_the_network_unmeasured(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.single(CONFIGS[1])
    with pytest.raises(Interrupted, match="stopped by signal 15"):
        measuring.measure(asking("weights", configs=CONFIGS[1:]), lambda: 15)
    assert len(without_measure(CONFIGS[1:], Measure.WEIGHTS, may_diverge=False)) == 1


def test_weights_of_another_network_are_refused_in_one_line(store: str, tmp_path: Path) -> None:
    launch.single(CONFIGS[1])
    [record] = finished_trials(CONFIGS[1:], None)
    file = tmp_path / Path(Artifact.WEIGHTS).name
    save_file(DigitNet("gn", network="small").state_dict(), file)
    mlflow.MlflowClient().log_artifact(record.run_id, str(file), "weights")
    with pytest.raises(ReportError, match=rf"^run {record.run_id}: [^\n]*the weights of this network$"):
        measuring.measure(asking("weights", configs=CONFIGS[1:]), never)
    file.write_bytes(b"no weights")
    mlflow.MlflowClient().log_artifact(record.run_id, str(file), "weights")
    with pytest.raises(ReportError, match=rf"{Artifact.WEIGHTS}[^\n]*the weights of this network$"):
        measuring.trained(CONFIGS[1], record.run_id)


def test_a_network_that_is_not_trained_is_named(store: str) -> None:
    with pytest.raises(ReportError, match=r"BN is missing \(no run with trial key .*; GN is missing"):
        measuring.measure(asking("weights"), never)


def test_calibration_without_images_held_out_is_refused(store: str) -> None:
    config = TrainConfig(**{**SMALL, "epochs": 1}, device="cpu")
    launch.single(config)
    with pytest.raises(ConfigError, match="calibration: needs val_size above 0"):
        measuring.measure(asking("calibration", configs=(config,)), never)


def test_an_experiment_without_measures_is_refused_in_one_line() -> None:
    said = "^experiment=mine: names no MEASURES; choose from weights, statistics, shift, calibration$"
    with pytest.raises(ConfigError, match=said):
        measuring.measure(asking(), never)
