"""What L1 does to each norm, and what makes BatchNorm with it collapse: figures and findings from the tables alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy.report import charts
from normstudy.report.compare import note
from normstudy.report.sweeps import by_norm, cell_means, name, percent
from normstudy.report.tables import CollapseTables, PenaltyTables, Tables
from normstudy.report.text import points
from normstudy.stats import MARGIN, ROUNDING

COLLAPSE = (0.72, 0.95)  # accuracies that others report of networks this small with L1
REPORTED_AT = 0.01  # the lambda that they name
SUMMED = {"weights": "weights", "all": "all parameters"}  # what L1 is summed over
RISES_TO_THE_END = 0.99  # part of the steps from which on the learning rate never comes down


def penalty_figures(tables: PenaltyTables) -> dict[str, Figure]:
    """Errors and share of zero weights over lambda; BN's errors with both kinds of statistics."""
    rows = by_norm(tables)
    sparse = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    kinds = {"as trained": "BN, running averages", "re-estimated": "BN, statistics of the test images"}
    both = statistics(tables)
    both = both.assign(group=both["statistics"].map(kinds))
    zero = charts.Quantity(column="zero_share", label="weights closer to 0 than 0.001, %", unit="percent")
    error = replace(charts.TEST_ERROR, column="accuracy")
    return {
        "accuracy": charts.sweep(rows, note(tables), x="l1", y=charts.TEST_ERROR),
        "zero_weights": charts.sweep(sparse, note(tables), x="l1", y=zero),
        "statistics": charts.sweep(both, note(tables), x="l1", y=error),
    }


