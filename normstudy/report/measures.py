"""What L1 does to each norm, and what makes BatchNorm with it collapse: facts and figures from the tables alone."""

from dataclasses import replace

import numpy as np
import pandas as pd

from normstudy.figures import Picture
from normstudy.report import charts
from normstudy.report.groups import Facts, note
from normstudy.report.sweeps import accuracy_cell, by_norm, cell_means, sweep_table
from normstudy.report.tables import CollapseTables, PenaltyTables, Tables
from normstudy.report.text import markdown_table, p_value, sample, signed
from normstudy.report.validation import STATISTICS
from normstudy.stats import FEWEST_SEEDS, ROUNDING, SIGNIFICANCE, Comparison, compare_pairs

CLEAR = 0.005  # a loss of accuracy that two seeds can show: three times what chance puts between them
COLLAPSE = (0.72, 0.95)  # accuracies that others report of networks this small with L1
REPORTED_AT = 0.01  # the lambda that they name
SUMMED = {  # what L1 is summed over
    "weights": "weights",
    "convolutions": "convolutions",
    "linear": "linear layer",
    "all": "all parameters",
}
RISES_TO_THE_END = 0.99  # part of the steps from which on the learning rate never comes down


def statistics_rows(tables: CollapseTables, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """BatchNorm's runs, of these rows or all, each with both kinds of statistics, and their lambda; no accuracy where
    one diverged.
    """
    rows = by_norm(tables) if rows is None else rows
    norms = rows.loc[rows["norm"] == "bn", ["run_id", "group", "l1", "diverged"]]
    both = norms.merge(pd.DataFrame({"statistics": STATISTICS}), how="cross")
    return both.merge(tables.statistics[["run_id", "statistics", "accuracy"]], on=["run_id", "statistics"], how="left")


def gain(both: pd.DataFrame) -> Facts | None:
    """Mean accuracies by kind of statistics at the lambda where those of the test images gain most; None where every
    lambda had a seed that diverged.
    """
    means = cell_means(both.assign(group=both["statistics"]), "l1", "accuracy").dropna()
    if means.empty:
        return None
    best = (means["re-estimated"] - means["as trained"]).idxmax()
    return {"l1": best, "trained": means.loc[best, "as trained"], "re_estimated": means.loc[best, "re-estimated"]}


def penalty_figures(tables: PenaltyTables) -> dict[str, Picture]:
    """Errors and share of zero weights over lambda; BN's errors with both kinds of statistics."""
    rows = by_norm(tables)
    sparse = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    kinds = dict(zip(STATISTICS, ("running averages", "statistics of the test images"), strict=True))
    both = statistics_rows(tables).assign(group=lambda rows: rows["statistics"].map(kinds))
    again = replace(charts.TEST_ERROR, column="accuracy", label="test error of BN, %")
    zero = charts.Quantity(column="zero_share", label="weights closer to 0 than 0.001, %", unit="percent")
    return {
        "error_rate": charts.draw_sweep(rows, note(tables), x="l1", y=charts.TEST_ERROR),
        "zero_weights": charts.draw_sweep(sparse, note(tables), x="l1", y=zero),
        "statistics": charts.draw_sweep(both, note(tables), x="l1", y=again, settings=True),
    }


def penalty_table(tables: PenaltyTables) -> str:
    """Accuracy by lambda."""
    return sweep_table(tables, "l1")


def penalty_facts(tables: PenaltyTables) -> Facts:
    """How much L1 each norm bears, beside how far apart chance puts seeds of a norm; and what collapses."""
    rows = by_norm(tables)
    mean = cell_means(rows, "l1")
    zero = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    most, accuracy = mean.index.max(), rows[rows["l1"] == 0].groupby("group")["test_accuracy"]
    return {
        "falls": {norm: falls_from(mean[norm]) for norm in mean},
        "clear_loss": CLEAR,
        "seeds": rows["seed"].nunique(),
        "seeds_apart": (accuracy.max() - accuracy.min()).max(),
        "most": most,
        "at_most": mean.loc[most].to_dict(),
        "zeros": cell_means(zero, "l1", "zero_share").loc[most].to_dict(),
        "reported": COLLAPSE,
        "collapsed": [
            (norm, l1, value)
            for norm in mean
            for l1, value in mean[norm].items()
            if COLLAPSE[0] <= value <= COLLAPSE[1]
        ],
        "gain": gain(statistics_rows(tables)),
    }


def falls_from(mean: pd.Series) -> float | None:
    """The smallest lambda from which on a norm's accuracy is clearly below that without L1, or a seed diverged; None
    where the largest isn't, 0 where it diverged without.
    """
    if np.isnan(mean.iloc[0]):
        return 0.0
    low = (mean.sub(mean.iloc[0]).round(ROUNDING) <= -CLEAR) | mean.isna()
    below = mean.index[low[::-1].cummin()[::-1]]
    return float(below.min()) if len(below) else None


def suspects(tables: Tables) -> pd.DataFrame:
    """The results with the norm as `family` and as group what L1 is summed over, whether by proximal steps, and how the
    learning rate ends.

    Without L1 it doesn't matter what it would be, so those runs stand in all.
    """
    rows = by_norm(tables)
    method = rows.get("l1_method", pd.Series("subgradient", rows.index))
    rows["summed"] = rows["l1_on"].map(SUMMED) + np.where(method == "proximal", " by proximal steps", "")
    with_l1, without = rows[rows["l1"] > 0], rows[rows["l1"] == 0]
    # each norm's own ways, under each schedule
    ways = with_l1[["norm", "warmup", "summed"]].drop_duplicates()
    every = pd.concat([with_l1, without.drop(columns="summed").merge(ways, on=["norm", "warmup"])], ignore_index=True)
    ends = np.where(every["warmup"] > RISES_TO_THE_END, "rate ends at its peak", "rate ends at 0")
    return every.assign(family=every["group"], group=every["summed"] + ", " + ends)


def collapse_table(tables: CollapseTables) -> str:
    """A row for each norm and suspect: accuracy by lambda, and the difference from the usual way at that of others."""
    rows = suspects(tables)
    pairs, lambdas, cells = collapse_pairs(rows), sorted(rows["l1"].unique()), []
    for (norm, suspect), runs in rows.groupby(["family", "group"], sort=False):
        differs = ""
        if pair := pairs.get((norm, suspect)):
            low, high = signed(pair.low, 1), signed(pair.high, 1)
            differs = f"{signed(pair.difference, 1)} ({low} to {high}; p {p_value(pair.p_adjusted)})"
        accuracies = [accuracy_cell(runs[runs["l1"] == value]) for value in lambdas]
        cells.append([str(norm), str(suspect), *accuracies, differs])
    differing = f"difference at {REPORTED_AT:g} from all weights by subgradient, points"
    head = ["norm", "L1 on, and schedule", *(f"lambda {value:g}" for value in lambdas), differing]
    said = f"Mean test accuracy at the last epoch, {sample(tables.results)}"
    return f"{markdown_table(head, cells)}\n\n{said}; in brackets simultaneous 95 % intervals and adjusted p."


def collapse_figures(tables: CollapseTables) -> dict[str, Picture]:
    """Errors over lambda under each suspect, a panel a norm; BatchNorm's with statistics of the test images too."""
    rows = suspects(tables)
    again = statistics_rows(tables, rows).query("statistics == 're-estimated'")
    panels = pd.concat(
        [
            rows.assign(panel=rows["family"]),
            again.assign(test_accuracy=again["accuracy"], panel="BN, statistics of the test images"),
        ],
        ignore_index=True,
    )
    return {"error_rate": charts.draw_sweep(panels, note(tables), x="l1", y=charts.TEST_ERROR, settings=True)}


def lowest_at(mean: pd.Series) -> float:
    """The smallest lambda with an accuracy that others call a collapse, or at which a seed diverged; else missing."""
    return float(mean.index[(mean <= COLLAPSE[1]) | mean.isna()].min())


def collapse_pairs(rows: pd.DataFrame) -> dict[tuple[str, str], Comparison]:
    """By norm and suspect, at the lambda that others report: each way to penalise against the usual one under the same
    schedule; all adjusted together, none of which a run diverged, none of fewer seeds than a verdict needs."""
    at = rows[rows["l1"] == REPORTED_AT].assign(cell=lambda runs: runs["family"] + "|" + runs["group"])
    table = at.pivot(index="seed", columns="cell", values="test_accuracy").dropna(axis=1)
    pairs = []
    for cell in table:
        family, _, group = str(cell).partition("|")
        usual = f"{family}|{SUMMED['weights']}, {group.rpartition(', ')[2]}"
        if usual in table and usual != cell:
            pairs.append((str(cell), usual))
    if len(table) < FEWEST_SEEDS:
        return {}
    compared = compare_pairs(table, pairs)
    return {(family, group): pair for pair in compared for family, _, group in [pair.a.partition("|")]}


def collapse_facts(tables: CollapseTables) -> Facts:
    """Under which suspect BatchNorm with L1 gets to where others see it, and whether its running averages are why."""
    rows = suspects(tables)
    means = {str(norm): cell_means(runs, "l1") for norm, runs in rows.groupby("family", sort=False)}
    ran = rows.groupby(["family", "group"])["l1"].unique()
    low = {
        norm: {each: lowest_at(mean.loc[sorted(ran[norm, each]), each]) for each in mean}
        for norm, mean in means.items()
    }
    return {
        "reported_at": REPORTED_AT,
        "seeds": rows["seed"].nunique(),
        "there": {norm: mean.loc[REPORTED_AT].to_dict() for norm, mean in means.items()},
        "limit": COLLAPSE[1],
        "smallest": low,
        "gains": [
            found | {"suspect": str(suspect), "gained": found["re_estimated"] - found["trained"]}
            for suspect, runs in rows[rows["norm"] == "bn"].groupby("group", sort=False)
            if (found := gain(statistics_rows(tables, runs)))
        ],
        "pairs": (pairs := collapse_pairs(rows)),
        "apart": {cell: pair for cell, pair in pairs.items() if pair.p_adjusted < SIGNIFICANCE},
    }
