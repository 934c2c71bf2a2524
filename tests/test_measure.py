"""Corruptions do what they say, re-estimated statistics are those of the images, temperature and ECE known ones."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from normstudy import config
from normstudy.data import Split, normalise
from normstudy.evaluate import evaluate
from normstudy.model import NORMS, DigitNet, penalised_weights
from normstudy.robustness import (
    CORRUPTIONS,
    SEVERITIES,
    STRENGTHS,
    ZERO,
    calibration,
    corrupted,
    expected_calibration_error,
    re_estimated,
    reliability,
    shift_table,
    shifted,
    with_batch_statistics,
    zero_share,
)

BATCH_NORM, IMAGES = "bn", 600  # three batches of re-estimation


def strokes(count: int = IMAGES) -> Split:
    """Dark pictures with one bright bar each, of many lengths, away from the edges."""
    generator = torch.Generator().manual_seed(5)
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    for image, length in zip(images, torch.randint(6, 20, (count,), generator=generator), strict=True):
        image[0, 4 : 4 + length, 12:15] = 220
    labels = torch.randint(10, (count,), generator=generator)
    return Split(images=images, labels=labels, indices=torch.arange(count))


def network(norm: str) -> DigitNet:
    """A network that is no longer as it was drawn: BatchNorm has seen a batch."""
    torch.manual_seed(0)
    model = DigitNet(norm)
    model(3 * torch.randn(50, 1, 28, 28))
    return model


def distance(name: str, severity: int) -> float:
    images = strokes().images
    return (corrupted(images, name, severity).float() - images.float()).abs().mean().item()


DISTANCES = {  # grey levels by which a pixel of `strokes` differs in the mean, at severity 1 to 5
    "noise": (8.32, 16.47, 24.51, 32.49, 40.30),
    "blur": (1.81, 6.04, 9.16, 11.57, 13.36),
    "contrast": (6.11, 10.01, 13.98, 15.93, 18.00),
    "brightness": (25.00, 49.28, 73.08, 96.88, 120.69),
    "rotation": (8.63, 14.29, 16.30, 17.20, 17.65),
    "occlusion": (2.57, 7.83, 15.90, 26.74, 40.50),
    "inversion": (50.33, 100.66, 150.99, 201.32, 251.64),
}


def test_the_configuration_names_every_corruption() -> None:
    assert config.CORRUPTIONS == tuple(CORRUPTIONS) == tuple(STRENGTHS)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_changes_the_images_more_by_as_much_as_when_runs_were_measured(name: str) -> None:
    assert [distance(name, severity) for severity in SEVERITIES] == pytest.approx(DISTANCES[name], abs=0.02)
    assert distance(name, 3) == distance(name, 3)  # always the same draws


def test_rotation_turns_even_images_one_way_and_odd_ones_the_other() -> None:
    bar = torch.zeros(28, 28, dtype=torch.uint8)
    bar[4:24, 12:16] = 255
    even, odd = corrupted(bar.expand(2, 1, 28, 28), "rotation", 2)[:, 0]
    assert not torch.equal(even, odd)
    assert torch.equal(even, odd.flip(1))
    x = torch.arange(28) - 13.5
    weights = even.float() / even.sum()
    tilt = (weights * x[:, None] * x).sum() / (weights * (x[:, None] ** 2 - x**2)).sum()
    assert abs(math.degrees(0.5 * math.atan(2 * tilt))) == pytest.approx(STRENGTHS["rotation"][1], abs=0.5)


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_is_asked_twice_and_every_network_stays_as_it_is(norm: str) -> None:
    test, model = strokes(40), network(norm)
    shifts = [("none", 0, test), ("inversion", 5, shifted(test)[-1][2])]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = shift_table(model, shifts)
    assert list(table) == ["statistics", "corruption", "severity", "accuracy", "loss"]
    ways = ["as trained", "re-estimated"] if norm == BATCH_NORM else ["as trained"]
    expected = [(way, name, severity) for name, severity, _ in shifts for way in ways]
    assert list(table.iloc[:, :3].itertuples(index=False, name=None)) == expected
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(layer.momentum == 0.1 for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    for place, (_, _, split) in enumerate(shifts):
        answers = evaluate(model, split)
        row = table[table["statistics"] == "as trained"].iloc[place]
        assert (row["accuracy"], row["loss"]) == (answers.accuracy, answers.loss)


def test_re_estimated_statistics_are_those_of_all_images() -> None:
    images, model = corrupted(strokes().images, "contrast", 3), network(BATCH_NORM)
    layer = re_estimated(model, images).features[2]
    assert isinstance(layer, nn.BatchNorm2d)
    inputs = model.features[:2](normalise(images)).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, inputs.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var, inputs.var(dim=1), rtol=0.02, atol=1e-5)  # less that of batch means


def test_statistics_of_a_batch_are_those_of_its_own_images_and_the_network_stays_as_it_is() -> None:
    test, model = strokes(70), network(BATCH_NORM)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = with_batch_statistics(model, test, 32)  # two batches of 35
    reference = deepcopy(model).train()
    for first in range(2):
        expected = reference(normalise(test.images[first::2])).detach()
        torch.testing.assert_close(found.logits[first::2], expected, rtol=1e-4, atol=1e-4)
    assert found.accuracy == (found.logits.argmax(1) == test.labels).double().mean().item()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    table = shift_table(model, [("none", 0, test)], batch=32)
    assert table["statistics"].tolist() == ["as trained", "re-estimated", "batches of 32"]
    assert table["loss"].tolist()[2] == found.loss
    assert shift_table(network("gn"), [("none", 0, test)], batch=32)["statistics"].tolist() == ["as trained"]


def calibrated(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 10, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_recovers_the_factor_of_the_logits_and_keeps_the_accuracy(factor: float) -> None:
    (val_logits, val_labels), (logits, labels) = calibrated(40_000, 1), calibrated(40_000, 2)
    found = calibration(factor * val_logits, val_labels, factor * logits, labels)
    assert found.temperature == pytest.approx(factor, rel=0.02)
    assert found.ece_scaled < 0.01
    assert found.nll_scaled == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-3)
    assert found.nll == pytest.approx(nn.functional.cross_entropy(factor * logits, labels).item(), abs=1e-5)
    if factor != 1:
        assert found.ece > 0.1
        assert found.nll > found.nll_scaled + 0.1
    table = found.reliability
    assert list(table) == ["scaled", "bin", "count", "confidence", "accuracy"]
    correct = (table["count"] * table["accuracy"]).groupby(table["scaled"]).sum()
    assert correct.tolist() == pytest.approx([(logits.argmax(1) == labels).sum().item()] * 2)


def with_confidence(values: list[float]) -> torch.Tensor:
    """Logits of two classes that predict 0, with these probabilities."""
    confidence = torch.tensor(values, dtype=torch.float64)
    return torch.stack([confidence, 1 - confidence], dim=1).log()


def test_error_of_an_over_confident_network_is_the_one_by_hand() -> None:
    # bin 13 (0.867 to 0.933): two of four right at 0.9; bin 9 (0.6 to 0.667): one of one right at 0.65
    bins = reliability(with_confidence([0.9, 0.9, 0.9, 0.9, 0.65]), torch.tensor([0, 0, 1, 1, 0]))
    assert bins["bin"].tolist() == [9, 13]
    assert bins["count"].tolist() == [1, 4]
    assert bins["accuracy"].tolist() == [1, 0.5]
    assert bins["confidence"].tolist() == pytest.approx([0.65, 0.9])
    assert expected_calibration_error(bins) == pytest.approx(4 / 5 * 0.4 + 1 / 5 * 0.35)


def test_bins_are_closed_above_and_the_last_holds_certainty() -> None:
    sure = torch.tensor([[1000.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert reliability(sure, torch.tensor([0, 0]))["bin"].tolist() == [7, 14]
    third = torch.zeros(1, 3, dtype=torch.float64)  # 1/3 is the upper edge of the fifth bin
    assert reliability(third, torch.tensor([0]))["bin"].tolist() == [4]


def test_zero_share_counts_penalised_weights_below_the_threshold_alone() -> None:
    model = DigitNet("gn")
    weights = penalised_weights(model)
    for parameter in model.parameters():
        parameter.data.zero_()  # the norms' scales and shifts too: they must not count
    assert zero_share(model) == 1
    for weight in weights:
        weight.data.fill_(-0.5)
    assert zero_share(model) == 0
    weights[0].data.fill_(0.99 * ZERO)
    weights[1].data.fill_(-0.99 * ZERO)
    weights[2].data.fill_(1.01 * ZERO)
    small = weights[0].numel() + weights[1].numel()
    assert zero_share(model) == pytest.approx(small / sum(weight.numel() for weight in weights))
