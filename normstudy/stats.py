"""How sure a count of errors on one test set is. Pure functions on counts and sets."""

from collections.abc import Collection

from scipy.stats import binomtest


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
