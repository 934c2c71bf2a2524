"""Intervals and paired tests, against values worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem, t, ttest_ind, ttest_rel
from statsmodels.stats.weightstats import ttost_paired

from normstudy.stats import (
    MARGIN,
    Comparison,
    Verdict,
    accuracy_interval,
    compare_pairs,
    decide,
    difference_p_value,
    holm,
    mean_interval,
    paired_p_value,
    seeds_for_power,
    seeds_to_decide,
    tost_p_value,
)


def accuracies(**points: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """Accuracies that lie this many points of accuracy above 99 %; a row a seed."""
    return pd.DataFrame({name: 0.99 + np.asarray(values) / 100 for name, values in points.items()})


def test_accuracy_interval_is_wilsons() -> None:
    errors, images, z = 60, 10_000, 1.959963984540054
    p = 1 - errors / images
    centre = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    assert accuracy_interval(errors, images) == pytest.approx((centre - half, centre + half))


def test_paired_test_is_the_exact_binomial_of_the_images_that_one_alone_gets_wrong() -> None:
    shared = set(range(100, 150))
    assert paired_p_value(shared | {1, 2, 3, 4, 5, 6}, shared) == pytest.approx(2 / 2**6)
    assert paired_p_value(shared | {1, 2, 3}, shared | {4, 5, 6}) == pytest.approx(1.0)
    assert paired_p_value(shared, shared) == 1.0


def one_pair(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, **options: Any) -> Comparison:
    """The comparison of two variants whose accuracies lie this many points above 99 %."""
    [found] = compare_pairs(accuracies(a=a, b=b), [("a", "b")], **options)
    return found


def test_p_values_of_several_tests_are_corrected_by_holms_steps() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_interval_of_a_mean_is_students() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.7])
    assert mean_interval(values) == pytest.approx(t.interval(0.95, 3, loc=values.mean(), scale=sem(values)))
    assert mean_interval(values[:2]) == pytest.approx(t.interval(0.95, 1, loc=0.25, scale=0.15))
    wide, narrow = mean_interval(values, confidence=0.995), mean_interval(values)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.3, 0.1 + 0.2, 0.3]], ids=["equal", "equal but for rounding"])
def test_interval_of_equal_values_has_no_width(values: list[float]) -> None:
    assert mean_interval(np.array(values)) == (values[0], values[0])


def test_interval_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two values or more, not 1"):
        mean_interval(np.array([0.5]))


@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 3])
def test_intervals_hold_the_mean_as_often_as_they_say(confidence: float) -> None:
    """Of ten accuracies, each the share of 10,000 images whose errors are drawn independently, as seeds' errors are."""
    means = 1 - np.random.default_rng(0).binomial(10_000, 0.005, size=(20_000, 10)) / 10_000
    held = [low <= 0.995 <= high for low, high in (mean_interval(values, confidence=confidence) for values in means)]
    assert np.mean(held) == pytest.approx(confidence, abs=0.01)


def test_equal_variants_are_seldom_told_apart_and_two_margins_are_found_as_often_as_planned() -> None:
    generator, n = np.random.default_rng(0), seeds_for_power(0.0007, 2 * MARGIN)
    assert n is not None
    noise = generator.normal(0, 0.0007, size=(2_000, n))

    def found(shift: float) -> float:
        tables = (pd.DataFrame({"a": 0.99 + shift + row, "b": 0.99}) for row in noise)
        return float(np.mean([compare_pairs(one, [("a", "b")])[0].p < 0.05 for one in tables]))

    assert found(0.0) <= 0.065  # 5 %, and three standard errors of 2,000 studies
    assert found(2 * MARGIN) >= 0.78


