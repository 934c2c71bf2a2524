"""Groups compared seed by seed: what their pages state, and their figures, from the tables alone."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy import figures as plots
from normstudy.config import TITLES
from normstudy.report import charts
from normstudy.report.tables import TEST_IMAGES, T, Tables, by_seed
from normstudy.report.text import either, sample
from normstudy.stats import Comparison, binomial_deviation, bootstrap_interval, compare
from normstudy.tracking import Metric

Pair = tuple[str, str]
Facts = dict[str, Any]  # what a template is given: names, numbers, tables of them


def finished(tables: T) -> T:
    """The same without the runs that diverged, which have no numbers to average."""
    ended = tables.results.loc[tables.results["diverged_at"].isna(), "run_id"]
    kept = {name: table[table["run_id"].isin(ended)] for name, table in tables.frames().items() if "run_id" in table}
    return replace(tables, **kept)


def note(tables: Tables, bars: str = "") -> str:
    """What a reader must know to read a figure: data, budget, n, and what the bars are."""
    configs, results = tables.configs(), tables.results
    title = " or ".join(sorted({TITLES[config.dataset] for config in configs}))
    images = f"{title}: {either(config.training_images for config in configs)} training, {TEST_IMAGES:,} test images"
    epochs = either(config.epochs for config in configs)
    last = f"{epochs} epochs" if " or " in epochs else f"epoch {epochs}, the last"
    said = [images, f"{either(results['parameters'])} parameters each", last, sample(results), bars]
    return "; ".join(filter(None, said))


def intervals(results: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of each group's mean test accuracy over seeds."""
    generator = np.random.default_rng(0)
    values = results.groupby("group", sort=False)["test_accuracy"]
    return {str(group): bootstrap_interval(rows.to_numpy(), generator) for group, rows in values if len(rows) > 1}


def mean_accuracies(tables: Tables) -> dict[str, float]:
    """The mean over seeds of each group, in the order of the results; not a number where a seed diverged."""
    groups = tables.results.groupby("group", sort=False)["test_accuracy"]
    return {str(group): float(rows.mean(skipna=False)) for group, rows in groups}


def comparisons(tables: Tables, pairs: Sequence[Pair] | None = None) -> list[Comparison]:
    """Each of these pairs of groups, else each pair, on the seeds that they share; none where the seeds differ."""
    values = by_seed(tables.results)
    if values is None or len(values) < 2:
        return []
    chosen = list(combinations(values.columns, 2)) if pairs is None else pairs
    return compare(values, chosen, np.random.default_rng(0))


def seeds_figures(tables: Tables, pairs: Sequence[Pair] | None = None) -> dict[str, Figure]:
    """Each group's seeds and mean beside the noise of the test images; the paired differences where there are any."""
    results, found = tables.results, comparisons(tables, pairs)
    noise = binomial_deviation(float(results["test_accuracy"].mean()), TEST_IMAGES)
    said = note(tables, "bars: 95 % bootstrap interval of the mean")
    figures = {"means": charts.means(results, said, intervals=intervals(results), noise=noise)}
    if found:
        bars = "bar: 95 % bootstrap interval of the mean difference"
        if len(found) > 1:
            bars = f"bars: bootstrap intervals that hold together for all {len(found)} pairs with 95 %"
        figures["differences"] = charts.differences(found, note(tables, bars))
    return figures


def curves(tables: Tables, metric: Metric) -> dict[str, pd.DataFrame]:
    """One metric of every run, keyed by group: a row an epoch, a column a seed."""
    return {
        str(group): rows.pivot(index="epoch", columns="seed", values=str(metric))
        for group, rows in tables.epochs.groupby("group", sort=False)
    }


def curve_figures(tables: Tables) -> dict[str, Figure]:
    """Test loss and test accuracy by epoch."""
    several = tables.results["group"].duplicated().any()
    said = note(tables, "line: mean, band: lowest to highest seed" if several else "")
    return {
        "test_loss": plots.loss_curves(curves(tables, Metric.TEST_LOSS), said),
        "test_accuracy": plots.accuracy_curves(curves(tables, Metric.TEST_ACCURACY), said),
    }


def groups(tables: Tables) -> Facts:
    """All groups, the best first, with each pair's verdict; whether the targets that were set beforehand are met.

    The target of the first group is that of the one that held-out images chose.
    """
    first = str(tables.results["group"].iloc[0])
    runs = tables.results[tables.results["group"] == first]
    means = mean_accuracies(tables)
    return {
        "results": tables.results,
        "targets": tables.about.targets,
        "means": dict(sorted(means.items(), key=lambda item: -item[1])),
        "pairs": comparisons(tables),
        "first": {
            "group": first,
            "parameters": runs["parameters"].iloc[0],
            "accuracies": runs["test_accuracy"].tolist(),
            "interval": intervals(runs).get(first),
        },
    }


def factorial_pairs(tables: Tables) -> list[Pair]:
    """What L1 makes of each norm, and what each norm makes of BN, without L1."""
    without, penalised = _by_penalty(tables)
    within = [(penalised[norm], without[norm]) for norm in without]
    return within + [(without[norm], without["bn"]) for norm in without if norm != "bn"]


def _by_penalty(tables: Tables) -> tuple[dict[str, str], dict[str, str]]:
    """The group of each norm without L1, and with it."""
    rows = tables.results.drop_duplicates("group")
    without = {str(row.norm): str(row.group) for row in rows.itertuples() if not row.l1}
    return without, {str(row.norm): str(row.group) for row in rows.itertuples() if row.l1}


def factorial(tables: Tables) -> Facts:
    """Which part of BN + L1 is BN, and which is L1."""
    without, penalised = _by_penalty(tables)
    pairs, means = comparisons(tables, factorial_pairs(tables)), mean_accuracies(tables)
    return {
        "norm_part": means[without["bn"]] - means[without["none"]],
        "penalty_part": means[penalised["bn"]] - means[without["bn"]],
        "of_penalty": pairs[: len(without)],
        "of_norm": pairs[len(without) :],
        "largest": max(pairs[: len(without)], key=lambda pair: abs(pair.difference), default=None),
    }


def baseline_pairs(tables: Tables) -> list[Pair]:
    """Each group against the first."""
    first, *others = dict.fromkeys(map(str, tables.results["group"]))
    return [(group, first) for group in others]


def baseline(tables: Tables) -> Facts:
    """What each group changes against the first; and a check, where GN with one group stands beside LN, the same layer:
    how far apart the two are at most with the same seed.
    """
    rows, accuracy = tables.results.drop_duplicates("group"), by_seed(tables.results)
    one, layer = (rows.loc[rows["norm"] == norm] for norm in ("gn", "ln"))
    same = [*one.loc[one["groups"] == 1, "group"], *layer["group"]]
    apart = None if accuracy is None or len(same) != 2 else (accuracy[same[0]] - accuracy[same[1]]).abs().max()
    return {"pairs": comparisons(tables, baseline_pairs(tables)), "apart": apart}
