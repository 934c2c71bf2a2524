"""Networks under shift, and how sure they are: facts and figures from the tables alone."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy.report import error_charts
from normstudy.report.groups import Facts, note
from normstudy.report.tables import CalibrationTables, ShiftTables
from normstudy.report.text import either
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


def shift(tables: ShiftTables) -> Facts:
    """Which norm bears shifted images, and the corruption that all bear worst."""
    means = shifted_means(tables)
    shifted = tables.shift[tables.shift["severity"] > 0]
    severest = shifted["severity"].max()
    trained = shifted[(shifted["statistics"] != RE_ESTIMATED) & (shifted["severity"] == severest)]
    worst = trained.pivot_table(index="corruption", columns="group", values="accuracy", sort=False)
    hardest = worst.mean(axis=1).idxmin()
    accuracies = worst.loc[hardest]
    return {
        "means": means.mean().sort_values(ascending=False, kind="stable").to_dict(),
        "seeds": len(means),
        "corruptions": shifted["corruption"].nunique(),
        "severities": (shifted["severity"].min(), severest),
        "pairs": shift_pairs(tables),
        "hardest": {"corruption": hardest, "lowest": accuracies.idxmin(), "highest": accuracies.idxmax()},
        "accuracies": accuracies.to_dict(),
    }


def calibration_figures(tables: CalibrationTables) -> dict[str, Figure]:
    """Reliability before and after the temperature."""
    said = note(tables, f"temperature fitted on {either(tables.results['val_size'])} held-out training images")
    return {"reliability": error_charts.reliability(tables.reliability, tables.calibration, said)}


def calibration(tables: CalibrationTables) -> Facts:
    """Whether the networks know how sure they are: the means of each group, and the interval of its temperature."""
    found = {}
    for group, rows in tables.calibration.groupby("group", sort=False):
        several, temperatures = len(rows) > 1, rows["temperature"].to_numpy()
        interval = bootstrap_interval(temperatures, np.random.default_rng(0)) if several else None
        found[str(group)] = {**rows.mean(numeric_only=True), "interval": interval, "seeds": len(rows)}
    return {"groups": found}
