"""Groups compared seed by seed: what their pages state, and their figures, from the tables alone."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pandas as pd

from normstudy.config import TITLES
from normstudy.figures import Picture
from normstudy.report import charts, error_charts
from normstudy.report.tables import TEST_IMAGES, T, Tables, by_seed, errors_by
from normstudy.report.text import either, markdown_table, percent, sample
from normstudy.stats import (
    MARGIN,
    SIGNIFICANCE,
    Comparison,
    accuracy_interval,
    binomial_deviation,
    compare_pairs,
    holm,
    mean_interval,
    paired_p_value,
)
from normstudy.tracking import Metric

Pair = tuple[str, str]
Facts = dict[str, Any]  # what a template is given: names, numbers, tables of them


def finished(tables: T) -> T:
    """The same without the runs that diverged, which have no numbers to average."""
    ended = tables.results.loc[tables.results["diverged_at"].isna(), "run_id"]
    kept = {name: table[table["run_id"].isin(ended)] for name, table in tables.frames().items() if "run_id" in table}
    return replace(tables, **kept)


def note(tables: Tables, bars: str = "", *, test_images: int = TEST_IMAGES) -> str:
    """What a reader must know to read a figure, as its caption: data, budget, n, and what the bars are."""
    configs, results = tables.configs(), tables.results
    title = " or ".join(sorted({TITLES[config.dataset] for config in configs}))
    images = f"{title}: {either(config.training_images for config in configs)} training, {test_images:,} test images"
    epochs = either(config.epochs for config in configs)
    last = f"{epochs} epochs" if " or " in epochs else f"epoch {epochs}, the last"
    said = [images, f"{either(results['parameters'])} parameters each", last, sample(results)]
    return f"{'; '.join(said)}. {bars}".strip()


def intervals(results: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each group's mean test accuracy over seeds."""
    values = results.groupby("group", sort=False)["test_accuracy"]
    return {str(group): mean_interval(rows.to_numpy()) for group, rows in values if len(rows) > 1}


def mean_accuracies(tables: Tables) -> dict[str, float]:
    """The mean over seeds of each group, in the order of the results; not a number where a seed diverged."""
    groups = tables.results.groupby("group", sort=False)["test_accuracy"]
    return {str(group): float(rows.mean(skipna=False)) for group, rows in groups}


def comparisons(tables: Tables, pairs: Sequence[Pair] | None = None) -> list[Comparison]:
    """Each of these pairs of groups, else each pair, on the seeds that they share, without groups of which a run
    diverged; none where the seeds differ. Those that the experiment's file calls confirmatory are adjusted together,
    and stand before the others, which are, too.
    """
    values = _comparable(tables)
    wanted = list(combinations(values.columns, 2)) if pairs is None else pairs
    chosen = [pair for pair in wanted if {*pair} <= {*values}]
    planned = [pair for pair in chosen if pair in tables.about.confirmatory]
    return [*compare_pairs(values, planned), *compare_pairs(values, [pair for pair in chosen if pair not in planned])]


def confirmatory(tables: Tables, margin: float = MARGIN) -> list[Comparison]:
    """The pairs that the experiment's file calls confirmatory, as `comparisons` has them, or at another margin."""
    values = _comparable(tables)
    return compare_pairs(values, [pair for pair in tables.about.confirmatory if {*pair} <= {*values}], margin=margin)


def against_first(values: pd.DataFrame, names: Iterable[str]) -> list[Comparison]:
    """Each column but the first of `names` against that one, a row a seed; none that lacks a seed, and none of fewer
    than two seeds."""
    whole = values.dropna(axis=1)
    first, *others = [name for name in names if name in whole] or [""]
    return compare_pairs(whole, [(name, first) for name in others]) if len(whole) > 1 else []


def _comparable(tables: Tables) -> pd.DataFrame:
    """Test accuracy, a row a seed and a column a group, without groups of which a run diverged; no column where seeds
    differ, or there is one."""
    values = by_seed(tables.results[~tables.results["group"].isin(diverged_groups(tables))])
    return pd.DataFrame() if values is None or len(values) < 2 else values


def diverged_groups(tables: Tables) -> list[str]:
    """Those of which a run diverged: they are not compared, as the seeds that are left would flatter them."""
    return list(dict.fromkeys(tables.results.loc[tables.results["diverged_at"].notna(), "group"]))


def seeds_figures(tables: Tables, pairs: Sequence[Pair] | None = None) -> dict[str, Picture]:
    """Each group's seeds and mean beside the noise of the test images; the paired differences where there are any."""
    results, found = tables.results, comparisons(tables, pairs)
    noise = binomial_deviation(float(results["test_accuracy"].mean()), TEST_IMAGES)
    said = note(tables, "Bars: 95 % interval of the mean (t).")
    figures = {"means": charts.draw_means(results, said, noise=noise)}
    if found:
        bars = "Bar: 95 % interval of the mean difference (t)."
        if len(found) > 1:
            planned = sum((pair.a, pair.b) in tables.about.confirmatory for pair in found)
            others = len(found) - planned
            each = f"{planned} confirmatory and of {others} other" if planned else f"all {others}"
            bars = f"Bars: simultaneous 95 % intervals of {each} pairs (t)."
        tests = "p, adjusted: of equivalence where that is the verdict, else of a difference."
        figures["differences"] = charts.draw_differences(found, note(tables, f"{bars} {tests}"))
    return figures


def curves(tables: Tables, metric: Metric) -> dict[str, pd.DataFrame]:
    """One metric of every run, keyed by group: a row an epoch, a column a seed."""
    return {
        str(group): rows.pivot(index="epoch", columns="seed", values=str(metric))
        for group, rows in tables.epochs.groupby("group", sort=False)
    }


