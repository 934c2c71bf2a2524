"""Which test images are misclassified by which norm: figures and findings from the exported tables alone."""

import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from normstudy import figures
from normstudy.report import error_charts, error_sets
from normstudy.report.compare import curve_figures, finished, note, seeds_figures
from normstudy.report.tables import TEST_IMAGES, ErrorTables, Tables, pixels
from normstudy.report.text import has_several_seeds

CLASS_COUNTS = dict(enumerate((980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)))  # of MNIST's test images


def figures_of(tables: ErrorTables) -> dict[str, Figure]:
    """Every figure of a study by file name without ending; a group's grid is of its lowest seed.

    Of the runs that ended: a group whose lowest seed diverged has no grid, as its pictures were not kept.
    """
    groups, tables = with_grid(tables), finished(tables)
    shared = {"shared_statistics": figures.shared_statistics()}
    if tables.results.empty:
        return shared
    found = curve_figures(tables) | shared | {grid_name(group): grid_of(tables, group) for group in groups}
    if has_several_seeds(tables.results):
        found |= seeds_figures(tables)
        if set(tables.results["dataset"]) == {"mnist"}:
            found |= error_figures(tables)
    return found


def with_grid(tables: Tables) -> list[str]:
    """The groups whose lowest seed ended, in the order of the results."""
    lowest = tables.results.loc[tables.results.groupby("group", sort=False)["seed"].idxmin()]
    return [str(group) for group in lowest.loc[lowest["diverged_at"].isna(), "group"]]


def grid_of(tables: ErrorTables, group: str) -> Figure:
    """The annotated grid of ten images that a group's lowest seed gets wrong."""
    runs = tables.results[tables.results["group"] == group]
    run = runs.loc[runs["seed"].idxmin()]
    wrong = tables.misclassified[tables.misclassified["run_id"] == run["run_id"]]
    name = f"{group}, seed {run['seed']}" if len(runs) > 1 else group
    title = figures.grid_title(name, run["test_accuracy"], len(wrong), TEST_IMAGES)
    ten = figures.ten_worst(wrong)
    return figures.misclassified_grid(pixels(tables.images, ten["index"].tolist()), ten, title)


def grid_name(group: str) -> str:
    """File name, without ending, of a group's grid."""
    return f"misclassified_{slug(group)}"


def error_figures(tables: ErrorTables) -> dict[str, Figure]:
    """Overlap, classes, confusions, and the grids of images that all get wrong or one group alone."""
    results, wrong = tables.results, tables.misclassified
    agreed, seeds = error_sets.agreement(wrong, results), error_sets.seeds_by_group(results)
    common = error_sets.common(agreed, seeds)
    majority = note(tables, "an image counts for a group when more than half of its seeds get it wrong")
    found = {
        "errors_overlap": error_charts.upset(error_sets.overlap(agreed, seeds), majority),
        "errors_by_class": error_charts.per_class(
            error_sets.per_class(wrong, results, CLASS_COUNTS), note(tables, "marks: means over seeds")
        ),
        "confusions": error_charts.confusion_pairs(
            error_sets.confusions(wrong, results), note(tables, "bars: means over seeds")
        ),
        "errors_common": _grid(
            tables,
            agreed,
            common_ten(tables),
            "Test images that every seed of every norm gets wrong",
            f"all {len(common)}"
            if len(common) <= 10
            else f"the first 10 of {len(common)}, by their place in the test set",
            f"{len(results)} runs",
        ),
    }
    for group, number in seeds.items():
        alone = error_sets.unique_to(agreed, group)
        title = f"Test images that seeds of {group} alone get wrong"
        shown = f"the 10 of {len(alone)} on which most of its seeds agree" if len(alone) > 10 else f"all {len(alone)}"
        who, ten = f"{number} seeds", unique_ten(tables, group)
        found[f"errors_only_{slug(group)}"] = _grid(tables, agreed, ten, title, shown, who)
    return found


def common_ten(tables: Tables) -> list[int]:
    """The first ten images that every run gets wrong."""
    agreed = error_sets.agreement(tables.misclassified, tables.results)
    return error_sets.common(agreed, error_sets.seeds_by_group(tables.results))[:10]


