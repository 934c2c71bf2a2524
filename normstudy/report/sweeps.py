"""What the experiments that turn one knob say: figures and findings from their tables alone.

A run that diverged has no accuracy; it is named, and never averaged.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy.report import charts
from normstudy.report.compare import counted, note
from normstudy.report.tables import Tables
from normstudy.stats import ROUNDING
from normstudy.tracking import Metric

TRAINS = 0.98  # accuracy from which on a network counts as trained
GOAL = 0.99
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
    said = note(tables, "learning rate retuned on held-out images for each point")
    rates = charts.Quantity(column="lr", label="chosen peak learning rate", unit="number, log scale")
    return {
        "accuracy": charts.sweep(rows, said, x="batch_size", y=charts.TEST_ERROR),
        "learning_rates": charts.sweep(rows, said, x="batch_size", y=rates),
    }


def batch_size(tables: Tables) -> list[str]:
    """Whether BatchNorm falls at batches of 2."""
    rows = tuned(tables)
    mean = cell_means(rows, "batch_size")
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
    lines.append(_at_the_end(rows, by_norm(tables)))
    best = [f"{norm} {mean[norm].idxmax()}" for norm in mean if mean[norm].notna().any()]
    return [*lines, f"Batch size with the lowest test error: {', '.join(best) or 'none, as all diverged'}."]


def _at_the_end(kept: pd.DataFrame, every: pd.DataFrame) -> str:
    """In how many cells the chosen rate had no neighbour on one side, so that another one may do better."""
    cells = ["group", "batch_size"]
    tried = every.groupby(cells)["lr"].agg(["min", "max"])
    chosen = kept.groupby(cells)["lr"].first()
    ends = int(((chosen == tried["min"]) | (chosen == tried["max"])).sum())
    return f"The chosen learning rate is the lowest or the highest that was tried in {ends} of {len(chosen)} cells."


def epochs_to_goal(tables: Tables) -> pd.Series:
    """The first epoch of each run, in the order of the results, whose test accuracy is 99 % or more; missing where none
    is."""
    reached = tables.epochs[tables.epochs[str(Metric.TEST_ACCURACY)] >= GOAL]
    return tables.results["run_id"].map(reached.groupby("run_id")["epoch"].min())


def with_goal(tables: Tables) -> pd.DataFrame:
    """The results with the norm as group and `epochs_to_goal`."""
    return by_norm(tables).assign(epochs_to_goal=epochs_to_goal(tables))


def goal(tables: Tables) -> str:
    """How long each group takes to 99 %."""
    by_group = epochs_to_goal(tables).groupby(tables.results["group"], sort=False)
    means = by_group.agg(lambda first: first.mean(skipna=False))
    said = [f"{group} {'not in every run' if np.isnan(mean) else f'{mean:.1f}'}" for group, mean in means.items()]
    return f"Epochs to {100 * GOAL:.0f} % test accuracy, mean over seeds: {', '.join(said)}."


def learning_rate_figures(tables: Tables) -> dict[str, Figure]:
    """Errors over the learning rate, and epochs to 99 %, unless all that get there take as many."""
    rows = with_goal(tables)
    figures = {"accuracy": charts.sweep(rows, note(tables), x="lr", y=charts.TEST_ERROR)}
    if rows["epochs_to_goal"].nunique() > 1:
        epochs = charts.Quantity(
            column="epochs_to_goal", label="epochs to 99 % test accuracy", unit="number", missing="99 % not reached"
        )
        figures["epochs_to_goal"] = charts.sweep(rows, note(tables), x="lr", y=epochs)
    return figures


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
    counts = runs.groupby("lr")["diverged"].agg(["sum", "size"])
    if diverged := [
        name(rate) + (f" ({some} of {every} runs)" if some < every else "")
        for rate, some, every in counts[counts["sum"] > 0].itertuples()
    ]:
        parts.append(f"diverged at {', '.join(diverged)}")
    return "; ".join(parts)


def _ranges(trains: pd.Series) -> str:
    """The unbroken ranges of rates at which a norm trains."""
    spans = (trains != trains.shift()).cumsum()[trains]
    found = [list(rates.index) for _, rates in spans.groupby(spans)]
    texts = [f"from {name(r[0])} to {name(r[-1])}" if len(r) > 1 else f"at {name(r[0])} alone" for r in found]
    return " and ".join(texts) or "nowhere"
