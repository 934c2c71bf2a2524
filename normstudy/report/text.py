"""The exported tables to words: the answer, the results table, what tells the groups apart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from normstudy.errors import one_line
from normstudy.report.tables import TEST_IMAGES, T, Tables, by_seed, errors_by
from normstudy.stats import (
    MARGIN,
    SIGNIFICANCE,
    Comparison,
    Verdict,
    accuracy_interval,
    binomial_deviation,
    bootstrap_interval,
    compare,
    holm,
    paired_p_value,
    smallest_paired_p_value,
)
from normstudy.tracking import Metric

NOT_PAIRED = "Not tested: the groups were not trained with the same seeds."


def plain(text: str) -> str:
    """Markdown that shows this text as it is: no HTML, link, emphasis or cell of a table begins in it, and no line."""
    text = " ".join(one_line(text, None).split())
    text = re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("://", "&#58;//")
    return re.sub(r"(?i)\b(mailto|xmpp):", r"\1&#58;", re.sub(r"(?i)\b(www)\.", r"\1&#46;", text))


def fenced(lines: Sequence[str]) -> list[str]:
    """Lines as a block of code in Markdown, between fences that are longer than any row of backticks in them."""
    longest = max(map(len, re.findall("`+", "\n".join(lines))), default=0)
    return [fence := "`" * max(3, longest + 1), *lines, fence]


def parts_of(tables: Tables) -> dict[str, str]:
    """What the experiment's file says, each part in one line, whatever an export has there."""
    return {name: " ".join(one_line(text, None).split()) for name, text in tables.parts.items()}


