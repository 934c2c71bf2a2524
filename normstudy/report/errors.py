"""Which test images every group misclassifies, and which one alone: figures and facts from the tables alone.

A table of `shares` has a row a test image that any run gets wrong, ascending, and a column a group, in the order of the
results: the share of its seeds, as a fraction, that gets the image wrong.
"""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from normstudy import figures as plots
from normstudy.report import error_charts
from normstudy.report.charts import mean_intervals
from normstudy.report.groups import Facts, curve_figures, finished, mean_accuracies, note, seeds_figures
from normstudy.report.sweeps import GOAL, epochs_to_goal
from normstudy.report.tables import TEST_IMAGES, ErrorTables, Tables, pixels
from normstudy.report.variance import two_samples
from normstudy.tracking import Metric

CLASS_COUNTS = dict(enumerate((980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)))  # of MNIST's test images
# Test images of MNIST whose label fewer than 3 of 5 human raters confirmed, with the label that 3 or more gave instead;
# None where as many agreed on none. Northcutt, Athalye, Mueller 2021, "Pervasive Label Errors in Test Sets Destabilize
# Machine Learning Benchmarks", which counts these 15; votes: github.com/cleanlab/label-errors, mturk/mnist_mturk.json,
# commit 5457895e. The raters saw only images that a classifier had flagged: a label not listed here can be wrong too.
RELABELLED = {947: 9, 1621: 6, 1901: 4, 2462: 0, 2597: 3, 3558: 0, 5937: 3, 6651: 6, 6783: 6, 9729: 6}
LABEL_ERRORS: Mapping[int, int | None] = {**RELABELLED, **dict.fromkeys((2130, 2654, 3520, 8527, 9679))}


def counts(tables: Tables, keys: Sequence[str]) -> pd.DataFrame:
    """How many misclassified images have these keys, over all seeds: a row a key, ascending; a column a group."""
    groups = list(dict.fromkeys(tables.results["group"]))
    found = tables.misclassified.pivot_table(
        index=list(keys), columns="group", values="seed", aggfunc="count", fill_value=0
    )
    return found.reindex(columns=groups, fill_value=0).rename_axis(columns="group")


def seed_means(tables: Tables, keys: Sequence[str]) -> pd.DataFrame:
    """The same, a mean over each group's seeds."""
    return counts(tables, keys) / tables.results.groupby("group", sort=False).size()


def shares(tables: Tables) -> pd.DataFrame:
    """The share of each group's seeds that gets an image wrong."""
    return seed_means(tables, ["index"])


def common(shares: pd.DataFrame) -> list[int]:
    """Images that every seed of every group gets wrong, ascending."""
    return [int(image) for image in shares.index[(shares == 1).all(axis=1)]]


def unique_to(shares: pd.DataFrame, group: str) -> pd.Series:
    """Images that seeds of this group alone get wrong, and the share that does, most first.

    Strict: one seed of another group that errs takes the image off the list.
    """
    alone = (shares[group] > 0) & (shares.drop(columns=group) == 0).all(axis=1)
    return shares.loc[alone, group].sort_values(ascending=False, kind="stable")


def overlap(shares: pd.DataFrame) -> pd.Series:
    """How many images each combination of groups has in common, most first: what an UpSet plot shows.

    An image counts for a group when MORE than half of its seeds get it wrong. The index has a level a group, of
    booleans; a combination without an image is left out, and so are the images that count for no group.

    Lex et al. 2014, "UpSet: Visualization of Intersecting Sets".
    """
    wrong = shares > 0.5
    found = wrong[wrong.any(axis=1)].value_counts(sort=False).sort_index()
    return found.sort_values(ascending=False, kind="stable").rename("images")


def per_seed(tables: Tables, keys: Sequence[str], rows: pd.Index) -> dict[str, pd.DataFrame]:
    """How many misclassified images have these keys: for each group a row of `rows`, a column a seed."""
    found = tables.misclassified.groupby([*keys, "run_id"]).size().unstack("run_id", fill_value=0)
    runs = tables.results.groupby("group", sort=False)["run_id"]
    return {str(group): found.reindex(index=rows, columns=ids, fill_value=0) for group, ids in runs}


def confusions(tables: Tables, top: int = 10) -> pd.DataFrame:
    """The `top` most frequent confusions: columns true and predicted, then a column a group with images a seed, a mean.

    Ranked by the mean of the groups' means, so that a group with more seeds counts no more; then by true, predicted.
    """
    found = seed_means(tables, ["true", "predicted"])
    order = found.mean(axis=1).round(12).sort_values(ascending=False, kind="stable").index[:top]
    return found.loc[order].rename_axis(columns=None).reset_index()


def errors_figures(tables: ErrorTables) -> dict[str, plots.Picture]:
    """Every figure of a study by file name without ending; a group's grid is of its lowest seed.

    Of the runs that ended: a group whose lowest seed diverged has no grid, as its pictures were not kept.
    """
    groups, tables = with_grid(tables), finished(tables)
    shared = {"shared_statistics": plots.shared_statistics()}
    if tables.results.empty:
        return shared
    found = curve_figures(tables) | shared | {grid_name(group): grid_of(tables, group) for group in groups}
    if tables.results["group"].duplicated().any():
        found |= seeds_figures(tables)
        if set(tables.results["dataset"]) == {"mnist"}:
            found |= error_figures(tables)
    return found


