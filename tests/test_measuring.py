"""Trained networks are measured once, from the weights that their own runs hold."""

import math
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from helpers.project import SMALL
from safetensors.torch import save_file

from normstudy import robustness as measure
from normstudy.config import TrainConfig
from normstudy.data import Data, load_data
from normstudy.errors import ConfigError, Interrupted, ReportError
from normstudy.experiment import Experiment
from normstudy.launch import measure as measuring
from normstudy.launch import study as launch
from normstudy.model import DigitNet
from normstudy.report.read import TrialRecord, finished_trials
from normstudy.robustness import zero_share
from normstudy.tracking import Artifact, Measure
from normstudy.tracking import store as store_module

CONFIGS = tuple(TrainConfig(**{**SMALL, "epochs": 1}, norm=norm, val_size=64, device="cpu") for norm in ("bn", "gn"))


def asking(*measures: str, configs: tuple[TrainConfig, ...] = CONFIGS) -> Experiment:
    return Experiment(name="mine", question="?", configs=configs, measures=measures)  # type: ignore[arg-type]


def never() -> None:
    """No signal has come."""


def records(*measures: Measure) -> list[TrialRecord]:
    return finished_trials(CONFIGS, None, measures=measures)


def few_test_images(config: TrainConfig, device: torch.device) -> Data:
    """Only the first test images are asked about."""
    data = load_data(config, device)
    return replace(data, test=data.test.take(data.test.indices[:500]))


def test_trained_networks_are_measured_once_though_it_broke_off_and_their_tables_are_those_of_their_weights(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, log_to_run = asking("calibration", "weights", "statistics", "shift"), store_module.log_to_run
    for config in CONFIGS:
        launch.single(config)
    with pytest.raises(Interrupted, match="stopped by signal 15"):
        measuring.measure(small, lambda: 15)
    monkeypatch.setattr(measuring, "load_data", few_test_images)
    monkeypatch.setattr(measure, "SEVERITIES", (1,))
    monkeypatch.setattr(measure, "CORRUPTIONS", {"inversion": measure.CORRUPTIONS["inversion"]})

    def breaks_down(run_id: str, file: Path, *, folder: str) -> None:
        log_to_run(run_id, file, folder=folder)
        raise ReportError("the server went away")

    monkeypatch.setattr(measuring, "log_to_run", breaks_down)  # between two tables of a run
    with pytest.raises(ReportError, match="the server went away"):
        measuring.measure(small, never)
    monkeypatch.setattr(measuring, "log_to_run", log_to_run)
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


def test_weights_of_another_network_are_refused_in_one_line(store: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id
    file = tmp_path / Path(Artifact.WEIGHTS).name
    save_file(DigitNet("gn", network="small").state_dict(), file)
    for content in (file.read_bytes(), b"no weights"):
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), "weights")
        with pytest.raises(ReportError, match=rf"^run {run_id}: [^\n]*the weights of this network$"):
            measuring.trained(CONFIGS[1], run_id)


def test_what_cannot_be_measured_is_refused_in_one_line(store: str) -> None:
    with pytest.raises(ReportError, match=r"BN is missing \(no run with trial key .*; GN is missing"):
        measuring.measure(asking("weights"), never)
    with pytest.raises(ConfigError, match="calibration: needs val_size above 0"):
        measuring.calibrated(load_data(TrainConfig(train_size=640), torch.device("cpu")))
    with pytest.raises(ConfigError, match=r"^experiment=mine: names no MEASURES; choose from weights, statistics, "):
        measuring.measure(asking(), never)