def unique_ten(tables: Tables, group: str) -> list[int]:
    """The ten images on which most seeds of a group err, and no seed of another."""
    agreed = error_sets.agreement(tables.misclassified, tables.results)
    return [int(index) for index in error_sets.unique_to(agreed, group).index[:10]]


def pictured(tables: Tables) -> set[int]:
    """Every image that `error_figures` shows."""
    groups = tables.results["group"].unique()
    return {*common_ten(tables), *(index for group in groups for index in unique_ten(tables, group))}


def _grid(
    tables: ErrorTables, agreed: pd.DataFrame, indices: Sequence[int], title: str, shown: str, who: str
) -> Figure:
    captions = [_caption(tables.misclassified, agreed, index, who) for index in indices]
    return error_charts.image_grid(pixels(tables.images, indices), captions, title, note(tables, f"shown: {shown}"))


def _caption(wrong: pd.DataFrame, agreed: pd.DataFrame, index: int, who: str) -> str:
    rows = wrong[wrong["index"] == index]
    read = rows["predicted"].value_counts(sort=True)
    most = f"read as {read.index[0]}" + (f" or {read.index[1]}" if len(read) > 1 else "")
    lines = [f"#{index}: {rows['true'].iloc[0]}, {most}", f"{agreed.loc[index].sum()} of {who}"]
    if index in error_sets.LABEL_ERRORS:
        raters = error_sets.LABEL_ERRORS[index]
        lines.append("label in dispute" if raters is None else f"label wrong: raters say {raters}")
    return "\n".join(lines)


def errors(tables: Tables) -> list[str]:
    """What the errors have in common, and what is a norm's own."""
    results, wrong = tables.results, tables.misclassified
    agreed, seeds = error_sets.agreement(wrong, results), error_sets.seeds_by_group(results)
    common = error_sets.common(agreed, seeds)
    only = {group: error_sets.unique_to(agreed, group)["seeds"] for group in seeds}
    if agreed.empty:
        return [f"None of the {len(results)} runs misclassified a test image."]
    alone = "; ".join(_alone(group, found, seeds[group]) for group, found in only.items())
    pair = error_sets.confusions(wrong, results, top=1).iloc[0]
    counts = ", ".join(f"{group} {pair[group]:.1f}" for group in seeds)
    return [
        f"Of {TEST_IMAGES:,} test images at least one of the {len(results)} runs gets {len(agreed):,} wrong, "
        + (_shared(common, wrong) if common else "and none is wrong in all runs."),
        f"Images that seeds of one group alone get wrong: {alone}.",
        f"The most frequent confusion is {pair['true']:.0f} read as {pair['predicted']:.0f}, mean over seeds: {counts} "
        "images.",
    ]


def chance(tables: Tables) -> str:
    """How many of a run's errors are its seed's own, and how many those of most seeds of its group."""
    results, wrong = tables.results, tables.misclassified
    agreed, seeds = error_sets.agreement(wrong, results), error_sets.seeds_by_group(results)
    every = error_sets.shares(agreed, seeds)  # of a group's seeds: summed over images, the errors of its mean run
    few = every.where(every <= 0.5, 0)
    counts = [f"{group} {few[group].sum():.1f} of {every[group].sum():.1f}" for group in seeds]
    return (
        "Errors of a run on images that at least half of its group's seeds get right, so that another seed may have "
        f"spared them, mean over seeds: {', '.join(counts)}."
    )


def _shared(common: Sequence[int], wrong: pd.DataFrame) -> str:
    disputed = [index for index in common if index in error_sets.LABEL_ERRORS]
    return (
        f"and all runs get {len(common)} wrong: {100 * wrong['index'].isin(common).mean():.0f} % of all errors. Human "
        f"raters rejected the labels of {len(error_sets.LABEL_ERRORS)} test images (Northcutt et al. 2021), of which "
        f"{len(disputed)} are among the {len(common)}."
    )


def _alone(group: str, agreeing: pd.Series, seeds: int) -> str:
    if not len(agreeing):
        return f"{group} none"
    agree = f" (at most {agreeing.max()} of its {seeds} seeds agree on one)" if seeds > 1 else ""
    return f"{group} {len(agreeing)}{agree}"


def slug(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
