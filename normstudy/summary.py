"""The exported tables to words: the answer, the results table, what tells the groups apart."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normstudy.reading import TEST_IMAGES
from normstudy.stats import (
    accuracy_interval,
    mean_interval,
    paired_mean_p_value,
    paired_p_value,
    smallest_paired_p_value,
)
from normstudy.tracking import Metric

SIGNIFICANCE = 0.05
NOT_PAIRED = "Not tested: the groups were not trained with the same seeds."


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All that the README's block is made of: one row a run; a run and epoch; a run and misclassified image.

    A group is the runs that are the same but for the seed; the column `group` has its label.
    """

    results: pd.DataFrame
    epochs: pd.DataFrame
    misclassified: pd.DataFrame

    def save(self, folder: Path) -> None:
        """As three CSV files, floats in full; text that a spreadsheet would run as a formula gets a ' before it."""
        for name, table in vars(self).items():
            texts = table.select_dtypes(exclude="number")
            table = table.assign(**{column: texts[column].map(no_formula) for column in texts})
            table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """What `save` wrote, to the digit."""
        names = cls.__dataclass_fields__
        return cls(**{name: pd.read_csv(folder / f"{name}.csv") for name in names})


def no_formula(text: Any) -> Any:
    """A cell of a CSV that spreadsheets show and don't compute."""
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def plain(text: str) -> str:
    """Markdown that shows this text as it is: no HTML, link, emphasis or cell of a table begins in it."""
    text = re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("://", "&#58;//")