def with_grid(tables: Tables) -> list[str]:
    """The groups whose lowest seed ended, in the order of the results."""
    lowest = tables.results.loc[tables.results.groupby("group", sort=False)["seed"].idxmin()]
    return [str(group) for group in lowest.loc[lowest["diverged_at"].isna(), "group"]]


SURE = "the network's confidence in its prediction, and in the true class"


def grid_of(tables: ErrorTables, group: str) -> plots.Picture:
    """The annotated grid of ten images that a group's lowest seed gets wrong."""
    runs = tables.results[tables.results["group"] == group]
    run = runs.loc[runs["seed"].idxmin()]
    wrong = tables.misclassified[tables.misclassified["run_id"] == run["run_id"]]
    name = f"{group}, seed {run['seed']}" if len(runs) > 1 else group
    ten = plots.ten_worst(wrong)
    shown = "the ten with the highest loss, highest first" if len(wrong) > 10 else f"all {len(wrong)}"
    title = f"{name}: {len(wrong)} of {TEST_IMAGES:,} misclassified"
    return plots.misclassified_grid(
        pixels(tables.images, ten["index"].tolist()), ten, title, f"Shown: {shown}. In percent: {SURE}."
    )


def grid_name(group: str) -> str:
    """File name, without ending, of a group's grid."""
    return f"misclassified_{slug(group)}"


def error_figures(tables: ErrorTables) -> dict[str, plots.Picture]:
    """Overlap, classes, confusions, and the images that all get wrong, where there are any."""
    wrong = shares(tables)
    both = common(wrong)[:10]
    bars = "Marks: mean over seeds; bars: its 95 % interval."
    digits = pd.Series(CLASS_COUNTS, name="true")
    rates = {
        group: mean_intervals(100 * counts.div(digits, axis="index"))
        for group, counts in per_seed(tables, ["true"], digits.index).items()
    }
    pairs = pd.MultiIndex.from_frame(confusions(tables)[["true", "predicted"]])
    read = {group: mean_intervals(counts) for group, counts in per_seed(tables, [*pairs.names], pairs).items()}
    captions = [_caption(tables.misclassified, index) for index in both]
    shown = f"Shown: {len(both)} of {len(common(wrong))}."
    majority = "An image counts for a group when more than half of its seeds get it wrong."
    figures = {
        "errors_overlap": error_charts.draw_overlap(overlap(wrong), note(tables, majority)),
        "errors_by_class": error_charts.draw_rows(
            rates, [str(digit) for digit in digits.index], "Error rate of each digit", note(tables, bars), "errors, %"
        ),
        "confusions": error_charts.draw_rows(
            read,
            [f"{true} read as {predicted}" for true, predicted in pairs],
            "The ten most frequent confusions",
            note(tables, bars),
            "test images, of 10,000",
        ),
    }
    if both:
        title = f"Misclassified by all {len(tables.results)} runs"
        figures["errors_common"] = plots.image_grid(
            pixels(tables.images, both), captions, title, note(tables, shown), columns=5
        )
    return figures


def pictured(tables: Tables) -> set[int]:
    """Every image that `error_figures` shows."""
    return {*common(shares(tables))[:10]}


def _caption(wrong: pd.DataFrame, index: int) -> str:
    rows = wrong[wrong["index"] == index]
    read = rows["predicted"].value_counts(sort=True)
    most = f"read as {read.index[0]}" + (f" or {read.index[1]}" if len(read) > 1 else "")
    lines = [f"true {rows['true'].iloc[0]}, {most}", f"test image {index}"]
    if index in LABEL_ERRORS:
        raters = LABEL_ERRORS[index]
        lines.append("label in dispute" if raters is None else f"label wrong: raters say {raters}")
    return "\n".join(lines)


def errors_facts(tables: Tables) -> Facts:
    """What the errors of several seeds have in common, what is a group's own, and what picking would make of the runs;
    of the runs that ended, and nothing of single seeds.
    """
    tables = finished(tables)
    results, wrong = tables.results, shares(tables)
    if not results["group"].duplicated().any():
        return {"runs": 0}
    both, accuracies = common(wrong), mean_accuracies(tables)
    best = tables.epochs.groupby("group", sort=False)[str(Metric.TEST_ACCURACY)].max().to_dict()
    first = epochs_to_goal(tables).groupby(results["group"], sort=False)
    return {
        "runs": len(results),
        "seeds": results.groupby("group", sort=False).size().to_dict(),
        "images": len(wrong),
        "common": both,
        "common_share": tables.misclassified["index"].isin(both).mean(),
        "label_errors": LABEL_ERRORS if set(results["dataset"]) == {"mnist"} else {},
        "unique": {group: unique_to(wrong, group).tolist() for group in wrong},
        "confusion": confusions(tables, top=1).to_dict("records"),
        # summed over images, shares are the errors of a mean run; those of at most half of the seeds, chance's
        "by_chance": {group: (rows[rows <= 0.5].sum(), rows.sum()) for group, rows in wrong.items()},
        "targets": tables.about.targets,
        "means": accuracies,
        "best_epochs": best,
        "gained": max(best[group] - accuracies[group] for group in best),
        "goal": GOAL,
        "epochs_to_goal": first.agg(lambda epochs: epochs.mean(skipna=False)).to_dict(),
        "samples": two_samples(tables),
    }


def slug(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
