"""Shift and calibration in words, from tables made by hand."""

from typing import Any

import pytest
from helpers.tables import made, measured, of_kind, said, steady, trials

from normstudy.config import TrainConfig
from normstudy.report import measures
from normstudy.report.tables import CalibrationTables, ShiftTables

NORMS = {"bn": 0.5, "gn": 0.7, "ln": 0.7, "in": 0.65, "none": 0.4}
ACCURATE = steady(**dict.fromkeys(NORMS, 0.98))


def shifted(*, seeds: int = 5) -> ShiftTables:
    """Rotation: what NORMS says at severity 1, 0.2 less at 5; noise: 0.1 more than rotation; clean images: 0.98.

    BN's new statistics add 0.1 throughout. Each seed adds 0.001.
    """

    def rows(config: TrainConfig) -> list[dict[str, Any]]:
        base = NORMS[config.norm] + 0.001 * config.seed
        found = [("none", 0, 0.98), ("noise", 1, base + 0.1), ("noise", 5, base - 0.1), ("rotation", 1, base)]
        kinds = {"as trained": 0.0} | ({"re-estimated": 0.1} if config.norm == "bn" else {})
        return [
            {"statistics": kind, "corruption": name, "severity": severity, "accuracy": value + added, "loss": 1.0}
            for name, severity, value in [*found, ("rotation", 5, base - 0.2)]
            for kind, added in kinds.items()
        ]

    tables = made(trials("shift", seeds=seeds), ACCURATE)
    return of_kind(ShiftTables, tables, shift=measured(tables, rows))


def test_shifted_means_average_corruptions_and_severities_without_the_clean_images() -> None:
    means = measures.shifted_means(shifted())
    assert means.columns.tolist() == ["BN", "BN, re-estimated", "GN", "LN", "IN", "NONE"]
    # (0.6 + 0.4 + 0.5 + 0.3) / 4 of BN's seed 0
    expected = {"BN": 0.45, "BN, re-estimated": 0.55, "GN": 0.65, "LN": 0.65, "IN": 0.6, "NONE": 0.35}
    assert means.loc[0].to_dict() == pytest.approx(expected)
    assert means.loc[4].to_dict() == pytest.approx({name: value + 0.004 for name, value in expected.items()})


def test_shift_ranks_compares_with_bn_as_trained_and_names_the_hardest_corruption() -> None:
    found = said("shift", shifted())
    assert found[0] == (
        "Mean accuracy over 2 corruptions, severities 1 to 5, n = 5 seeds each: GN 65.2 %, LN 65.2 %, IN 60.2 %, "
        'BN, re-estimated 55.2 %, BN 45.2 %, NONE 35.2 % ("re-estimated": with mean and variance of the shifted '
        "images)."
    )
    pairs = [(pair.a, pair.b) for pair in measures.shift_pairs(shifted())]
    assert pairs == [(name, "BN") for name in ("BN, re-estimated", "GN", "LN", "IN", "NONE")]
    assert found[2].startswith("BN, re-estimated minus BN +10.000 points (")
    # at severity 5 of rotation: GN 0.5 + 0.002 in the mean, NONE 0.2 + 0.002
    assert found[-1] == "Hardest at severity 5, as trained, is rotation: from 20.2 % (NONE) to 50.2 % (GN)."


def calibrated(temperatures: dict[str, list[float]], *, seeds: int = 3) -> CalibrationTables:
    def rows(config: TrainConfig) -> list[dict[str, Any]]:
        temperature = temperatures[config.norm][config.seed]
        return [{"temperature": temperature, "nll": 0.04, "nll_scaled": 0.035, "ece": 0.004, "ece_scaled": 0.0015}]

    def bins(config: TrainConfig) -> list[dict[str, Any]]:
        return [
            {"scaled": scaled, "bin": 14, "count": 10_000, "confidence": 0.99, "accuracy": 0.98} for scaled in (0, 1)
        ]

    configs = [one.model_copy(update={"seed": seed}) for seed in range(seeds) for one in trials("calibration", seeds=1)]
    tables = made(configs, ACCURATE)
    return of_kind(CalibrationTables, tables, calibration=measured(tables, rows), reliability=measured(tables, bins))


def test_confidence_is_judged_by_the_interval_of_the_temperature() -> None:
    found = said("calibration", calibrated({"gn": [1.2, 1.25, 1.15], "ln": [0.85, 0.8, 0.75], "bn": [0.9, 1.3, 1.1]}))
    assert [text.split(" (")[0] for text in found] == [
        "GN is over-confident: temperature 1.20",
        "LN is under-confident: temperature 0.80",
        "BN + L1 is neither over- nor under-confident: temperature 1.10",
    ]
    assert found[0].endswith(
        "n = 3 seeds); calibration error (ECE) 0.40 points before and 0.15 after scaling, log-likelihood loss (NLL) "
        "0.0400 and 0.0350 nats."
    )


def test_one_network_is_not_called_over_or_under_confident() -> None:
    [text, *_] = said("calibration", calibrated({"gn": [1.2], "ln": [0.8], "bn": [1.0]}, seeds=1))
    assert text.startswith("GN is one network, too few to tell over- from under-confident: temperature 1.20 (n = 1); ")
