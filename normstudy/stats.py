"""How sure a count of errors on one test set, or a mean over seeds, is. Pure functions on counts, sets and arrays."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import binomtest, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

SIGNIFICANCE = 0.05
MARGIN = 0.001  # a tenth of a point of accuracy, 10 of MNIST's 10,000 test images: less is no reason to choose a layer
ROUNDING = 12  # decimals of a difference of accuracies that count; what comes after is the error of the subtraction
FEWEST_SEEDS = 3  # with two, a t interval is 13 times as wide as its standard error, and two may agree by chance
MOST_SEEDS = 1_000  # beyond which nobody trains: `seeds_to_decide` gives none


def accuracy_interval(errors: int, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy, as fractions, from the sampling of the images alone.

    Wilson 1927, "Probable Inference", by scipy. The noise of the seed is not in it.
    """
    interval = binomtest(images - errors, images).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def binomial_deviation(accuracy: float, images: int) -> float:
    """Standard deviation of an accuracy, as a fraction, from the drawing of the test images alone: sqrt(p (1 - p) / n).

    It stands beside the standard deviation over seeds, which all see the same images and so don't share this noise.
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


def paired_p_value(errors_a: Collection[int], errors_b: Collection[int]) -> float:
    """Two-sided exact McNemar test that two models err equally often on the same images.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions": of the images that
    one alone misclassifies, each is a fair coin's toss if the two are equal.
    """
    only_a, only_b = len(set(errors_a) - set(errors_b)), len(set(errors_b) - set(errors_a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of tests made together, corrected: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure",
    by statsmodels."""
    return [float(p) for p in multipletests(p_values, alpha=SIGNIFICANCE, method="holm")[1]] if len(p_values) else []


