"""What the trained networks are beside their accuracy: calibrated, better on their training images; facts and
figures from the tables alone."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t

from normstudy.figures import Picture
from normstudy.report import charts, error_charts
from normstudy.report.groups import Facts, against_first, baseline_facts, note
from normstudy.report.tables import (
    CalibrationTables,
    CollapseTables,
    OverfittingTables,
    TemperatureTables,
    by_seed,
)
from normstudy.report.text import either, markdown_table, percent, sample
from normstudy.report.validation import STATISTICS
from normstudy.report.variance import crossed
from normstudy.stats import SIGNIFICANCE, Comparison, compare_pairs, mean_interval

GAP = charts.Quantity(
    column="gap",
    label="gap, points",
    unit="percent",
    plural="gaps",
    differences="points of the gap, first minus second",
)


def calibration_figures(tables: CalibrationTables) -> dict[str, Picture]:
    """The gap between accuracy and confidence, before and after the temperature."""
    said = note(
        tables,
        f"The temperature was fitted on {either(tables.results['val_size'])} held-out training images. Bars: 95 % "
        "interval of the mean over seeds; below 0: overconfident. Bins of fewer than "
        f"{error_charts.FEWEST} images are left out.",
    )
    return {"calibration": error_charts.draw_calibration(tables.reliability, tables.calibration, said)}


def calibration_facts(tables: CalibrationTables) -> Facts:
    """Whether the networks know how sure they are: the means of each group, and the simultaneous
    interval of its temperature."""
    found, every = {}, tables.calibration.groupby("group", sort=False)
    for group, rows in every:
        temperatures, confidence = rows["temperature"].to_numpy(), 1 - SIGNIFICANCE / len(every)
        interval = mean_interval(temperatures, confidence=confidence) if len(rows) > 1 else None
        found[str(group)] = {**rows.mean(numeric_only=True), "interval": interval, "seeds": len(rows)}
    return {"groups": found}


def ghost_facts(tables: CollapseTables) -> Facts:
    """As of a baseline; and BN's groups with statistics of the test images, each against the first."""
    both = tables.statistics[tables.statistics["statistics"] == STATISTICS[1]]
    again = both.pivot(index="seed", columns="group", values="accuracy")
    pairs = against_first(again, dict.fromkeys(tables.results["group"]))
    return {**baseline_facts(tables), "again": pairs, "means": again.dropna(axis=1).mean().to_dict()}


def overfitting_rows(tables: OverfittingTables) -> pd.DataFrame:
    """The results with accuracy and loss on the training images as they are, and how far the first is above that on the
    test images, as `gap`."""
    clean = tables.training.rename(columns={"accuracy": "clean_accuracy", "loss": "clean_loss"})
    rows = tables.results.merge(clean[["run_id", "clean_accuracy", "clean_loss"]], on="run_id", how="left")
    return rows.assign(gap=rows["clean_accuracy"] - rows["test_accuracy"])


def overfitting_pairs(tables: OverfittingTables) -> list[Comparison]:
    """How much the gap differs between groups, each pair; none of single seeds or where a seed diverged."""
    gaps = by_seed(overfitting_rows(tables), "gap")
    return (
        []
        if gaps is None or len(gaps) < 2
        else compare_pairs(gaps, list(combinations(gaps, 2)), higher_is_better=False)
    )


def overfitting_figures(tables: OverfittingTables) -> dict[str, Picture]:
    """The differences of the gaps."""
    pairs = overfitting_pairs(tables)
    said = note(tables, f"Bars: simultaneous 95 % intervals of all {len(pairs)} pairs (t).")
    return {"gaps": charts.draw_differences(pairs, said, y=GAP)} if pairs else {}


def overfitting_table(tables: OverfittingTables) -> str:
    """A row a group: accuracy on training images with and without augmentation, on test images, and the gap."""
    cells = []
    for group, runs in overfitting_rows(tables).groupby("group", sort=False):
        mean = runs.mean(numeric_only=True)
        shown = [percent(mean[name], 3) for name in ("train_accuracy", "clean_accuracy", "test_accuracy")]
        cells.append([str(group), *shown, f"{100 * mean['gap']:.3f}", f"{mean['clean_loss']:.4f}"])
    head = ["", "training, augmented", "training, not augmented", "test", "gap, points", "loss, not augmented"]
    return f"{markdown_table(head, cells)}\n\nMeans at the last epoch, {sample(tables.results)}."


def overfitting_facts(tables: OverfittingTables) -> Facts:
    """The gap of each group with its interval, and whether any pair differs in it."""
    rows, found = overfitting_rows(tables), {}
    for group, runs in rows.groupby("group", sort=False):
        interval = mean_interval(runs["gap"].to_numpy()) if len(runs) > 1 else None
        found[str(group)] = {**runs.mean(numeric_only=True), "interval": interval, "seeds": len(runs)}
    return {"groups": found, "pairs": overfitting_pairs(tables)}


def pseudo_values(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A row a seed, a column a fold: what each fold adds to an estimate, whose mean is the jackknife's.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11, a fold in place of a single image. Of a
    number that is a mean over the images already, the fold's own; that the temperatures of two folds are fitted on
    mostly the same images is left out.
    """
    table = rows.pivot(index="seed", columns="fold", values=column).to_numpy()
    if column != "temperature":
        return table
    every = rows.groupby("seed")["temperature_all"].first().to_numpy()[:, None]
    return table.shape[1] * every - (table.shape[1] - 1) * table


def temperature_of(rows: pd.DataFrame, confidence: float) -> Facts:
    """Of a group: its temperature and what scaling by it adds to the loss of images that it was not fitted on, each
    with its interval over seeds and images, the folds; and the loss without."""
    loss = rows.assign(change=rows["nll_scaled"] - rows["nll"])
    seeds = rows["seed"].nunique()
    found: Facts = {"seeds": seeds, "nll": rows["nll"].mean()}
    for name in ("temperature", "change"):
        values = pseudo_values(loss, name)
        found[name], found[f"{name}_interval"] = float(values.mean()), None
        if seeds > 1:
            both = crossed(values)
            half = both.error * t.ppf((1 + confidence) / 2, min(values.shape) - 1)
            found[f"{name}_interval"] = (both.mean - half, both.mean + half)
    return found


def temperature_facts(tables: TemperatureTables) -> Facts:
    """Whether a group is over- or under-confident, by a simultaneous interval over seeds and images."""
    every = tables.crossfit.groupby("group", sort=False)
    return {
        # simultaneous over the groups and the two numbers of each
        "groups": {str(group): temperature_of(rows, 1 - SIGNIFICANCE / (2 * len(every))) for group, rows in every},
        "folds": tables.crossfit["fold"].nunique(),
    }


def temperature_table(tables: TemperatureTables) -> str:
    """A row a group: temperature, loss, and what scaling changes, with simultaneous intervals."""
    cells = []
    for group, facts in temperature_facts(tables)["groups"].items():
        shown = [f"{facts['temperature']:.3f}", f"{facts['nll']:.5f}", f"{facts['change']:+.5f}"]
        for place, name, form in ((0, "temperature", "{:.3f} to {:.3f}"), (2, "change", "{:+.5f} to {:+.5f}")):
            if interval := facts[f"{name}_interval"]:
                shown[place] += f" ({form.format(*interval)})"
        cells.append([group, str(facts["seeds"]), *shown])
    head = ["", "n", "temperature", "loss, nats", "change of the loss by scaling, nats"]
    several = tables.crossfit["seed"].nunique() > 1
    said = "\n\nIn brackets: simultaneous 95 % intervals over seeds and images." if several else ""
    return markdown_table(head, cells) + said
