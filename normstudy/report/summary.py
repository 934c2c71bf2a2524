"""The answer of a study: the order of its groups, whether they are told apart, and how noisy that is."""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from normstudy.report.groups import Facts, comparisons
from normstudy.report.tables import TEST_IMAGES, Tables, errors_by
from normstudy.report.text import markdown_table, percent
from normstudy.stats import (
    SIGNIFICANCE,
    accuracy_interval,
    binomial_deviation,
    bootstrap_interval,
    holm,
    paired_p_value,
    smallest_paired_p_value,
)
from normstudy.tracking import Metric


def summary(tables: Tables) -> Facts:
    """The answer, the results table and how each pair compares; of runs that all ended."""
    results, pairs = tables.results, comparisons(tables)
    by_group = results.groupby("group", sort=False)
    several = bool(results["group"].duplicated().any())
    ranked = by_group[["errors", "test_accuracy"]].mean().sort_values("errors", kind="stable")["test_accuracy"]
    wrong = errors_by(tables, "run_id").values()
    deviations = by_group["test_accuracy"].std().dropna()
    first = tables.epochs[tables.epochs["epoch"] == 1].groupby("group", sort=False)[str(Metric.TEST_ACCURACY)].mean()
    return {
        "several": several,
        "results": results,
        "ranked": ranked.to_dict(),
        "pairs": pairs,
        "widest": max(pairs, key=lambda pair: abs(pair.difference), default=None),
        "significance": SIGNIFICANCE,
        "smallest_p": len(pairs) * smallest_paired_p_value(pairs[0].n) if pairs else None,
        "tests": [] if several else tests_of_images(tables),
        "deviations": (deviations.min(), deviations.max()),
        "binomial": binomial_deviation(float(by_group["test_accuracy"].mean().mean()), TEST_IMAGES),
        "common": len(set.intersection(*wrong)),
        "any": len(set.union(*wrong)),
        "table": _table(results, several=several),
        "first_epoch": first.to_dict(),
    }


def tests_of_images(tables: Tables) -> list[Facts]:
    """Each pair of groups with one run each: the images that one alone gets wrong, and the p-value of McNemar's test on
    them, corrected together (Holm).
    """
    wrong = errors_by(tables, "group")
    pairs = list(combinations(wrong, 2))
    corrected = holm([paired_p_value(wrong[a], wrong[b]) for a, b in pairs])
    return [
        {"a": a, "b": b, "only_a": len(wrong[a] - wrong[b]), "only_b": len(wrong[b] - wrong[a]), "p": p}
        for (a, b), p in zip(pairs, corrected, strict=True)
    ]


def _table(results: pd.DataFrame, *, several: bool) -> str:
    """A row for each group: means over seeds, or one run's own numbers."""
    head = ["parameters", "test accuracy, 95 % interval", "test loss", "train accuracy", "errors", "seconds per epoch"]
    rows = []
    for group, runs in results.groupby("group", sort=False):
        n, mean = len(runs), runs.mean(numeric_only=True)
        low, high = _interval(runs)
        rows.append(
            [
                *([str(group), str(n)] if several else [str(group)]),
                f"{runs['parameters'].iloc[0]:,}",
                f"{percent(mean['test_accuracy'])} ({100 * low:.2f} to {100 * high:.2f})",
                f"{mean['test_loss']:.4f}",
                percent(mean["train_accuracy"]),
                f"{mean['errors']:.{0 if n == 1 else 1}f}",
                f"{mean['seconds_per_epoch']:.1f}",
            ]
        )
    return markdown_table(["", "n", *head] if several else ["", *head], rows)


def brief_table(results: pd.DataFrame, groups: Iterable[str]) -> str:
    """The groups in this order: how many runs, mean accuracy with its interval, errors."""
    rows = []
    for group in groups:
        runs = results[results["group"] == group]
        low, high = _interval(runs)
        accuracy = f"{percent(runs['test_accuracy'].mean(), 3)} ({100 * low:.3f} to {100 * high:.3f})"
        rows.append([group, str(len(runs)), accuracy, f"{runs['errors'].mean():.1f}"])
    return markdown_table(["", "n", "test accuracy (95 % interval)", "errors"], rows)


def _interval(runs: pd.DataFrame) -> tuple[float, float]:
    """Of a group's accuracy: of the mean over seeds, or for one run of the sampling of images."""
    if len(runs) == 1:
        return accuracy_interval(int(runs["errors"].iloc[0]), TEST_IMAGES)
    return bootstrap_interval(runs["test_accuracy"].to_numpy(), np.random.default_rng(0))