@pytest.mark.parametrize(
    ("p", "tost_p", "verdict"),
    [
        (1.0, 0.049, Verdict.EQUIVALENT),
        (0.001, 0.001, Verdict.WITHIN_MARGIN),  # certain, and too small to matter
        (0.049, 0.05, Verdict.BETTER),
        (0.05, 0.05, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict_rests_on_both_tests(p: float, tost_p: float, verdict: Verdict) -> None:
    assert decide(p, tost_p) is verdict


def test_verdict_and_interval_never_disagree() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for shift in np.linspace(-0.15, 0.15, 61):
        values = accuracies(a=shift + 0.05 * generator.normal(size=10), b=np.zeros(10), c=0.01 * np.arange(10))
        pair = compare_pairs(values, [("a", "b"), ("a", "c"), ("b", "c")])[0]
        excludes_zero = not pair.low <= 0 <= pair.high
        assert (pair.p_adjusted < 0.05) == excludes_zero
        assert (pair.tost_p_adjusted < 0.05) == (pair.smallest_margin < MARGIN)
        seen.add(pair.verdict)
    assert seen == {*Verdict}


def test_sure_difference_of_more_than_the_margin_makes_one_better() -> None:
    noise = 0.01 * np.arange(10)
    assert one_pair(0.3 + noise, np.zeros(10)).winner == "a"
    assert one_pair(np.zeros(10), 0.3 + noise).winner == "b"
    assert one_pair(0.3 + noise, np.zeros(10), higher_is_better=False).winner == "b"


def test_paired_test_and_equivalence_are_those_of_scipy_and_statsmodels() -> None:
    a, b = np.random.default_rng(3).normal(0.99, 0.001, size=(2, 8))
    [pair] = compare_pairs(pd.DataFrame({"a": a, "b": b}), [("a", "b")])
    assert pair.p == pytest.approx(ttest_rel(a, b).pvalue)
    assert pair.tost_p == pytest.approx(ttost_paired(a, b, -MARGIN, MARGIN)[0])


def test_variants_that_share_few_seeds_are_compared_by_welchs_test() -> None:
    a, b = np.random.default_rng(3).normal(0.99, [[0.001], [0.003]], size=(2, 8))
    [pair] = compare_pairs(pd.DataFrame({"a": a, "b": b}), [("a", "b")], paired=False)
    assert not pair.paired
    assert pair.p == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)
    apart = pd.DataFrame({"a": [*a, *[np.nan] * 7], "b": [*[np.nan] * 7, *b]})  # one seed in common
    [other] = compare_pairs(apart, [("a", "b")])
    assert not other.paired
    assert other.p == pytest.approx(pair.p)


def test_variants_are_paired_on_the_seeds_that_both_have() -> None:
    values = accuracies(a=[0.1, 0.2, 0.4, np.nan], b=[0.0, 0.2, 0.1, 0.9])
    [pair] = compare_pairs(values, [("a", "b")])
    assert (pair.n, pair.paired) == (3, True)
    assert pair.difference == pytest.approx((0.1 + 0.0 + 0.3) / 3 / 100)


def test_several_comparisons_are_adjusted_together() -> None:
    values = accuracies(a=[0.3, 0.1, 0.4, 0.2], b=[0.1, 0.0, 0.3, 0.0], c=[0.2, 0.5, 0.1, 0.0])
    alone = compare_pairs(values, [("a", "b")])[0]
    together = compare_pairs(values, [("a", "b"), ("a", "c"), ("b", "c")])[0]
    assert together.p == alone.p
    assert together.p_adjusted == pytest.approx(min(1, 3 * alone.p))
    assert together.low < alone.low < alone.high < together.high


def test_differences_that_are_all_the_same_have_the_p_value_of_the_sign_test() -> None:
    pair = one_pair(np.full(10, 0.2), np.zeros(10))
    assert (pair.low, pair.difference, pair.high) == pytest.approx((0.002, 0.002, 0.002))
    assert pair.p == pytest.approx(2 / 2**10)
    assert pair.winner == "a"
    assert one_pair(np.full(10, 0.05), np.zeros(10)).tost_p == pytest.approx(1 / 2**10)
    assert one_pair(np.full(3, 0.2), np.zeros(3)).verdict is Verdict.INCONCLUSIVE
    assert one_pair(np.zeros(10), np.zeros(10)).verdict is Verdict.EQUIVALENT


def test_two_seeds_decide_nothing() -> None:
    assert one_pair([5.0, 5.1], [0.0, 0.0]).verdict is Verdict.INCONCLUSIVE
    one = one_pair([5.0], [0.0])
    assert (one.verdict, one.p) == (Verdict.INCONCLUSIVE, 1.0)


def test_seeds_that_would_decide_are_enough_and_one_less_is_not() -> None:
    values = np.random.default_rng(1).normal(0.05, 0.2, size=8)
    pair = one_pair(values, np.zeros(8))
    n = seeds_to_decide(pair)
    assert pair.verdict is Verdict.INCONCLUSIVE
    assert n is not None

    def decided(seeds: int) -> bool:
        error = pair.error * math.sqrt(8 / seeds)
        p = difference_p_value(pair.difference, error, seeds - 1.0)
        return decide(p, tost_p_value(pair.difference, error, seeds - 1.0, MARGIN)) is not Verdict.INCONCLUSIVE

    assert decided(n)
    assert not decided(n - 1)
    assert seeds_to_decide(one_pair(1 + values, np.zeros(8))) is None


def test_power_needs_a_deviation_and_a_margin() -> None:
    assert seeds_for_power(1e-9, 0.1) == 3
    assert seeds_for_power(0.1, 1e-4) is None
    with pytest.raises(ValueError, match="must be above 0"):
        seeds_for_power(0.0, 0.1)
