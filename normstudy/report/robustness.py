"""Networks under shift, and how sure they are: figures and findings from the tables alone."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy.report import error_charts
from normstudy.report.compare import counted, note, verdicts
from normstudy.report.tables import CalibrationTables, ShiftTables
from normstudy.stats import Comparison, bootstrap_interval, compare

RE_ESTIMATED = "re-estimated"


def shift_figures(tables: ShiftTables) -> dict[str, Figure]:
    """Accuracy under each corruption."""
    said = note(tables, "shown: every fourth of these; band: lowest to highest seed")
    return {"shift": error_charts.shift(tables.shift, said)}


def shifted_means(tables: ShiftTables) -> pd.DataFrame:
    """Mean accuracy over all corruptions and severities, a row a seed, a column a group and kind of statistics."""
    rows = tables.shift[tables.shift["severity"] > 0]
    again = rows["statistics"] == RE_ESTIMATED
    named = rows.assign(group=rows["group"].where(~again, rows["group"] + ", " + RE_ESTIMATED))
    order = list(dict.fromkeys(named["group"]))
    return named.pivot_table(index="seed", columns="group", values="accuracy")[order]


def shift_pairs(tables: ShiftTables) -> list[Comparison]:
    """Each norm, and BN with new statistics, against BN as trained; none of single seeds."""
    means = shifted_means(tables)
    if len(means) < 2:
        return []
    return compare(means, [(name, "BN") for name in means if name != "BN"], np.random.default_rng(0))


def shift(tables: ShiftTables) -> list[str]:
    """Which norm bears shifted images."""
    means = shifted_means(tables)
    ranked = means.mean().sort_values(ascending=False, kind="stable")
    order = ", ".join(f"{name} {100 * value:.1f} %" for name, value in ranked.items())
    shifted = tables.shift[tables.shift["severity"] > 0]
    kinds, severest = shifted["corruption"].nunique(), shifted["severity"].max()
    asked = f"{counted(kinds, 'corruption')}, severities {shifted['severity'].min()} to {severest}"
    trained = shifted[(shifted["statistics"] != RE_ESTIMATED) & (shifted["severity"] == severest)]
    worst = trained.pivot_table(index="corruption", columns="group", values="accuracy", sort=False)
    hardest = worst.mean(axis=1).idxmin()
    best, least = worst.loc[hardest].idxmax(), worst.loc[hardest].idxmin()
    return [
        f"Mean accuracy over {asked}, n = {counted(len(means), 'seed')} each: {order}"
        f' ("{RE_ESTIMATED}": with mean and variance of the shifted images).',
        *verdicts(shift_pairs(tables)),
        f"Hardest at severity {severest}, as trained, is {hardest}: from {100 * worst.loc[hardest, least]:.1f} % "
        f"({least}) to {100 * worst.loc[hardest, best]:.1f} % ({best}).",
    ]


def calibration_figures(tables: CalibrationTables) -> dict[str, Figure]:
    """Reliability before and after the temperature."""
    held_out = " or ".join(f"{size:,}" for size in sorted(set(tables.results["val_size"])))
    said = note(tables, f"temperature fitted on {held_out} held-out training images")
    return {"reliability": error_charts.reliability(tables.reliability, tables.calibration, said)}


def calibration(tables: CalibrationTables) -> list[str]:
    """Whether the networks know how sure they are."""
    return [f"{group} {_sureness(rows)}" for group, rows in tables.calibration.groupby("group", sort=False)]


def _sureness(rows: pd.DataFrame) -> str:
    mean, temperatures = rows.mean(numeric_only=True), rows["temperature"].to_numpy()
    low, high = bootstrap_interval(temperatures, np.random.default_rng(0)) if len(rows) > 1 else (0.0, np.inf)
    said, interval = "neither over- nor under-confident", f"{low:.2f} to {high:.2f}, n = {len(rows)} seeds"
    if len(rows) == 1:
        said, interval = "one network, too few to tell over- from under-confident", "n = 1"
    elif low > 1:
        said = "over-confident"
    elif high < 1:
        said = "under-confident"
    return (
        f"is {said}: temperature {mean['temperature']:.2f} ({interval}); calibration error (ECE) "
        f"{100 * mean['ece']:.2f} points before and {100 * mean['ece_scaled']:.2f} after scaling, log-likelihood loss "
        f"(NLL) {mean['nll']:.4f} and {mean['nll_scaled']:.4f} nats."
    )