def curve_figures(tables: Tables) -> dict[str, Picture]:
    """Test loss and test accuracy by epoch."""
    several = tables.results["group"].duplicated().any()
    said = note(tables, "Lines: mean over seeds; bands: 95 % interval of the mean." if several else "")
    return {
        "test_loss": error_charts.loss_curves(curves(tables, Metric.TEST_LOSS), said),
        "test_accuracy": error_charts.accuracy_curves(curves(tables, Metric.TEST_ACCURACY), said),
    }


def groups_facts(tables: Tables) -> Facts:
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
        "lost": diverged_groups(tables),
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


def factorial_figures(tables: Tables) -> dict[str, Picture]:
    """Seeds and means; the differences of these pairs."""
    return seeds_figures(tables, factorial_pairs(tables))


def _by_penalty(tables: Tables) -> tuple[dict[str, str], dict[str, str]]:
    """The group of each norm without L1, and with it."""
    rows = tables.results.drop_duplicates("group")
    without = {str(row.norm): str(row.group) for row in rows.itertuples() if not row.l1}
    return without, {str(row.norm): str(row.group) for row in rows.itertuples() if row.l1}


def factorial_facts(tables: Tables) -> Facts:
    """Which part of BN + L1 is BN, and which is L1."""
    without, penalised = _by_penalty(tables)
    pairs, means = comparisons(tables, factorial_pairs(tables)), mean_accuracies(tables)
    return {
        "norm_part": means[without["bn"]] - means[without["none"]],
        "penalty_part": means[penalised["bn"]] - means[without["bn"]],
        "of_penalty": (within := [pair for pair in pairs if pair.a in penalised.values()]),
        "of_norm": [pair for pair in pairs if pair not in within],
        "largest": max(within, key=lambda pair: abs(pair.difference), default=None),
        "lost": diverged_groups(tables),
    }


def baseline_pairs(tables: Tables) -> list[Pair]:
    """Each group against the first, but for the same layer under two names."""
    first, *others = dict.fromkeys(map(str, tables.results["group"]))
    same = _one_layer(tables)
    return [(group, first) for group in others if not {group, first} <= same]


def _one_layer(tables: Tables) -> set[str]:
    """The groups of GN with one group and of LN, where both are there: one layer."""
    rows = tables.results.drop_duplicates("group")
    found = {
        *rows.loc[(rows["norm"] == "gn") & (rows["groups"] == 1), "group"],
        *rows.loc[rows["norm"] == "ln", "group"],
    }
    return {str(group) for group in found} if len(found) == 2 else set()


def baseline_figures(tables: Tables) -> dict[str, Picture]:
    """Seeds and means; the differences to the first."""
    return seeds_figures(tables, baseline_pairs(tables))


def baseline_facts(tables: Tables) -> Facts:
    """What each group changes against the first; and a check, where GN with one group stands beside LN, the same layer:
    how far apart the two are at most with the same seed.
    """
    same, accuracy = list(_one_layer(tables)), by_seed(tables.results)
    apart = None if accuracy is None or not same else (accuracy[same[0]] - accuracy[same[1]]).abs().max()
    pairs = comparisons(tables, baseline_pairs(tables))
    return {"pairs": pairs, "apart": apart, "lost": diverged_groups(tables)}


def summary_facts(tables: Tables) -> Facts:
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
        "confirmatory": (planned := confirmatory(tables)),
        "margins": {margin: confirmatory(tables, margin) for margin in tables.about.margins} if planned else {},
        "widest": max(pairs, key=lambda pair: abs(pair.difference), default=None),
        "significance": SIGNIFICANCE,
        "tests": [] if several else tests_of_images(tables),
        "deviations": (deviations.min(), deviations.max()),
        "binomial": binomial_deviation(float(by_group["test_accuracy"].mean().mean()), TEST_IMAGES),
        "common": len(set.intersection(*wrong)),
        "any": len(set.union(*wrong)),
        "table": summary_table(results, several=several),
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


def summary_table(results: pd.DataFrame, *, several: bool) -> str:
    """A row for each group: means over seeds, or one run's own numbers."""
    head = ["parameters", "test accuracy, 95 % interval", "test loss", "train accuracy", "errors"]
    rows = []
    for group, runs in results.groupby("group", sort=False):
        n, mean = len(runs), runs.mean(numeric_only=True)
        low, high = group_interval(runs)
        rows.append(
            [
                *([str(group), str(n)] if several else [str(group)]),
                f"{runs['parameters'].iloc[0]:,}",
                f"{percent(mean['test_accuracy'])} ({100 * low:.2f} to {100 * high:.2f})",
                f"{mean['test_loss']:.4f}",
                percent(mean["train_accuracy"]),
                f"{mean['errors']:.{0 if n == 1 else 1}f}",
            ]
        )
    return markdown_table(["", "n", *head] if several else ["", *head], rows)


def brief_table(results: pd.DataFrame, groups: Iterable[str]) -> str:
    """The groups in this order: how many runs, mean accuracy with its interval, errors."""
    rows = []
    for group in groups:
        runs = results[results["group"] == group]
        low, high = group_interval(runs)
        accuracy = f"{percent(runs['test_accuracy'].mean(), 3)} ({100 * low:.3f} to {100 * high:.3f})"
        rows.append([group, str(len(runs)), accuracy, f"{runs['errors'].mean():.1f}"])
    return markdown_table(["", "n", "test accuracy (95 % interval)", "errors"], rows)


def group_interval(runs: pd.DataFrame) -> tuple[float, float]:
    """Of a group's accuracy: of the mean over seeds, or for one run of the sampling of images."""
    if len(runs) == 1:
        return accuracy_interval(int(runs["errors"].iloc[0]), TEST_IMAGES)
    return mean_interval(runs["test_accuracy"].to_numpy())
