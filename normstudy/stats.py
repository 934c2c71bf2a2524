"""How sure a count of errors on one test set, or a mean over seeds, is. Pure functions on counts, sets and arrays."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, permutation_test, sem, t


def accuracy_interval(errors: int, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy, as fractions, from the sampling of the images alone.

    Wilson 1927, "Probable Inference", by scipy. The noise of the seed is not in it.
    """
    interval = binomtest(images - errors, images).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_p_value(errors_a: Collection[int], errors_b: Collection[int]) -> float:
    """Two-sided exact McNemar test that two models err equally often on the same images.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions": of the images that
    one alone misclassifies, each is a fair coin's toss if the two are equal.
    """
    only_a, only_b = len(set(errors_a) - set(errors_b)), len(set(errors_b) - set(errors_a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def mean_interval(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % interval of the mean of n values, one a seed, in their unit.

    Student 1908, "The Probable Error of a Mean", by scipy. Raises `ValueError` for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval of the mean needs two values or more, not {len(values)}")
    half = float(t.ppf(0.975, len(values) - 1) * sem(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def paired_mean_p_value(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], generator: np.random.Generator
) -> float:
    """Two-sided permutation test that two variants have the same mean; `a` and `b` hold one value a seed, paired.

    Fisher 1935, "The Design of Experiments", by scipy: if the two are equal, each pair is as likely the other way
    round. All 2^n ways are counted up to n = 13, beyond that 9,999 that `generator` draws. The smallest p-value that n
    pairs can give is `smallest_paired_p_value`.
    """
    test = permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=9_999,
        vectorized=True, rng=generator,
    )  # fmt: skip
    return float(test.pvalue)


def smallest_paired_p_value(pairs: int) -> float:
    """What `paired_mean_p_value` gives when every one of n pairs differs the same way: 2 / 2^n, or 2 / 10,000."""
    return 2 / min(2**pairs, 10_000)
