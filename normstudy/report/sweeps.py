"""Experiments that vary one setting: what their pages state, and their figures, from the tables alone.

A run that diverged has no accuracy; it is named, and never averaged.
"""

from dataclasses import replace

import pandas as pd

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.figures import Picture
from normstudy.report import charts
from normstudy.report.groups import Facts, against_first, note
from normstudy.report.tables import Tables, whole_mean
from normstudy.report.text import counted, markdown_table, percent, sample
from normstudy.stats import ROUNDING
from normstudy.tracking import Metric

CHANCE = 0.2  # accuracy up to which a network of ten classes has learned nothing, which may predict two of them
TRAINS = 0.98  # accuracy from which on a network counts as trained
GOAL = 0.99
WORDS = {"l1": "lambda", "lr": "learning rate"}
USUAL = 64  # images a batch, what the smallest batches are held against


def by_norm(tables: Tables) -> pd.DataFrame:
    """The results with the norm as group, and whether a run diverged."""
    rows = tables.results
    return rows.assign(group=rows["norm"].str.upper(), diverged=rows["diverged_at"].notna())


def cell_means(rows: pd.DataFrame, setting: str, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean over seeds, a row a value of the setting, ascending, and a column a norm; missing where any seed has none.

    A mean of the seeds that happened not to diverge would flatter a norm.
    """
    means = rows.groupby([setting, "group"], sort=False)[value].agg(whole_mean)
    return means.unstack("group")[list(dict.fromkeys(rows["group"]))].sort_index()


def sweep_table(tables: Tables, setting: str = "", rows: pd.DataFrame | None = None, *, how: str = "") -> str:
    """Mean test accuracy by a setting, else the one that is varied, and the norm; how many runs diverged where any did;
    empty where nothing ran."""
    rows, setting = by_norm(tables) if rows is None else rows, setting or varied(tables)
    norms = list(dict.fromkeys(rows["group"]))
    cells = [
        [f"{value:g}", *(accuracy_cell(runs[runs["group"] == norm]) for norm in norms)]
        for value, runs in rows.groupby(setting)
    ]
    table = markdown_table([WORDS.get(setting, setting.replace("_", " ")), *norms], cells)
    return f"{table}\n\nMean test accuracy at the last epoch, {sample(tables.results)}{how}."


def accuracy_cell(runs: pd.DataFrame) -> str:
    """The mean accuracy of these runs, and how many diverged; nothing of none."""
    failed = int(runs["diverged"].sum())
    if failed == len(runs):
        return "diverged" if failed else ""
    return percent(runs["test_accuracy"].mean()) + (f", {failed} of {len(runs)} diverged" if failed else "")


def varied(tables: Tables) -> str:
    """The setting that a sweep varies. Raises `ReportError` unless it is one number, beside the norm and the seed."""
    found = [name for name in TrainConfig.model_fields if name in tables.results and tables.results[name].nunique() > 1]
    found = [name for name in found if name not in ("norm", "seed")]
    if len(found) != 1 or tables.results[found[0]].dtype.kind not in "if":
        raise ReportError(f"report=sweep: {', '.join(found) or 'no setting'} varies; expected one that is a number")
    return found[0]


def sweep_figures(tables: Tables) -> dict[str, Picture]:
    """Errors over the setting that is varied."""
    return {"error_rate": charts.draw_sweep(by_norm(tables), note(tables), x=varied(tables), y=charts.TEST_ERROR)}


def sweep_facts(tables: Tables) -> Facts:
    """For each norm the best value of the setting, and where it diverged."""
    setting, rows = varied(tables), by_norm(tables)
    norms = list(dict.fromkeys(rows["group"]))
    by_value = {
        value: runs.pivot(index="seed", columns="group", values="test_accuracy")
        for value, runs in rows.groupby(setting)
    }
    lowest, highest = by_value[min(by_value)], by_value[max(by_value)]
    return {
        "setting": setting.replace("_", " "),
        "norms": _norms(rows, setting),
        "values": [
            {
                "value": value,
                "means": of.dropna().sort_values(ascending=False).to_dict(),
                "pairs": against_first(by_value[value], norms),
            }
            for value, of in cell_means(rows, setting).iterrows()
        ],
        "change": against_first(highest - lowest, norms),
    }


def _norms(rows: pd.DataFrame, setting: str) -> dict[str, Facts]:
    """Each norm's mean accuracy by value of the setting, the best value, and where how many of its runs diverged."""
    norms = {}
    for norm, mean in cell_means(rows, setting).items():
        lost = rows[rows["group"] == norm].groupby(setting)["diverged"].agg(["sum", "size"])
        diverged = [tuple(cell) for cell in lost[lost["sum"] > 0].itertuples()]
        norms[str(norm)] = {"mean": mean.dropna(), "best": mean.idxmax() if mean.notna().any() else None}
        norms[str(norm)]["diverged"] = diverged
    return norms


def tuned(tables: Tables) -> pd.DataFrame:
    """For each norm and batch size the runs of the learning rate with the lowest mean held-out loss.

    A rate of which any seed diverged is not chosen; where all rates are out, the runs that diverged stay, so that the
    cell counts as diverged.
    """
    rows = by_norm(tables)
    chosen = []
    for _, cell in rows.groupby(["group", "batch_size"], sort=False):
        losses = cell.groupby("lr")["val_loss"].agg(whole_mean)
        chosen.append(cell[cell["lr"] == losses.idxmin() if losses.notna().any() else cell["diverged"]])
    return pd.concat(chosen, ignore_index=True)


def batch_size_figures(tables: Tables) -> dict[str, Picture]:
    """Errors over batch size, with the learning rate retuned, and the rates that were chosen."""
    rows = tuned(tables)
    said = note(tables, "The learning rate was retuned on held-out images for each point.")
    rates = charts.Quantity(column="lr", label="chosen peak learning rate", unit="number, log scale")
    return {
        "error_rate": charts.draw_sweep(rows, said, x="batch_size", y=charts.TEST_ERROR),
        "learning_rates": charts.draw_sweep(rows, said, x="batch_size", y=rates),
    }


def batch_size_table(tables: Tables) -> str:
    """Accuracy by batch size, with the learning rate retuned."""
    how = ", each at the learning rate with the lowest held-out loss"
    return sweep_table(tables, "batch_size", tuned(tables), how=how)


def batch_size_facts(tables: Tables) -> Facts:
    """Whether BatchNorm falls at batches of 2: errors at the smallest, the usual and the largest batches; in how many
    cells the chosen rate had no neighbour on one side, so that another one may do better.
    """
    rows = tuned(tables)
    errors = (1 - cell_means(rows, "batch_size")).round(ROUNDING)
    sizes = sorted({errors.index.min(), errors.index.max(), *errors.index.intersection([USUAL])})
    tried = by_norm(tables).groupby(["group", "batch_size"])["lr"].agg(["min", "max"])
    chosen = rows.groupby(["group", "batch_size"])["lr"].first()
    return {
        "errors": {str(norm): column.loc[sizes].to_dict() for norm, column in errors.items()},
        "smallest": sizes[0],
        "usual": USUAL if USUAL in sizes[1:] else None,
        "seeds": rows["seed"].nunique(),
        "at_an_end": int(((chosen == tried["min"]) | (chosen == tried["max"])).sum()),
        "cells": len(chosen),
        "best": {str(norm): column.idxmin() for norm, column in errors.items() if column.notna().any()},
    }


def epochs_to_goal(tables: Tables) -> pd.Series:
    """The first epoch of each run, in the order of the results, whose test accuracy is 99 % or more; missing where none
    is.
    """
    reached = tables.epochs[tables.epochs[str(Metric.TEST_ACCURACY)] >= GOAL]
    return tables.results["run_id"].map(reached.groupby("run_id")["epoch"].min())


def learning_rate_figures(tables: Tables) -> dict[str, Picture]:
    """Errors over the learning rate, and epochs to 99 %, unless all that get there take as many."""
    rows = by_norm(tables).assign(epochs_to_goal=epochs_to_goal(tables))
    trained = rows.assign(test_accuracy=rows["test_accuracy"].where(rows["test_accuracy"] > CHANCE))
    error = replace(charts.TEST_ERROR, missing="at chance level")
    figures = {"error_rate": charts.draw_sweep(trained, note(tables), x="lr", y=error)}
    if rows["epochs_to_goal"].nunique() > 1:
        epochs = charts.Quantity(
            column="epochs_to_goal", label="epochs to 99 % test accuracy", unit="number", missing="99 % not reached"
        )
        figures["epochs_to_goal"] = charts.draw_sweep(rows, note(tables), x="lr", y=epochs)
    return figures


def learning_rate_facts(tables: Tables) -> Facts:
    """The ranges of rates in which every run of a norm trains, and the first epoch in which one gets to 99 %."""
    rows = by_norm(tables).assign(epochs_to_goal=epochs_to_goal(tables))
    norms = _norms(rows, "lr")
    for norm, facts in norms.items():
        runs = rows[rows["group"] == norm]
        trains = runs.groupby("lr")["test_accuracy"].agg(lambda values: values.min(skipna=False)) >= TRAINS
        unbroken = (trains != trains.shift()).cumsum()[trains]
        facts["ranges"] = [(rates.index[0], rates.index[-1]) for _, rates in unbroken.groupby(unbroken)]
        first = runs.loc[~runs["diverged"], "epochs_to_goal"].min()
        facts["first"] = None if pd.isna(first) else counted(int(first), "epoch")
    return {"norms": norms, "trains": TRAINS, "goal": GOAL}


def learning_rate_table(tables: Tables) -> str:
    """Accuracy by learning rate."""
    return sweep_table(tables, "lr")
