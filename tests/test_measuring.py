"""Trained networks are measured once, from the weights that their own runs hold."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from helpers.project import SMALL
from safetensors.torch import save_file

from normstudy import mnist_c, robustness
from normstudy.config import TrainConfig
from normstudy.data import Data, load_data
from normstudy.errors import ConfigError, Interrupted, ReportError
from normstudy.evaluate import evaluate
from normstudy.experiment import Experiment
from normstudy.launch import measure as measuring
from normstudy.model import DigitNet
from normstudy.report.read import read_artifact
from normstudy.report.validation import logged_measure
from normstudy.tracking import Artifact, Measure, Tag
from normstudy.tracking.store import log_to_run

CPU = torch.device("cpu")
CONFIGS = tuple(TrainConfig(**SMALL, norm=norm, val_size=64, device="cpu") for norm in ("bn", "gn"))
DATA = load_data(CONFIGS[0], CPU)
# only the first images are asked about
FEW = replace(DATA, train=DATA.train.take(torch.arange(300)), test=DATA.test.take(DATA.test.indices[:500]))


def asking(*measures: str) -> Experiment:
    return Experiment(name="mine", question="?", configs=CONFIGS, measures=measures)  # type: ignore[arg-type]


def never() -> None:
    """No signal has come."""


def few(config: TrainConfig, device: torch.device) -> Data:
    return FEW


def log_weights(run_id: str, content: bytes) -> None:
    file = Path(Path(Artifact.WEIGHTS).name)
    file.write_bytes(content)
    mlflow.MlflowClient().log_artifact(run_id, str(file), str(Path(Artifact.WEIGHTS).parent))


def weights_of(model: DigitNet) -> bytes:
    save_file(model.state_dict(), "weights")
    return Path("weights").read_bytes()


def finished(config: TrainConfig) -> tuple[str, DigitNet]:
    """The id of a run like that of a trial that has finished, and the network that it holds, which never trained."""
    client, model = mlflow.MlflowClient(), DigitNet(config.norm)
    run_id = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key}).info.run_id
    log_weights(run_id, weights_of(model))
    client.set_terminated(run_id, "FINISHED")
    return run_id, model


def test_trained_networks_are_measured_once_though_it_broke_off_and_their_tables_are_those_of_their_weights(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = asking("calibration", "weights", "statistics", "shift", "mnist_c", "training", "crossfit")
    runs = [finished(config) for config in CONFIGS]
    monkeypatch.setattr(measuring, "load_data", few)
    monkeypatch.setattr(robustness, "SEVERITIES", (1,))
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"inversion": robustness.CORRUPTIONS["inversion"]})
    monkeypatch.setattr(mnist_c, "CORRUPTIONS", {"stripe": mnist_c.stripe})
    with pytest.raises(Interrupted, match="stopped by signal 15"):
        measuring.measure(small, lambda: 15)

    def breaks_down(run_id: str, file: Path, *, folder: str) -> None:
        log_to_run(run_id, file, folder=folder)
        raise ReportError("the server went away")

    monkeypatch.setattr(measuring, "log_to_run", breaks_down)  # between two tables of a run
    with pytest.raises(ReportError, match="the server went away"):
        measuring.measure(small, never)
    monkeypatch.setattr(measuring, "log_to_run", log_to_run)
    assert measuring.measure(small, never) == 14  # seven of each of two networks
    assert measuring.measure(small, never) == 0
    for (run_id, model), kinds in zip(runs, (["as trained", "re-estimated"], ["as trained"]), strict=True):
        found = {name: read_artifact(run_id, name.path, logged_measure(name)) for name in Measure}
        assert found[Measure.WEIGHTS]["zero_share"].tolist() == [robustness.zero_share(model)]
        assert found[Measure.STATISTICS]["statistics"].tolist() == kinds
        shifts = found[Measure.SHIFT]
        assert shifts["corruption"].tolist() == ["none"] * len(kinds) + ["inversion"] * len(kinds)
        more = ["batches of 32"] * (len(kinds) - 1)
        striped = found[Measure.MNIST_C]
        assert striped["statistics"].tolist() == 2 * [*kinds, *more]
        assert striped["corruption"].tolist() == ["none"] * len(striped[::2]) + ["stripe"] * len(striped[::2])
        answers = evaluate(model, FEW.test)
        quarter = evaluate(model, FEW.test.take(torch.arange(0, 500, 4)))
        assert found[Measure.STATISTICS]["accuracy"][0] == pytest.approx(answers.accuracy)
        assert shifts.loc[shifts["severity"] == 0, "accuracy"].tolist()[0] == pytest.approx(quarter.accuracy)
        [sure] = found[Measure.CALIBRATION].to_dict(orient="records")
        assert 0.001 < sure["temperature"] < 1000
        assert sure["nll"] == pytest.approx(answers.loss, rel=1e-4)
        assert found[Measure.TRAINING]["accuracy"].tolist() == [pytest.approx(evaluate(model, FEW.train).accuracy)]
        assert found[Measure.CROSSFIT]["nll"].mean() == pytest.approx(answers.loss, rel=1e-4)
        assert found[Measure.RELIABILITY].groupby("scaled")["count"].sum().tolist() == [500, 500]


def test_weights_of_another_network_are_refused_in_one_line(store: str) -> None:
    run_id, _ = finished(CONFIGS[1])
    for content in (weights_of(DigitNet("gn", network="small")), b"no weights"):
        log_weights(run_id, content)
        with pytest.raises(ReportError, match=rf"^run {run_id}: [^\n]*the weights of this network$"):
            measuring.trained(CONFIGS[1], run_id)


def test_what_cannot_be_measured_is_refused_in_one_line(store: str) -> None:
    with pytest.raises(ReportError, match=r"BN is missing \(no run with trial key .*; GN is missing"):
        measuring.measure(asking("weights"), never)
    with pytest.raises(ConfigError, match="calibration: needs val_size above 0"):
        measuring.calibrated(replace(DATA, val=None))
    with pytest.raises(ConfigError, match=r"^experiment=mine: names no MEASURES; choose from weights, statistics, "):
        measuring.measure(asking(), never)