def summary(tables: Tables) -> str:
    """The answer, the results table and the findings, in Markdown; of tables that are `shown`."""
    several = has_several_seeds(tables.results)
    columns = "parameters | test accuracy, 95 % interval | test loss | train accuracy | errors | seconds an epoch |"
    lines = [answer(tables), "", f"| |{' n |' if several else ''} {columns}", "|---" * (7 + several) + "|"]
    for group, rows in tables.results.groupby("group", sort=False):
        cells = [str(group), *([str(len(rows))] if several else []), *cells_of(rows)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", caption(tables.results), "", *findings(tables)])


def shown(tables: T) -> T:
    """The same tables with texts that Markdown shows as they are; an export may have any text in any column."""
    found = {name: table for name, table in tables.frames().items() if name != "images"}
    texts = {name: table.select_dtypes(exclude=["number", "bool"]) for name, table in found.items()}
    return replace(tables, **{name: table.assign(**texts[name].map(_shown)) for name, table in found.items()})


def _shown(cell: Any) -> Any:
    return plain(cell) if isinstance(cell, str) else cell


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
        low, high = bootstrap_interval(rows["test_accuracy"].to_numpy(), np.random.default_rng(0))
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
        interval = "is of the mean over seeds (bootstrap)"
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
    """The answer: the order, and whether these runs can tell the groups apart."""
    results = tables.results
    means = results.groupby("group", sort=False)[["errors", "test_accuracy"]].mean()
    ranked = means.sort_values("errors", kind="stable")["test_accuracy"]
    scores = ", ".join(f"{group} {100 * accuracy:.2f} %" for group, accuracy in ranked.items())
    if has_several_seeds(results):
        return "\n".join(answer_of_seeds(tables, scores))
    if len(ranked) == 1:
        return f"**{scores}**."
    tests = tests_of_images(tables)
    told_apart = "; ".join(f"{a} and {b}" for (a, b), p in tests.items() if p < SIGNIFICANCE)
    verdict = f"tells apart: {told_apart}." if told_apart else "can't tell any two of them apart."
    spread = f"{100 * (ranked.max() - ranked.min()):.2f} points from first to last"
    return f"**{scores}**: {spread}. On these images one run each {verdict}"


def answer_of_seeds(tables: Tables, scores: str) -> list[str]:
    """The answer where seeds are the unit: five lines at most."""
    results = tables.results
    accuracies = results.groupby("group", sort=False)["test_accuracy"]
    deviations = accuracies.std().dropna()
    lines = [f"**{scores}**: mean test accuracy of {sample(results)}, last epoch.", ""]
    pairs = comparisons(tables)
    if pairs:
        widest = max(pairs, key=lambda pair: abs(pair.difference))
        lines += [
            f"- **Which?** {sentence(pairs)}",
            f"- **By how much?** At most {points(abs(widest.difference))} points in the mean: {measured(widest)}. "
            f"Differences within {points(MARGIN)} points count as equivalent.",
        ]
    elif len(accuracies) > 1:
        lines.append(f"- {NOT_PAIRED}")
    binomial = binomial_deviation(float(accuracies.mean().mean()), TEST_IMAGES)
    wrong = errors_by(tables, "run_id")
    lines += [
        f"- **Noise.** Another seed moves a run by {points(deviations.min())} to {points(deviations.max())} points "
        f"(standard deviation), another {TEST_IMAGES:,} test images would by {points(binomial)} (binomial): "
        "a single run can't rank them.",
        f"- **Errors.** {len(set.intersection(*wrong.values()))} images defeat all {len(wrong)} runs; "
        f"{len(set.union(*wrong.values()))} defeat at least one.",
    ]
    return lines


def sentence(pairs: Sequence[Comparison]) -> str:
    """The verdict on each pair, in words."""
    return "; ".join(map(verdict_in_words, pairs)) + "."


def verdict_in_words(pair: Comparison) -> str:
    """Which is better, or that they are equivalent, or that it is undecided."""
    if pair.winner:
        return f"{pair.winner} is better than {pair.b if pair.winner == pair.a else pair.a}"
    return (
        f"{pair.a} and {pair.b} are {pair.verdict}"
        if pair.verdict is Verdict.EQUIVALENT
        else (f"between {pair.a} and {pair.b} it is {pair.verdict}")
    )


def measured(pair: Comparison) -> str:
    """The difference of a pair with its interval, test and n."""
    low, high = (f"{100 * bound:+z.2f}" for bound in (pair.low, pair.high))
    p = "p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.3f}"
    return f"{pair.a} minus {pair.b} {100 * pair.difference:+z.2f} points ({low} to {high}; {p}; n = {pair.n} pairs)"


def judged(pair: Comparison) -> str:
    """The same, and the verdict."""
    return f"{measured(pair)}: **{f'{pair.winner} is better' if pair.winner else pair.verdict}**."


def points(fraction: float) -> str:
    """A difference of accuracies, given as a fraction, in percentage points."""
    text = f"{100 * fraction:.2f}"
    return text.removesuffix("0") if text.endswith("0") and not text.endswith(".00") else text


def comparisons(
    tables: Tables, pairs: Sequence[tuple[str, str]] | None = None, *, value: str = "test_accuracy"
) -> list[Comparison]:
    """Each of these pairs of groups, else each pair, on the seeds that they share; none where the seeds differ."""
    values = by_seed(tables.results, value)
    if values is None or len(values) < 2:
        return []
    chosen = list(combinations(values.columns, 2)) if pairs is None else list(pairs)
    return compare(values, chosen, np.random.default_rng(0))


def findings(tables: Tables) -> list[str]:
    """One line a finding, each computed from the tables."""
    first = tables.epochs[tables.epochs["epoch"] == 1].groupby("group", sort=False)[str(Metric.TEST_ACCURACY)].mean()
    start = f"- After the first epoch: {', '.join(f'{group} {100 * value:.2f} %' for group, value in first.items())}."
    if has_several_seeds(tables.results):
        return [*differences_of_means(tables), start]
    wrong = errors_by(tables, "group")
    shared, some = set.intersection(*wrong.values()), set.union(*wrong.values())
    counts = f"- {len(shared)} images defeat all {len(wrong)}; {len(some)} defeat at least one."
    return [*differences_in_images(tables), counts, start]


def differences_in_images(tables: Tables) -> list[str]:
    """One line a pair of groups with one run each: the images that one alone gets wrong."""
    wrong = errors_by(tables, "group")
    tests = tests_of_images(tables)
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
    pairs = comparisons(tables)
    lines = [f"- {judged(pair)}" for pair in pairs]
    if pairs and (smallest := len(pairs) * smallest_paired_p_value(pairs[0].n)) >= SIGNIFICANCE:
        lines.append(
            f"- {pairs[0].n} seeds are too few for this test to show a difference: its smallest p is {smallest:.2f}."
        )
    return lines


def tests_of_images(tables: Tables) -> dict[tuple[str, str], float]:
    """p-value of each pair of groups with one run each, by McNemar's test on the images, corrected together (Holm)."""
    wrong = errors_by(tables, "group")
    pairs = list(combinations(wrong, 2))
    single = [paired_p_value(wrong[a], wrong[b]) for a, b in pairs]
    return dict(zip(pairs, holm(single), strict=True))


def verdict_of(p: float) -> str:
    """What a p-value, corrected, allows to say of one run each."""
    return "a difference" if p < SIGNIFICANCE else "undecided"
