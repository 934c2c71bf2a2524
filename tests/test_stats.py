"""Intervals and paired tests, against values worked out by hand."""

import math

import numpy as np
import pytest

from normstudy.stats import (
    accuracy_interval,
    mean_interval,
    paired_mean_p_value,
    paired_p_value,
    smallest_paired_p_value,
)


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


def test_same_errors_give_no_evidence() -> None:
    assert paired_p_value({1, 2}, {1, 2}) == 1.0
    assert paired_p_value(set(), set()) == 1.0


def test_mean_interval_is_students() -> None:
    half = 4.302652729911275 / math.sqrt(3)  # the t quantile of 2 degrees of freedom; a standard deviation of 1
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - half, 2 + half))
    assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5)


def test_mean_interval_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two values or more, not 1"):
        mean_interval(np.array([0.5]))


@pytest.mark.parametrize("pairs", [2, 5, 10, 100])
def test_paired_means_that_all_differ_the_same_way_have_the_smallest_p_value(pairs: int) -> None:
    b = np.random.default_rng(0).uniform(size=pairs)
    p = paired_mean_p_value(b + 0.01, b, np.random.default_rng(0))
    assert p == pytest.approx(smallest_paired_p_value(pairs))
    assert paired_mean_p_value(b, b + 0.01, np.random.default_rng(0)) == pytest.approx(p)


def test_paired_means_are_counted_over_all_ways_round() -> None:
    # sums of +-1 +-2 +-3: 8 ways, of which 0, 0, 2, -2, 4, -4, 6, -6; at least 4 in size: 4 of 8
    assert paired_mean_p_value(np.array([-1.0, 2.0, 3.0]), np.zeros(3), np.random.default_rng(0)) == 4 / 8


def test_equal_means_give_no_evidence() -> None:
    same = np.array([0.99, 0.98, 0.97])
    assert paired_mean_p_value(same, same, np.random.default_rng(0)) == 1.0
