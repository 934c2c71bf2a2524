"""Seeds and images as crossed samples, against simulations and statsmodels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.tables import made
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from normstudy.config import TrainConfig
from normstudy.experiment import About
from normstudy.report.tables import ErrorTables
from normstudy.report.variance import correct, crossed, disagreement, two_samples


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    values = np.random.default_rng(0).normal(size=(4, 9)) + np.arange(9) + np.arange(4)[:, None]
    long = pd.DataFrame([(s, i, values[s, i]) for s in range(4) for i in range(9)], columns=["s", "i", "y"])
    table = anova_lm(ols("y ~ C(s) + C(i)", long).fit())
    square = table["mean_sq"]
    found = crossed(values)
    assert found.ratio == pytest.approx(table["F"]["C(s)"])
    assert found.p == pytest.approx(table["PR(>F)"]["C(s)"])
    assert found.error == pytest.approx(((square["C(s)"] + square["C(i)"] - square["Residual"]) / 36) ** 0.5)
    assert found.seed_error == pytest.approx((square["C(s)"] / 36) ** 0.5)
    assert found.seed_deviation == pytest.approx(((square["C(s)"] - square["Residual"]) / 9) ** 0.5)


def test_standard_errors_are_those_of_means_over_new_seeds_and_new_images() -> None:
    generator, means, errors, seed_deviations = np.random.default_rng(0), [], [], []
    for _ in range(400):
        seeds, images = generator.normal(0, 0.02, size=(6, 1)), generator.normal(0, 0.3, size=(1, 200))
        values = 0.9 + seeds + images + generator.normal(0, 0.2, size=(6, 200))
        found = crossed(values)
        means.append(found.mean)
        errors.append(found.error**2)
        seed_deviations.append(found.seed_deviation**2)
    assert np.mean(errors) == pytest.approx(np.var(means), rel=0.15)
    assert np.mean(seed_deviations) == pytest.approx(0.02**2, rel=0.15)


def test_independent_errors_give_no_variance_of_their_own_to_the_seeds() -> None:
    generator = np.random.default_rng(0)
    p = generator.beta(0.05, 2, size=1_000)
    ratios = [crossed((generator.random((8, 1_000)) < p).astype(float)) for _ in range(300)]
    assert np.mean([one.ratio for one in ratios]) == pytest.approx(1.0, abs=0.06)
    assert np.mean([one.p < 0.05 for one in ratios]) <= 0.09


def test_one_seed_has_no_variance() -> None:
    with pytest.raises(ValueError, match="needs two or more, not 1"):
        crossed(np.ones((1, 5)))


def two_norms(shared: int, own: int) -> ErrorTables:
    """GN and LN with six seeds, each misclassifying `shared` images of all and `own` of its norm alone, and as many of
    its own chance."""

    def wrong(config: TrainConfig) -> list[int]:
        first = 100 if config.norm == "gn" else 200
        count = 20 + (3 * config.seed + first) % 7
        chance = np.random.default_rng(config.seed + first).integers(1_000, 10_000, size=count)
        return sorted({*range(shared), *range(first, first + own), *map(int, chance)})

    configs = [TrainConfig(norm=norm, seed=seed) for seed in range(6) for norm in ("gn", "ln")]
    return made(configs, lambda config: 1 - len(wrong(config)) / 10_000, wrong=wrong)


def test_networks_of_two_norms_disagree_more_where_each_norm_has_errors_of_its_own() -> None:
    within, between, p = disagreement(two_norms(shared=20, own=10), ["GN", "LN"])
    assert between == pytest.approx(within + 20, abs=1)
    assert p < 0.05
    _, _, p = disagreement(two_norms(shared=20, own=0), ["GN", "LN"])
    assert p > 0.05


def test_networks_are_compared_between_the_groups_that_the_experiment_calls_confirmatory() -> None:
    tables = two_norms(shared=20, own=10)
    found = two_samples(tables)
    assert found["disagreeing"] == ["GN", "LN"]
    assert found["disagreement"] == disagreement(tables, ["GN", "LN"])
    [pair] = found["pairs"]
    both = crossed(correct(tables, "GN") - correct(tables, "LN"))
    assert (pair["a"], pair["b"], pair["error"], pair["seed_error"]) == ("GN", "LN", both.error, both.seed_error)
    configs = [config for seed in range(4) for config in (TrainConfig(seed=seed), TrainConfig(norm="ln", seed=seed))]
    more = [*configs, *(TrainConfig(norm="bn", seed=seed) for seed in range(4))]
    planned = made(more, lambda config: 0.99, wrong=lambda config: [config.seed, 50 + len(config.norm)])
    about = About(confirmatory=(("GN", "LN"),))
    assert two_samples(replace(planned, about=about))["disagreeing"] == ["GN", "LN"]
    assert two_samples(planned)["disagreeing"] == ["GN", "LN", "BN"]
