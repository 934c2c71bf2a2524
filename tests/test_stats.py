"""Intervals and paired tests, against values worked out by hand."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from normstudy.stats import (
    MARGIN,
    Verdict,
    accuracy_interval,
    bootstrap_interval,
    compare,
    decide,
    paired_mean_p_value,
    paired_p_value,
    smallest_paired_p_value,
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


@pytest.mark.parametrize("pairs", [2, 5, 10, 100])
def test_paired_means_that_all_differ_the_same_way_have_the_smallest_p_value(pairs: int) -> None:
    b = np.random.default_rng(0).uniform(size=pairs)
    p = paired_mean_p_value((b + 0.01) - b, np.random.default_rng(0))
    assert p == pytest.approx(smallest_paired_p_value(pairs))
    assert paired_mean_p_value(b - (b + 0.01), np.random.default_rng(0)) == pytest.approx(p)


def test_paired_means_are_counted_over_all_ways_round() -> None:
    # sums of +-1 +-2 +-3: 8 ways, of which 0, 0, 2, -2, 4, -4, 6, -6; at least 4 in size: 4 of 8
    assert paired_mean_p_value(np.array([-1.0, 2.0, 3.0]), np.random.default_rng(0)) == 4 / 8


def test_bootstrap_interval_is_the_one_that_was_reported() -> None:
    values = np.random.default_rng(3).exponential(size=12)
    assert bootstrap_interval(values, np.random.default_rng(0)) == pytest.approx((0.4399193878, 1.6493375839))


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.3, 0.1 + 0.2, 0.3]], ids=["equal", "equal but for rounding"])
def test_bootstrap_interval_of_equal_values_has_no_width(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = bootstrap_interval(np.array(values), np.random.default_rng(0))
    assert interval == (values[0], values[0])


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.0009, 0.0009, 1.0, Verdict.EQUIVALENT),
        (0.0002, 0.0009, 0.001, Verdict.EQUIVALENT),  # certain, and too small to matter
        (0.0002, MARGIN, 0.001, Verdict.BETTER),
        (-MARGIN, -0.0002, 0.001, Verdict.BETTER),
        (-MARGIN, 0.0009, 1.0, Verdict.UNDECIDED),
        (0.0002, 0.002, 0.05, Verdict.UNDECIDED),
        (0.0, 0.002, 0.001, Verdict.UNDECIDED),
        (-0.002, 0.0, 0.001, Verdict.UNDECIDED),
    ],
)
def test_equivalent_comes_first_then_better_then_undecided(low: float, high: float, p: float, verdict: Verdict) -> None:
    assert decide(low, high, p, MARGIN, tost_p=0.0) is verdict


def test_a_sure_difference_of_the_margin_or_more_makes_one_better() -> None:
    [one] = compare(accuracies(a=np.full(10, 0.1), b=np.zeros(10)), [("a", "b")], np.random.default_rng(0))
    assert (one.low, one.difference, one.high) == pytest.approx((0.001, 0.001, 0.001))
    assert (one.verdict, one.winner, one.n) == (Verdict.BETTER, "a", 10)
    assert one.p == pytest.approx(2 / 2**10)
    [other] = compare(accuracies(a=np.zeros(10), b=np.full(10, 0.1)), [("a", "b")], np.random.default_rng(0))
    assert (other.verdict, other.winner) == (Verdict.BETTER, "b")


def test_a_sure_difference_below_the_margin_is_equivalent_and_keeps_its_p_value() -> None:
    values = accuracies(a=np.full(10, 0.09), b=np.zeros(10))
    [one] = compare(values, [("a", "b")], np.random.default_rng(0))
    assert (one.verdict, one.winner) == (Verdict.EQUIVALENT, None)
    assert one.p == pytest.approx(2 / 2**10)
    [strict] = compare(values, [("a", "b")], np.random.default_rng(0), margin=0.0005)
    assert (strict.verdict, strict.winner) == (Verdict.BETTER, "a")


def test_five_seeds_can_not_show_a_difference_however_large() -> None:
    [one] = compare(accuracies(a=np.full(5, 0.9), b=np.zeros(5)), [("a", "b")], np.random.default_rng(0))
    assert one.verdict is Verdict.UNDECIDED
    assert one.p == pytest.approx(smallest_paired_p_value(5))


def test_p_values_are_corrected_by_holms_steps() -> None:
    # of 10 equal differences 0, 1 or 2 point the other way: 1, 1 + 10, 1 + 10 + 45 of 1,024 ways at least as far, twice
    values = accuracies(none=[1] * 10, one=[1] * 9 + [-1], two=[1] * 8 + [-1] * 2, base=[0] * 10)
    found = compare(values, [("two", "base"), ("none", "base"), ("one", "base")], np.random.default_rng(0))
    assert [each.p for each in found] == pytest.approx([112 / 1024, 3 * 2 / 1024, 2 * 22 / 1024])
    assert {each.comparisons for each in found} == {3}


def test_intervals_of_several_comparisons_hold_at_once() -> None:
    generator = np.random.default_rng(0)
    values = accuracies(a=generator.normal(size=12), b=generator.normal(size=12), c=generator.normal(size=12))
    first = compare(values, [("a", "b"), ("a", "c"), ("b", "c")], np.random.default_rng(1))[0]
    differences = (values["a"] - values["b"]).to_numpy()
    expected = bootstrap_interval(differences, np.random.default_rng(1), confidence=1 - 0.05 / 3)
    assert (first.low, first.high) == pytest.approx(expected)


def test_ways_round_that_tie_are_counted_although_accuracies_are_rounded() -> None:
    generator = np.random.default_rng(1)
    errors_a = generator.integers(30, 70, size=10)
    errors_b = errors_a + generator.integers(-8, 12, size=10)
    values = pd.DataFrame({"a": 1 - errors_a / 10_000, "b": 1 - errors_b / 10_000})
    [one] = compare(values, [("a", "b")], np.random.default_rng(0))
    assert one.p == paired_mean_p_value((errors_a - errors_b).astype(float), np.random.default_rng(0))


def test_comparisons_with_holes_are_refused() -> None:
    values = accuracies(a=[1, 2, 3], b=[1, 2, np.nan]).set_axis([7, 8, 9])
    with pytest.raises(ValueError, match="seed 9 of 'b' has no value"):
        compare(values, [("a", "b")], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"unknown variant 'c'; choose from \['a', 'b'\]"):
        compare(values, [("a", "c")], np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs two values or more, not 1"):
        compare(values[:1], [("a", "b")], np.random.default_rng(0))


@pytest.mark.parametrize(("tost_p", "verdict"), [(0.049, Verdict.EQUIVALENT), (0.05, Verdict.UNDECIDED)])
def test_equivalence_needs_the_one_sided_tests_too(tost_p: float, verdict: Verdict) -> None:
    assert decide(-0.0005, 0.0005, 1.0, MARGIN, tost_p=tost_p) is verdict


def test_one_sided_tests_are_students() -> None:
    values = np.array([0.0002, -0.0001, 0.0003, 0.0, 0.0001])
    mean, error = values.mean(), values.std(ddof=1) / 5**0.5
    assert tost_p_value(values, 0.001) == pytest.approx(t.cdf((mean - 0.001) / error, 4))
    assert tost_p_value(values, 0.0001) == pytest.approx(t.cdf((mean - 0.0001) / error, 4))


def test_differences_that_are_all_the_same_are_judged_without_a_warning() -> None:
    assert tost_p_value(np.zeros(5), 0.001) == 0.0
    assert tost_p_value(np.full(5, 0.002), 0.001) == 1.0


def test_three_seeds_close_together_are_not_yet_equivalent() -> None:
    values = pd.DataFrame({"a": [0.9951, 0.9959, 0.9949], "b": [0.9950, 0.9951, 0.9952]})
    [one] = compare(values, [("a", "b")], np.random.default_rng(0))
    assert max(-one.low, one.high) < MARGIN
    assert one.verdict is Verdict.UNDECIDED