def statistics(tables: CollapseTables, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """BatchNorm's runs, of these rows or all, each with both kinds of statistics, and their lambda; no accuracy where
    one diverged."""
    rows = by_norm(tables) if rows is None else rows
    norms = rows.loc[rows["norm"] == "bn", ["run_id", "group", "l1", "diverged"]]
    both = norms.merge(pd.DataFrame({"statistics": ["as trained", "re-estimated"]}), how="cross")
    return both.merge(tables.statistics[["run_id", "statistics", "accuracy"]], on=["run_id", "statistics"], how="left")


def penalty(tables: PenaltyTables) -> list[str]:
    """How much L1 each norm bears, and what collapses."""
    rows = by_norm(tables)
    mean = cell_means(rows, "l1")
    zero = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    shares = cell_means(zero, "l1", "zero_share")
    most = mean.index.max()
    ends = [
        f"{norm} {percent(mean.loc[most, norm])}"
        + (f" with {percent(shares.loc[most, norm], 0)} of its weights at zero" if mean[norm].notna()[most] else "")
        for norm in mean
    ]
    return [
        f"Against no L1, mean accuracy falls by no more than {points(MARGIN)} points: "
        f"{', '.join(bearable(str(norm), mean[norm]) for norm in mean)}{_noise(rows[rows['l1'] == 0])}.",
        f"At lambda {name(most)}: {', '.join(ends)} (closer to it than 0.001).",
        collapsed(mean),
        averages(statistics(tables)),
    ]


def collapsed(mean: pd.DataFrame) -> str:
    """Where the accuracies that others report show, among mean accuracies by lambda and norm."""
    low, high = (f"{100 * end:.0f}" for end in COLLAPSE)
    found = [
        f"{norm} at {name(l1)} ({percent(value)})"
        for norm in mean
        for l1, value in mean[norm].items()
        if COLLAPSE[0] <= value <= COLLAPSE[1]
    ]
    return f"The {low} to {high} % that others report show at: {', '.join(found) or 'no lambda of this grid'}."


def _noise(unpenalised: pd.DataFrame) -> str:
    """How far apart chance alone puts the seeds of a norm: what a fall is to be held against."""
    accuracy = unpenalised.groupby("group")["test_accuracy"]
    spread = (accuracy.max() - accuracy.min()).max()
    return f"; without L1, seeds of one norm lie up to {points(spread)} points apart" if spread > 0 else ""


def bearable(norm: str, mean: pd.Series) -> str:
    """Up to which lambda, without a gap from 0 on, a norm's accuracy stays within the margin of that without L1."""
    fine = mean.index[(mean.sub(mean.iloc[0]).round(ROUNDING) >= -MARGIN).cummin()]
    if np.isnan(mean.iloc[0]):
        return f"{norm} diverged without L1"
    return f"{norm} at no lambda above 0" if len(fine) == 1 else f"{norm} up to {name(fine.max())}"


def averages(both: pd.DataFrame) -> str:
    """At which lambda BatchNorm gains most from statistics of the test images, and how much."""
    at = gain(both)
    if at is None:
        return "BatchNorm's running averages: every lambda had a seed that diverged."
    start = "gain most" if at["re-estimated"] > at["as trained"] else "gain at no lambda; they come closest"
    return (
        f"BatchNorm, the same weights with statistics of the test images themselves in place of its running averages: "
        f"these {start} at lambda {instead(at)}."
    )


def gain(both: pd.DataFrame) -> pd.Series | None:
    """Mean accuracies by kind of statistics at the lambda, its name, where those of the test images gain most."""
    means = cell_means(both.assign(group=both["statistics"]), "l1", "accuracy").dropna()
    return None if means.empty else means.loc[(means["re-estimated"] - means["as trained"]).idxmax()]


def instead(at: pd.Series) -> str:
    """The lambda and both accuracies."""
    return f"{name(at.name)}, {percent(at['re-estimated'])} instead of {percent(at['as trained'])}"


def suspects(tables: Tables) -> pd.DataFrame:
    """The results with the norm as `family` and as group what L1 is summed over and how the learning rate ends.

    Without L1 it doesn't matter what it would be summed over, so those runs stand in both.
    """
    rows = by_norm(tables)
    both = pd.concat([rows, rows[rows["l1"] == 0].assign(l1_on="all")])
    ends = np.where(both["warmup"] > RISES_TO_THE_END, "rate ends at its peak", "rate ends at 0")
    return both.assign(family=both["group"], group=both["l1_on"].map(SUMMED) + ", " + ends)


def accused(tables: Tables) -> pd.DataFrame:
    """The same with norm and suspect as group."""
    rows = suspects(tables)
    return rows.assign(group=rows["family"] + " (" + rows["group"] + ")")


def collapse_figures(tables: CollapseTables) -> dict[str, Figure]:
    """Errors over lambda under each suspect, a figure a norm; BatchNorm's with statistics of the test images too."""
    rows = suspects(tables)
    figures = {}
    for norm, runs in rows.groupby("family", sort=False):
        error = replace(charts.TEST_ERROR, label=f"test error of {norm}, %")
        figures[f"accuracy_{norm.lower()}"] = charts.sweep(runs, note(tables), x="l1", y=error, settings=True)
    again = statistics(tables, rows).query("statistics == 're-estimated'")
    said = note(tables, "mean and variance of the unchanged test images")
    error = charts.Quantity(column="accuracy", label="test error of re-estimated BN, %", unit="error")
    figures["statistics"] = charts.sweep(again, said, x="l1", y=error, settings=True)
    return figures


def collapse(tables: CollapseTables) -> list[str]:
    """Under which suspect BatchNorm with L1 gets to where others see it, and whether its running averages are why."""
    rows = suspects(tables)
    there, first = [], []
    for norm, runs in rows.groupby("family", sort=False):
        mean = cell_means(runs, "l1")
        reached = ", ".join(f"{percent(mean.loc[REPORTED_AT, suspect])} ({suspect})" for suspect in mean)
        there.append(f"{norm} at lambda {name(REPORTED_AT)}, which others report on: {reached}.")
        lowest = ", ".join(f"{_first_below(mean[suspect])} ({suspect})" for suspect in mean)
        first.append(f"{norm}, smallest lambda with {100 * COLLAPSE[1]:.0f} % or less: {lowest}.")
    gains = [
        f"({suspect}) {'diverged' if (at := gain(statistics(tables, runs))) is None else instead(at)}"
        for suspect, runs in rows[rows["norm"] == "bn"].groupby("group", sort=False)
    ]
    return [
        *there,
        *first,
        "Statistics of the test images in place of BatchNorm's running averages, the lambda where these gain most or "
        f"lose least: {'; '.join(gains)}.",
    ]


def _first_below(mean: pd.Series) -> str:
    low = mean.index[mean <= COLLAPSE[1]]
    return name(low.min()) if len(low) else "none"
