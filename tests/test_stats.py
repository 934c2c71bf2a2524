"""Intervals and paired tests, against values worked out by hand."""

import math

import pytest

from normstudy.stats import accuracy_interval, paired_p_value


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
