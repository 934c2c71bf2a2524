"""What the experiments that turn one knob say: figures and findings from their tables alone.

A run that diverged has no accuracy; it is named, and never averaged.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy import charts
from normstudy.answers import note
from normstudy.stats import MARGIN
from normstudy.summary import points
from normstudy.tables import Tables
from normstudy.tracking import Metric

TRAINS = 0.98  # accuracy from which on a network counts as trained
GOAL = 0.99


def by_norm(tables: Tables) -> pd.DataFrame:
    """The results with the norm as group, and whether a run diverged."""
    rows = tables.results
    return rows.assign(group=rows["norm"].str.upper(), diverged=rows["diverged_at"].notna())


def name(value: float) -> str:
    """A setting's value, short."""
    return f"{value:g}"


def penalty_figures(tables: Tables) -> dict[str, Figure]:
    """Errors and share of zero weights over lambda; BN's errors with both kinds of statistics."""
    assert tables.weights is not None
    rows = by_norm(tables)
    axis: dict[str, Any] = {"x": "l1", "x_label": "lambda of the L1 penalty", "diverged": "diverged"}
    sparse = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id", how="left")
    kinds = {"as trained": "BN, running averages", "re-estimated": "BN, statistics of the test images"}
    both = statistics(tables)
    both = both.assign(group=both["statistics"].map(kinds), diverged=False)
    return {
        "accuracy": charts.sweep(
            rows, note(tables), value="test_accuracy", y_label="test error, %", error_rate=True, **axis
        ),
        "zero_weights": charts.sweep(
            sparse, note(tables), value="zero_share", y_label="weights below 0.001, %", **axis
        ),
        "statistics": charts.sweep(
            both, note(tables), value="accuracy", y_label="test error, %", error_rate=True, **axis
        ),
    }  # fmt: skip


def statistics(tables: Tables) -> pd.DataFrame:
    """BatchNorm's runs, each with both kinds of statistics, and their lambda."""
    assert tables.statistics is not None
    norms = tables.results.loc[tables.results["norm"] == "bn", ["run_id", "l1"]]
    return norms.merge(tables.statistics[["run_id", "statistics", "accuracy"]], on="run_id")


def penalty(tables: Tables) -> list[str]:
    """How much L1 each norm bears, and what collapses."""
    assert tables.weights is not None
    rows = by_norm(tables)
    mean = rows.pivot_table(index="l1", columns="group", values="test_accuracy", sort=True)
    most = mean.index.max()
    zero = rows.merge(tables.weights[["run_id", "zero_share"]], on="run_id")
    shares = zero.pivot_table(index="l1", columns="group", values="zero_share")
    within = []
    for norm in mean:
        fine = mean.index[(mean[norm] >= mean.loc[0.0, norm] - MARGIN).cummin()]
        within.append(f"{norm} up to {name(fine.max())}")
    collapsed = [
        f"{norm} at {name(l1)} ({100 * value:.0f} %)"
        for norm in mean for l1, value in mean[norm].items() if 0.72 <= value <= 0.95
    ]  # fmt: skip
    found = statistics(tables).pivot_table(index="l1", columns="statistics", values="accuracy")
    worst = (found["re-estimated"] - found["as trained"]).idxmax()
    ends = ", ".join(f"{norm} {100 * mean.loc[most, norm]:.2f} %" for norm in mean)
    return [
        f"Mean accuracy stays within {points(MARGIN)} points of that without L1: {', '.join(within)}.",
        f"At lambda {name(most)}: {ends}, with "
        + ", ".join(f"{100 * shares.loc[most, norm]:.0f} % of {norm}'s weights" for norm in shares)
        + " below 0.001.",
        f"The published 72 to 95 % lie at: {', '.join(collapsed) or 'no lambda of this grid'}.",
        f"BatchNorm's running averages: at lambda {name(worst)} they give "
        f"{100 * found.loc[worst, 'as trained']:.2f} %, statistics of the test images themselves "
        f"{100 * found.loc[worst, 're-estimated']:.2f} %, with the same weights.",
    ]


def tuned(tables: Tables) -> pd.DataFrame:
    """For each norm and batch size the runs of the learning rate with the lowest mean held-out loss.

    A rate of which any seed diverged is not chosen; where all rates are out, their runs stay, as diverged.
    """
    rows = by_norm(tables)
    chosen = []
    for _, cell in rows.groupby(["group", "batch_size"], sort=False):
        losses = cell.groupby("lr")["val_loss"].agg(lambda values: values.mean(skipna=False))
        chosen.append(cell[cell["lr"] == losses.idxmin()] if losses.notna().any() else cell)
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
    mean = tuned(tables).pivot_table(index="batch_size", columns="group", values="test_accuracy")
    errors = 100 - 100 * mean
    smallest, usual, largest = mean.index.min(), 64, mean.index.max()
    lines = [
        f"{norm}: error {column[smallest]:.2f} % at batches of {smallest}, {column[usual]:.2f} % at {usual}, "
        f"{column[largest]:.2f} % at {largest}; at {smallest} that is {column[smallest] / column[usual]:.1f} times the "
        f"error at {usual}."
        for norm, column in errors.items()
    ]
    best = {norm: int(mean[norm].idxmax()) for norm in mean}
    return [*lines, f"Best batch size: {', '.join(f'{norm} {size}' for norm, size in best.items())}."]


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
    lines = []
    for norm, runs in rows.groupby("group", sort=False):
        trained = runs[runs["test_accuracy"] >= TRAINS]
        diverged = sorted(runs.loc[runs["diverged"], "lr"])
        text = f"{norm} trains to {100 * TRAINS:.0f} % or more "
        text += f"from {name(trained['lr'].min())} to {name(trained['lr'].max())}" if len(trained) else "nowhere"
        if len(trained):
            best = runs.loc[runs["test_accuracy"].idxmax()]
            text += f", best at {name(best['lr'])} ({100 * best['test_accuracy']:.2f} %)"
            goal = runs["epochs_to_goal"].min()
            text += "; 99 % not reached" if np.isnan(goal) else f"; 99 % after {goal:.0f} epochs at the earliest"
        text += f"; diverged at {', '.join(map(name, diverged))}" if diverged else ""
        lines.append(text + ".")
    return lines
