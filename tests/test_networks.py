"""What is said of trained networks on their training images, and of their temperature, from tables made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tables import made, measured, of_kind, said, steady, trials

from normstudy.config import TrainConfig
from normstudy.data import load_data
from normstudy.evaluate import evaluate
from normstudy.launch.measure import WAYS
from normstudy.model import DigitNet
from normstudy.report import networks
from normstudy.report.tables import OverfittingTables, TemperatureTables
from normstudy.robustness import cross_fitted, fitted_temperature
from normstudy.tracking import Measure
from normstudy.train import initial_model


def test_each_fold_is_scaled_by_the_temperature_of_the_others() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(500, 10, generator=generator)
    labels = (logits + 4 * torch.randn(500, 10, generator=generator)).argmax(1)
    table = cross_fitted(logits, labels)
    assert table["fold"].tolist() == list(range(10))
    own = torch.arange(500) % 10 == 3
    fitted = fitted_temperature(logits[~own].double(), labels[~own])
    row = table.iloc[3]
    assert row["temperature"] == pytest.approx(fitted)
    assert row["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits[own].double(), labels[own]).item())
    scaled = torch.nn.functional.cross_entropy(logits[own].double() / fitted, labels[own]).item()
    assert row["nll_scaled"] == pytest.approx(scaled)
    assert set(table["temperature_all"]) == {fitted_temperature(logits.double(), labels)}
    assert table["temperature"].nunique() == 10


@pytest.mark.usefixtures("small_test_set")
def test_a_network_is_measured_on_its_training_images_as_they_are_and_on_test_images_by_fold() -> None:
    config = TrainConfig(train_size=500)
    data, model = load_data(config, torch.device("cpu")), initial_model(config)
    assert isinstance(model, DigitNet)
    [clean] = WAYS[Measure.TRAINING](data)(model)[Measure.TRAINING].itertuples(index=False)
    found = evaluate(model, data.train)
    assert (clean.accuracy, clean.loss) == (found.accuracy, found.loss)
    folds = WAYS[Measure.CROSSFIT](data)(model)[Measure.CROSSFIT]
    expected = cross_fitted(evaluate(model, data.test).logits, data.test.labels)
    pd.testing.assert_frame_equal(folds, expected)


def test_the_gap_to_the_training_images_is_compared_and_the_smaller_one_is_better() -> None:
    tables = made(trials("overfitting", seeds=10), steady(gn=0.99, ln=0.99, bn=0.99))
    gaps = {"gn": 0.002, "ln": 0.004, "bn": 0.0021}

    def clean(config: TrainConfig) -> list[dict[str, object]]:
        return [{"accuracy": 0.99 + 0.0001 * config.seed + gaps[config.norm] + 1e-5 * (config.seed % 3), "loss": 0.01}]

    told = of_kind(OverfittingTables, tables, training=measured(tables, clean))
    first, *_ = found = said("overfitting", told)
    assert first.startswith("GN is right on 99.3")
    assert "a gap of 0.201 points (95 % interval 0.200 to 0.202, n = 10 seeds)." in first
    [verdicts] = [text for text in found if text.startswith("Differences")]
    assert "GN has a smaller gap than LN;" in verdicts
    assert "GN and BN are different, but within the margin;" in verdicts
    assert "| GN | " in networks.overfitting_table(told)
    assert set(networks.overfitting_figures(told)) == {"gaps"}
    single = made(trials("overfitting", seeds=1), steady(gn=0.99, ln=0.99, bn=0.99))
    alone = of_kind(OverfittingTables, single, training=measured(single, clean))
    assert networks.overfitting_figures(alone) == {}
    assert any("No comparison" in text for text in said("overfitting", alone))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, "is not shown to be over- or under-confident:"), (0.5, "is over-confident:"), (-0.5, "is under-confident:")],
)
def test_confidence_is_told_by_seeds_and_folds_together(shift: float, expected: str) -> None:
    tables = made(trials("temperature", seeds=6), steady(gn=0.99, ln=0.99, bn=0.99))
    noise = np.random.default_rng(0).normal(0, 0.1, (50, 10))

    def folds(config: TrainConfig) -> list[dict[str, object]]:
        every = 1 + shift + noise[config.seed].mean()
        return [
            {
                "fold": fold,
                "temperature": (10 * every - (1 + shift + noise[config.seed, fold])) / 9,
                "temperature_all": every,
                "nll": 0.015,
                "nll_scaled": 0.015 - 0.001 * shift,
            }
            for fold in range(10)
        ]

    told = of_kind(TemperatureTables, tables, crossfit=measured(tables, folds))
    assert said("temperature", told)[0].startswith(f"GN {expected} temperature ")
    pseudo = networks.pseudo_values(told.crossfit[told.crossfit["group"] == "GN"], "temperature")
    np.testing.assert_allclose(pseudo, 1 + shift + noise[10:16])
    facts = networks.temperature_facts(told)["groups"]["GN"]
    assert facts["change"] == pytest.approx(-0.001 * shift, abs=1e-12)
    assert facts["temperature_interval"][0] < facts["temperature"] < facts["temperature_interval"][1]
    assert "| GN | 6 | " in networks.temperature_table(told)


def test_one_network_is_too_few_to_tell() -> None:
    tables = made([TrainConfig(norm="gn")], lambda config: 0.99)
    row = {"temperature": 1.1, "temperature_all": 1.1, "nll": 0.01, "nll_scaled": 0.01}
    told = of_kind(
        TemperatureTables, tables, crossfit=measured(tables, lambda config: [{"fold": f, **row} for f in range(10)])
    )
    assert said("temperature", told)[0].startswith("GN is one network, too few to tell")
