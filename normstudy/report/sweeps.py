"""Experiments that vary one setting: what their pages state, and their figures, from the tables alone.

A run that diverged has no accuracy; it is named, and never averaged.
"""

import math
from dataclasses import replace

import pandas as pd

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.figures import Picture
from normstudy.report import charts
from normstudy.report.groups import Facts, note
from normstudy.report.tables import Tables
from normstudy.report.text import counted, either, markdown_table, percent, sample, short
from normstudy.stats import ROUNDING
from normstudy.tracking import Metric

CHANCE = 0.2  # accuracy up to which a network of ten classes has learned nothing, which may predict two of them
TRAINS = 0.98  # accuracy from which on a network counts as trained
GOAL = 0.99
BUDGETS = (4_000, 8_000, math.inf)  # parameters
RECIPE = (
    *("network", "batch_size", "lr", "weight_decay", "warmup", "rotation", "translation", "scale"),
    *("average", "label_smoothing"),
)
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
    means = rows.groupby([setting, "group"], sort=False)[value].agg(lambda values: values.mean(skipna=False))
    return means.unstack("group")[list(dict.fromkeys(rows["group"]))].sort_index()


def sweep_table(tables: Tables, setting: str = "", rows: pd.DataFrame | None = None, *, how: str = "") -> str:
    """Mean test accuracy by a setting, else the one that is varied, and the norm; how many runs diverged where any did;
    empty where nothing ran."""
    rows, setting = by_norm(tables) if rows is None else rows, setting or varied(tables)
    norms = list(dict.fromkeys(rows["group"]))
    cells = [
        [f"{value:g}", *(_cell(runs[runs["group"] == norm]) for norm in norms)] for value, runs in rows.groupby(setting)
    ]
    table = markdown_table([WORDS.get(setting, setting.replace("_", " ")), *norms], cells)
    return f"{table}\n\nMean test accuracy at the last epoch, {sample(tables.results)}{how}."


def _cell(runs: pd.DataFrame) -> str:
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
    means = cell_means(rows, setting).dropna()
    ends = means.loc[sorted({*means.index[:1], *means.index[-1:]})]
    return {
        "setting": setting.replace("_", " "),
        "norms": _norms(rows, setting),
        "ends": {value: means.sort_values(ascending=False).to_dict() for value, means in ends.iterrows()},
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
        losses = cell.groupby("lr")["val_loss"].agg(lambda values: values.mean(skipna=False))
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


def tried(results: pd.DataFrame) -> pd.DataFrame:
    """The results with what was tried in words, as `tried`, the same without lambda as `settings`, and the norm as
    `variant`.

    Lambda is named, and `other_l1` true, where it is not that of the norm's first run, as the norms don't share one.
    """
    varied = [name for name in RECIPE if name in results and results[name].nunique() > 1]
    settings = [", ".join(f"{name} {short(row[name])}" for name in varied) for row in results.to_dict(orient="records")]
    rows = results.assign(settings=settings, variant=results["norm"].str.upper())
    rows["other_l1"] = rows["l1"] != rows.groupby("norm")["l1"].transform("first")
    lambdas = rows["l1"].map("l1 {:g}".format).where(rows["other_l1"], "")
    joined = [", ".join(filter(None, parts)) for parts in zip(settings, lambdas, strict=True)]
    return rows.assign(tried=[text or "the recipe" for text in joined])


def held_out_table(tables: Tables) -> str:
    """A row for each configuration that was tried, by held-out loss, mean over the variants."""
    rows = tried(tables.results)
    accuracy, loss = (
        rows.pivot_table(index="tried", columns="variant", values=f"val_{v}") for v in ("accuracy", "loss")
    )
    parameters = rows.groupby("tried")["parameters"].first()
    variants = list(dict.fromkeys(rows["variant"]))
    cells = []
    for name, mean in loss.mean(axis=1).sort_values(kind="stable").items():
        numbers = [f"{percent(accuracy.loc[name, v])} / {loss.loc[name, v]:.4f}" for v in variants]
        cells.append([str(name), f"{parameters[name]:,}", *numbers, f"{mean:.4f}"])
    table = markdown_table(["tried", "parameters", *variants, "mean loss"], cells)
    images = either(rows["val_size"])
    return f"{table}\n\nAccuracy / loss (nats) on {images} held-out training images, last epoch, {sample(rows)}."


def held_out_facts(tables: Tables) -> Facts:
    """What was chosen: by the mean held-out loss of the variants, among networks of a size; lambda by BN's own; where
    there is one size and one lambda, the variant with the lowest loss, too.
    """
    rows = tried(tables.results)
    alike, other = rows[~rows["other_l1"]], rows.loc[rows["other_l1"], "settings"]
    sizes = alike["parameters"].map(lambda count: min(budget for budget in BUDGETS if count < budget))
    chosen = {budget: _lowest_two(same, "tried") for budget, same in alike.groupby(sizes)}
    best = next(iter(next(iter(chosen.values()))))
    bn = rows[(rows["variant"] == "BN") & rows["settings"].isin(other)]
    return {
        "counts": rows.groupby("variant", sort=False).size().to_dict(),
        "chosen": chosen,
        "of_variants": _lowest_two(rows[rows["tried"] == best], "variant") if len(chosen) == 1 and other.empty else {},
        "of_norms": _own_best(rows) if rows["seed"].nunique() > 1 else {},
        "of_lambdas": _lowest_two(bn, "l1") if bn["l1"].nunique() > 1 else {},
    }


def _own_best(rows: pd.DataFrame) -> dict[str, Facts]:
    """For each variant its own two lowest mean losses, and that of what was tried first."""
    found = {}
    for name, runs in rows.groupby("variant", sort=False):
        first = runs.loc[runs["tried"] == runs["tried"].iloc[0], "val_loss"].mean()
        found[str(name)] = {"lowest": _lowest_two(runs, "tried"), "first": first}
    return found


def _lowest_two(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """The lowest mean loss and the next."""
    lowest = rows.groupby(column)["val_loss"].mean().sort_values(kind="stable")[:2]
    return {short(name): float(loss) for name, loss in lowest.items()}
