"""What the experiments that turn one knob say: figures and findings from their tables alone.

A run that diverged has no accuracy; it is named, and never averaged.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy import charts
from normstudy.answers import counted, note
from normstudy.stats import MARGIN, ROUNDING
from normstudy.summary import points
from normstudy.tables import Tables
from normstudy.tracking import Metric

TRAINS = 0.98  # accuracy from which on a network counts as trained
GOAL = 0.99
COLLAPSE = (0.72, 0.95)  # accuracies that others report of networks this small with L1
USUAL = 64  # images a batch, what the smallest batches are held against


def by_norm(tables: Tables) -> pd.DataFrame:
    """The results with the norm as group, and whether a run diverged."""
    rows = tables.results
    return rows.assign(group=rows["norm"].str.upper(), diverged=rows["diverged_at"].notna())


def name(value: float) -> str:
    """A setting's value, short."""
    return f"{value:g}"


def cell_means(rows: pd.DataFrame, setting: str, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean over seeds, a row a value of the setting, ascending, and a column a norm; missing where any seed has none.

    A mean of the seeds that happened not to diverge would flatter a norm.
    """
    means = rows.groupby([setting, "group"], sort=False)[value].agg(lambda values: values.mean(skipna=False))
    return means.unstack("group")[list(dict.fromkeys(rows["group"]))].sort_index()


def percent(fraction: float, digits: int = 2) -> str:
    """A share as a percentage; `diverged` for the mean of a cell of which a seed diverged."""
    return "diverged" if np.isnan(fraction) else f"{100 * fraction:.{digits}f} %"


def penalty_figures(tables: Tables) -> dict[str, Figure]:
    """Errors and share of zero weights over lambda; BN's errors with both kinds of statistics."""
    assert tables.weights is not None
    rows = by_norm(tables)
    axis: dict[str, Any] = {"x": "l1", "x_label": "lambda of the L1 penalty", "diverged": "diverged"}
    sparse = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    kinds = {"as trained": "BN, running averages", "re-estimated": "BN, statistics of the test images"}
    both = statistics(tables)
    both = both.assign(group=both["statistics"].map(kinds))
    return {
        "accuracy": charts.sweep(
            rows, note(tables), value="test_accuracy", y_label="test error, %", error_rate=True, **axis
        ),
        "zero_weights": charts.sweep(
            sparse, note(tables), value="zero_share", y_label="weights closer to 0 than 0.001, %", **axis
        ),
        "statistics": charts.sweep(
            both, note(tables), value="accuracy", y_label="test error, %", error_rate=True, **axis
        ),
    }  # fmt: skip


def statistics(tables: Tables) -> pd.DataFrame:
    """BatchNorm's runs, each with both kinds of statistics, and their lambda; no accuracy where one diverged."""
    assert tables.statistics is not None
    rows = by_norm(tables)
    norms = rows.loc[rows["norm"] == "bn", ["run_id", "l1", "diverged"]]
    both = norms.merge(pd.DataFrame({"statistics": ["as trained", "re-estimated"]}), how="cross")
    return both.merge(
        tables.statistics[["run_id", "statistics", "accuracy"]], on=["run_id", "statistics"], how="left"
    )  # fmt: skip


def penalty(tables: Tables) -> list[str]:
    """How much L1 each norm bears, and what collapses."""
    assert tables.weights is not None
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
    collapsed = [
        f"{norm} at {name(l1)} ({percent(value)})"
        for norm in mean for l1, value in mean[norm].items() if COLLAPSE[0] <= value <= COLLAPSE[1]
    ]  # fmt: skip
    low, high = (f"{100 * end:.0f}" for end in COLLAPSE)
    return [
        f"Against no L1, mean accuracy falls by no more than {points(MARGIN)} points: "
        f"{', '.join(bearable(str(norm), mean[norm]) for norm in mean)}{_noise(rows[rows['l1'] == 0])}.",
        f"At lambda {name(most)}: {', '.join(ends)} (closer to it than 0.001).",
        f"The {low} to {high} % that others report show at: {', '.join(collapsed) or 'no lambda of this grid'}.",
        averages(statistics(tables)),
    ]


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
    means = cell_means(both.assign(group=both["statistics"]), "l1", "accuracy").dropna()
    if means.empty:
        return "BatchNorm's running averages: every lambda had a seed that diverged."
    gain = means["re-estimated"] - means["as trained"]
    at = means.loc[gain.idxmax()]
    start = "gain most" if gain.max() > 0 else "gain at no lambda; they come closest"
    return (
        f"BatchNorm, the same weights with statistics of the test images themselves in place of its running averages: "
        f"these {start} at lambda {name(gain.idxmax())}, {percent(at['re-estimated'])} instead of "
        f"{percent(at['as trained'])}."
    )


def tuned(tables: Tables) -> pd.DataFrame:
    """For each norm and batch size the runs of the learning rate with the lowest mean held-out loss.

    A rate of which any seed diverged is not chosen; where all rates are out, the runs that diverged stay, so that the
    cell counts as diverged.
    """
    rows = by_norm(tables)
    chosen = []
    for _, cell in rows.groupby(["group", "batch_size"], sort=False):
        losses = cell.groupby("lr")["val_loss"].agg(lambda values: values.mean(skipna=False))
        chosen.append(cell[cell["lr"] == losses.idxmin() if losses.notna().any() else cell["diverged"]])
    return pd.concat(chosen, ignore_index=True)


def batch_size_figures(tables: Tables) -> dict[str, Figure]:
    """Errors over batch size, with the learning rate retuned, and the rates that were chosen."""
    rows = tuned(tables)
    axis: dict[str, Any] = {"x": "batch_size", "x_label": "batch size, images", "diverged": "diverged"}
    said = note(tables, "learning rate retuned on held-out images for each point")
    return {
        "accuracy": charts.sweep(
            rows, said, value="test_accuracy", y_label="test error, %", error_rate=True, **axis
        ),
        "learning_rates": charts.sweep(
            rows, said, value="lr", y_label="chosen peak learning rate", percent=False, **axis
        ),
    }  # fmt: skip


def batch_size(tables: Tables) -> list[str]:
    """Whether BatchNorm falls at batches of 2."""
    mean = cell_means(tuned(tables), "batch_size")
    smallest, largest = mean.index.min(), mean.index.max()
    shown = sorted({smallest, largest, *mean.index.intersection([USUAL])})
    lines = []
    for norm, column in mean.items():
        errors = (1 - column).round(ROUNDING)
        text = ", ".join(f"{percent(errors[size])} at batches of {size}" for size in shown)
        line = f"{norm}: test error {text}"
        if USUAL in shown and smallest != USUAL and errors[[smallest, USUAL]].notna().all():
            line += f"; at {smallest} it is {errors[smallest] / errors[USUAL]:.1f} times that at {USUAL}"
        lines.append(f"{line}.")
    best = [f"{norm} {mean[norm].idxmax()}" for norm in mean if mean[norm].notna().any()]
    return [*lines, f"Batch size with the lowest test error: {', '.join(best) or 'none, as all diverged'}."]


def with_goal(tables: Tables) -> pd.DataFrame:
    """The results with the first epoch whose test accuracy is 99 % or more; missing where none is."""
    reached = tables.epochs[tables.epochs[str(Metric.TEST_ACCURACY)] >= GOAL]
    first = reached.groupby("run_id")["epoch"].min().rename("epochs_to_goal")
    return by_norm(tables).merge(first, on="run_id", how="left")


def learning_rate_figures(tables: Tables) -> dict[str, Figure]:
    """Errors over the learning rate, and epochs to 99 %."""
    rows = with_goal(tables)
    axis: dict[str, Any] = {"x": "lr", "x_label": "peak learning rate", "diverged": "diverged"}
    return {
        "accuracy": charts.sweep(
            rows, note(tables), value="test_accuracy", y_label="test error, %", error_rate=True, **axis
        ),
        "epochs_to_goal": charts.sweep(
            rows, note(tables), value="epochs_to_goal", y_label="epochs to 99 % test accuracy", percent=False,
            missing="99 % not reached", **axis,
        ),
    }  # fmt: skip


def learning_rate(tables: Tables) -> list[str]:
    """The range in which each norm trains."""
    rows = with_goal(tables)
    return [f"{norm} {_trains(runs)}." for norm, runs in rows.groupby("group", sort=False)]


def _trains(runs: pd.DataFrame) -> str:
    lowest = runs.groupby("lr")["test_accuracy"].agg(lambda values: values.min(skipna=False))
    mean = runs.groupby("lr")["test_accuracy"].agg(lambda values: values.mean(skipna=False))
    parts = [f"trains to {100 * TRAINS:.0f} % or more {_ranges(lowest >= TRAINS)}"]
    if mean.notna().any():
        parts[0] += f", best at {name(mean.idxmax())} ({percent(mean.max())})"
    ended = runs[~runs["diverged"]]
    goal = ended["epochs_to_goal"].min()
    if (lowest >= TRAINS).any():
        after = "" if np.isnan(goal) else f"after {counted(int(goal), 'epoch')} at the earliest"
        parts.append(f"{100 * GOAL:.0f} % {after or 'not reached'}")
    if diverged := sorted(set(runs.loc[runs["diverged"], "lr"])):
        parts.append(f"diverged at {', '.join(map(name, diverged))}")
    return "; ".join(parts)


def _ranges(trains: pd.Series) -> str:
    """The unbroken ranges of rates at which a norm trains."""
    spans = (trains != trains.shift()).cumsum()[trains]
    found = [list(rates.index) for _, rates in spans.groupby(spans)]
    texts = [f"from {name(r[0])} to {name(r[-1])}" if len(r) > 1 else f"at {name(r[0])} alone" for r in found]
    return " and ".join(texts) or "nowhere"