def summary(tables: Tables) -> str:
    """The answer, the results table and the findings, in Markdown."""
    tables = Tables(**{name: table.assign(group=table["group"].map(plain)) for name, table in vars(tables).items()})
    several = has_several_seeds(tables.results)
    columns = "parameters | test accuracy, 95 % interval | test loss | train accuracy | errors | seconds an epoch |"
    lines = [answer(tables), "", f"| |{' n |' if several else ''} {columns}", "|---" * (7 + several) + "|"]
    for group, rows in tables.results.groupby("group", sort=False):
        cells = [str(group), *([str(len(rows))] if several else []), *cells_of(rows)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", caption(tables.results), "", *findings(tables)])


def code(text: str) -> str:
    """What may stand between backticks."""
    return re.sub(r"[^\w-]", "?", text)


def has_several_seeds(results: pd.DataFrame) -> bool:
    """Whether any group has more than one run."""
    return bool(results["group"].duplicated().any())


def cells_of(rows: pd.DataFrame) -> list[str]:
    """The table's cells for the runs of one group: means over seeds, or one run's own numbers."""
    n, mean = len(rows), rows.mean(numeric_only=True)
    if n == 1:
        low, high = accuracy_interval(int(rows["errors"].iloc[0]), TEST_IMAGES)
    else:
        low, high = mean_interval(rows["test_accuracy"].to_numpy())
    return [
        f"{rows['parameters'].iloc[0]:,}",
        f"{100 * mean['test_accuracy']:.2f} % ({100 * low:.2f} to {100 * high:.2f})",
        f"{mean['test_loss']:.4f}",
        f"{100 * mean['train_accuracy']:.2f} %",
        f"{mean['errors']:.{0 if n == 1 else 1}f}",
        f"{mean['seconds_per_epoch']:.1f}",
    ]


def caption(results: pd.DataFrame) -> str:
    """How the table was made."""
    epochs = ", ".join(str(count) for count in sorted(results["epochs"].unique()))
    shared = f"{results['side_by_side'].max()} trials side by side on {results['cores'].max()} CPU cores"
    if (stack := results["stack"].max()) > 1:
        shared += f", an epoch of {stack} seeds in lock-step"
    if has_several_seeds(results):
        means, runs = "; means over seeds", "each is a row of `results.csv`"
        interval = "is of the mean over seeds (Student's t)"
        if (results["group"].value_counts() == 1).any():
            interval += ", that of a single run of the sampling of images (Wilson)"
    else:
        means, runs = "", ", ".join(f"{row.group} `{code(row.run_id)}`" for row in results.itertuples())
        interval = "is of the sampling of images (Wilson); the noise of the seed is not in it"
    return (
        f"Last epoch ({epochs}) of {sample(results)}, on {TEST_IMAGES:,} test images{means}. The interval {interval}. "
        f"Train accuracy is under augmentation, while the epoch ran. Seconds: {shared}. Runs: {runs}."
    )


def sample(results: pd.DataFrame) -> str:
    """How many runs a group has, and their seeds; needs the columns `group` and `seed`."""
    counts = sorted(set(results["group"].value_counts()))
    seeds = sorted(set(results["seed"]))
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"n = {n} run{'s' if counts[-1] > 1 else ''} each, seed{'s' if len(seeds) > 1 else ''} {spans(seeds)}"


def spans(numbers: Iterable[int]) -> str:
    """Ascending integers, three or more in a row as `first to last`."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def answer(tables: Tables) -> str:
    """The answer in a sentence or two: the order, and whether these runs can tell the groups apart."""
    results = tables.results
    means = results.groupby("group", sort=False)[["errors", "test_accuracy"]].mean()
    ranked = means.sort_values("errors", kind="stable")["test_accuracy"]
    scores = ", ".join(f"{group} {100 * accuracy:.2f} %" for group, accuracy in ranked.items())
    if len(ranked) == 1:
        return f"**{scores}**."
    several, tests = has_several_seeds(results), paired_tests(tables)
    told_apart = "; ".join(f"{a} and {b}" for (a, b), p in tests.items() if p < SIGNIFICANCE)
    who, tell = ("These seeds", "tell") if several else ("On these images one run each", "tells")
    verdict = f"{who} {tell} apart: {told_apart}." if told_apart else f"{who} can't tell any two of them apart."
    spread = f"{100 * (ranked.max() - ranked.min()):.2f} points from first to last"
    return f"**{scores}**: {spread}{', in the mean over seeds' if several else ''}. {verdict if tests else NOT_PAIRED}"


def findings(tables: Tables) -> list[str]:
    """One line a finding, each computed from the tables."""
    several = has_several_seeds(tables.results)
    wrong = errors_by(tables, "run_id" if several else "group")
    shared, some = set.intersection(*wrong.values()), set.union(*wrong.values())
    runs = " runs" if several else ""
    first = tables.epochs[tables.epochs["epoch"] == 1].groupby("group", sort=False)[str(Metric.TEST_ACCURACY)].mean()
    return [
        *(differences_of_means(tables) if several else differences_in_images(tables)),
        f"- {len(shared)} images defeat all {len(wrong)}{runs}; {len(some)} defeat at least one.",
        f"- After the first epoch: {', '.join(f'{group} {100 * value:.2f} %' for group, value in first.items())}.",
    ]


def differences_in_images(tables: Tables) -> list[str]:
    """One line a pair of groups with one run each: the images that one alone gets wrong."""
    wrong = errors_by(tables, "group")
    tests = paired_tests(tables)
    lines = []
    for (a, b), p in tests.items():
        only_a, only_b = len(wrong[a] - wrong[b]), len(wrong[b] - wrong[a])
        lines.append(
            f"- {a} and {b}: {only_a} images that only {a} gets wrong, {only_b} that only {b} does "
            f"(exact McNemar test, corrected for {len(tests)} comparisons: p = {p:.2f}, {verdict_of(p)})."
        )
    return lines


def differences_of_means(tables: Tables) -> list[str]:
    """One line a pair of groups with the same seeds: the mean difference of their test accuracies."""
    accuracy = accuracy_by_seed(tables.results)
    if accuracy is None:
        return [f"- {NOT_PAIRED}"]
    tests, n = paired_tests(tables), len(accuracy)
    lines = []
    for (a, b), p in tests.items():
        points = 100 * (accuracy[a] - accuracy[b]).to_numpy()
        low, high = mean_interval(points)
        lines.append(
            f"- {a} minus {b}: {points.mean():+.2f} points of test accuracy, mean of {n} pairs of the same seed (95 % "
            f"interval {low:+.2f} to {high:+.2f}, Student's t, not corrected; permutation test of the pairs, corrected "
            f"for {len(tests)} comparisons: p = {p:.4f}, {verdict_of(p)})."
        )
    if (smallest := len(tests) * smallest_paired_p_value(n)) >= SIGNIFICANCE:
        lines.append(f"- {n} seeds are too few for this test to show a difference: its smallest p is {smallest:.2f}.")
    return lines


def verdict_of(p: float) -> str:
    """What a p-value, corrected, allows to say."""
    return "a difference" if p < SIGNIFICANCE else "undecided"


def errors_by(tables: Tables, column: str) -> dict[str, set[int]]:
    """Indices of the misclassified test images by `group` or `run_id`, in the order of the results."""
    found = dict(tuple(tables.misclassified.groupby(column)["index"]))
    return {name: set(found.get(name, ())) for name in tables.results[column]}


def accuracy_by_seed(results: pd.DataFrame) -> pd.DataFrame | None:
    """Test accuracy, a row a seed and a column a group; None unless every group has every seed."""
    table = results.pivot(index="seed", columns="group", values="test_accuracy")[list(results["group"].unique())]
    return None if table.isna().to_numpy().any() else table


def paired_tests(tables: Tables) -> dict[tuple[str, str], float]:
    """p-value of each pair of groups, multiplied by the number of pairs (Bonferroni), at most 1.

    McNemar's test on the images of one run each, or the permutation test on seeds; none where the seeds differ.
    """
    pairs = list(combinations(tables.results["group"].unique(), 2))
    if not has_several_seeds(tables.results):
        wrong = errors_by(tables, "group")
        tests = {(a, b): paired_p_value(wrong[a], wrong[b]) for a, b in pairs}
    elif (accuracy := accuracy_by_seed(tables.results)) is not None:
        generator = np.random.default_rng(0)
        tests = {
            (a, b): paired_mean_p_value(accuracy[a].to_numpy(), accuracy[b].to_numpy(), generator) for a, b in pairs
        }
    else:
        tests = {}
    return {pair: min(1.0, len(pairs) * p) for pair, p in tests.items()}