def mean_interval(values: Float[np.ndarray, " n"], *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of n values, one a seed, in their unit.

    Student 1908, "The Probable Error of a Mean": exact for normal values, and close to it for accuracies over ten
    seeds, where the bootstrap's intervals are too narrow (95 % ones held the mean in 90 % of simulations). Values that
    are all the same give an interval of no width. Raises `ValueError` for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval of the mean needs two values or more, not {len(values)}")
    mean, error = _mean_and_error(values)
    reach = error * float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean - reach, mean + reach


class Verdict(StrEnum):
    """What the seeds allow to say of two variants."""

    BETTER = "better"
    WITHIN_MARGIN = "different, but within the margin"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two variants over n seeds each, one of several comparisons made together.

    `difference` is the mean of a minus b, `low` and `high` its simultaneous 95 % interval, `error` its standard error,
    all in the unit of the values. `p` is that of a difference, `tost_p` that of a difference as large as the margin or
    larger; the adjusted ones are Bonferroni's, as the intervals are. `smallest_margin` is the smallest at which the two
    would be equivalent. `freedom` are the degrees of freedom of the t-tests, n - 1 where the seeds are paired.
    """

    a: str
    b: str
    n: int
    paired: bool
    difference: float
    error: float
    freedom: float
    low: float
    high: float
    p: float
    p_adjusted: float
    tost_p: float
    tost_p_adjusted: float
    smallest_margin: float
    margin: float
    comparisons: int
    verdict: Verdict
    higher_is_better: bool = True

    @property
    def winner(self) -> str | None:
        """The better one where the verdict is that one is, else None."""
        if self.verdict is not Verdict.BETTER:
            return None
        return self.a if (self.difference > 0) == self.higher_is_better else self.b

    @property
    def deciding_p(self) -> float:
        """The adjusted p-value that the verdict rests on: of equivalence where that is the verdict, else of a
        difference."""
        rests_on_difference = self.verdict in (Verdict.BETTER, Verdict.INCONCLUSIVE)
        return self.p_adjusted if rests_on_difference else self.tost_p_adjusted


def compare_pairs(
    values: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    margin: float = MARGIN,
    higher_is_better: bool = True,
    paired: bool = True,
) -> list[Comparison]:
    """Each pair of variants; `values` has a row a seed and a column a variant, not a number where there is none.

    Student's t on the paired differences where the two share at least half of their seeds; else, or not `paired`,
    Welch 1947, "The Generalization of 'Student's' Problem", on all seeds of each. Simultaneous over all pairs by
    Bonferroni, intervals and p-values alike, so that a verdict and its interval never disagree. Raises `ValueError` for
    an unknown variant.
    """
    if unknown := {name for pair in pairs for name in pair} - set(values.columns):
        raise ValueError(f"unknown variant {min(unknown)!r}; choose from {list(values.columns)}")
    found = []
    for a, b in pairs:
        # without the subtraction's error, so that equal differences are equal
        shared = (values[a] - values[b]).dropna().to_numpy(dtype=float).round(ROUNDING)
        each = values[a].dropna().to_numpy(dtype=float), values[b].dropna().to_numpy(dtype=float)
        if by_seed := paired and 2 * len(shared) >= min(map(len, each)) and len(shared) > 1:
            estimate = len(shared), *_mean_and_error(shared), len(shared) - 1.0
        else:
            estimate = _welch(*each)
        options: dict[str, Any] = {"paired": by_seed, "margin": margin, "higher_is_better": higher_is_better}
        found.append(_comparison(a, b, *estimate, comparisons=len(pairs), **options))
    return found


def _mean_and_error(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean and its standard error, 0 for values that are all the same; not a number for fewer than one or two."""
    if not len(values):
        return math.nan, math.nan
    if np.ptp(values) < 10.0**-ROUNDING:
        return float(values[0]), math.nan if len(values) < 2 else 0.0
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _welch(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> tuple[int, float, float, float]:
    """The smaller count of seeds, the difference of the means, its standard error, and its degrees of freedom."""
    (mean_a, error_a), (mean_b, error_b) = _mean_and_error(a), _mean_and_error(b)
    variance = error_a**2 + error_b**2
    n = min(len(a), len(b))
    if not variance > 0:
        return n, mean_a - mean_b, math.sqrt(variance) if variance == 0 else math.nan, float(len(a) + len(b) - 2)
    freedom = variance**2 / (error_a**4 / (len(a) - 1) + error_b**4 / (len(b) - 1))
    return n, mean_a - mean_b, math.sqrt(variance), freedom


def _comparison(
    a: str,
    b: str,
    n: int,
    difference: float,
    error: float,
    freedom: float,
    *,
    paired: bool,
    margin: float,
    comparisons: int,
    higher_is_better: bool,
) -> Comparison:
    p, tost_p = difference_p_value(difference, error, freedom), tost_p_value(difference, error, freedom, margin)
    p_adjusted, tost_p_adjusted = min(1.0, comparisons * p), min(1.0, comparisons * tost_p)
    reach = error * float(t.isf(SIGNIFICANCE / 2 / comparisons, freedom)) if freedom >= 1 else math.nan
    one_sided = error * float(t.isf(SIGNIFICANCE / comparisons, freedom)) if freedom >= 1 else math.nan
    return Comparison(
        a=a,
        b=b,
        n=n,
        paired=paired,
        difference=difference,
        error=error,
        freedom=freedom,
        low=difference - reach,
        high=difference + reach,
        p=p,
        p_adjusted=p_adjusted,
        tost_p=tost_p,
        tost_p_adjusted=tost_p_adjusted,
        smallest_margin=abs(difference) + one_sided,
        margin=margin,
        comparisons=comparisons,
        verdict=decide(p_adjusted, tost_p_adjusted) if n >= FEWEST_SEEDS else Verdict.INCONCLUSIVE,
        higher_is_better=higher_is_better,
    )


def difference_p_value(difference: float, error: float, freedom: float) -> float:
    """Two-sided t-test that a mean difference with this standard error is 0.

    Where n differences are all the same, and t is not defined, that of the sign test: each of them is as likely the
    other way round, 2 / 2^n.
    """
    if math.isnan(error) or difference == 0:
        return 1.0
    return float(2 * t.sf(abs(difference) / error, freedom)) if error else 2.0**-freedom


def tost_p_value(difference: float, error: float, freedom: float, margin: float) -> float:
    """p-value of two one-sided t-tests that the mean difference is as far from 0 as the margin, or farther.

    Schuirmann 1987, "A Comparison of the Two One-Sided Tests Procedure and the Power Approach". Where n differences
    are all the same, 1 / 2^n within the margin, else 1.
    """
    if math.isnan(error):
        return 1.0
    if not error:
        return 2.0 ** -(freedom + 1) if abs(difference) < margin else 1.0
    return float(t.sf((margin - abs(difference)) / error, freedom))


def decide(p: float, tost_p: float) -> Verdict:
    """The verdict on a pair, of the adjusted p-values of a difference and of equivalence.

    Lakens 2017, "Equivalence Tests": a difference may be certain and smaller than the margin; then it is real and
    matters to nobody. Inconclusive is not a finding that the two are equal.
    """
    different, equivalent = p < SIGNIFICANCE, tost_p < SIGNIFICANCE
    if equivalent:
        return Verdict.WITHIN_MARGIN if different else Verdict.EQUIVALENT
    return Verdict.BETTER if different else Verdict.INCONCLUSIVE


def seeds_to_decide(pair: Comparison) -> int | None:
    """About how many seeds in all would give a verdict on an inconclusive pair, if difference and standard deviation
    stayed as they are; None where `MOST_SEEDS` would not."""
    if pair.verdict is not Verdict.INCONCLUSIVE or not pair.error > 0:
        return None
    n = np.arange(max(pair.n, FEWEST_SEEDS - 1) + 1, MOST_SEEDS + 1)
    freedom = pair.freedom * (n - 1) / max(pair.n - 1, 1)
    statistic = np.sqrt(n / pair.n) / pair.error
    different = 2 * t.sf(abs(pair.difference) * statistic, freedom)
    equivalent = t.sf((pair.margin - abs(pair.difference)) * statistic, freedom)
    decided = n[np.minimum(different, equivalent) * pair.comparisons < SIGNIFICANCE]
    return int(decided[0]) if len(decided) else None


def seeds_for_power(deviation: float, margin: float, *, comparisons: int = 1, power: float = 0.8) -> int | None:
    """How many pairs show a difference of the margin with this power, where paired differences have this standard
    deviation; None where `MOST_SEEDS` don't. Two-sided t-test at 0.05 / comparisons, by statsmodels. Raises
    `ValueError` unless both are above 0.
    """
    if not (deviation > 0 and margin > 0):
        raise ValueError(f"deviation {deviation} and margin {margin} must be above 0")
    n = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    reached = TTestPower().power(min(margin / deviation, 30), n, SIGNIFICANCE / comparisons) >= power
    return int(n[reached][0]) if reached.any() else None
