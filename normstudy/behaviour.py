"""Networks under shift, and how sure they are: figures and findings from the tables alone."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy import error_charts
from normstudy.answers import note
from normstudy.stats import Comparison, bootstrap_interval, compare
from normstudy.summary import measured, sentence
from normstudy.tables import Tables

RE_ESTIMATED = "re-estimated"


def shift_figures(tables: Tables) -> dict[str, Figure]:
    """Accuracy under each corruption."""
    assert tables.shift is not None
    return {"shift": error_charts.shift(tables.shift, note(tables, "band: lowest to highest seed"))}


def shifted_means(tables: Tables) -> pd.DataFrame:
    """Mean accuracy over all corruptions and severities, a row a seed, a column a group and kind of statistics."""
    assert tables.shift is not None
    rows = tables.shift[tables.shift["severity"] > 0]
    again = rows["statistics"] == RE_ESTIMATED
    named = rows.assign(group=rows["group"].where(~again, rows["group"] + ", " + RE_ESTIMATED))
    order = list(dict.fromkeys(named["group"]))
    return named.pivot_table(index="seed", columns="group", values="accuracy")[order]


def shift_pairs(tables: Tables) -> list[Comparison]:
    """Each norm, and BN with new statistics, against BN as trained."""
    means = shifted_means(tables)
    return compare(means, [(name, "BN") for name in means if name != "BN"], np.random.default_rng(0))


def shift(tables: Tables) -> list[str]:
    """Which norm bears shifted images."""
    means, pairs = shifted_means(tables), shift_pairs(tables)
    ranked = means.mean().sort_values(ascending=False)
    order = ", ".join(f"{name} {100 * value:.1f} %" for name, value in ranked.items())
    assert tables.shift is not None
    trained = tables.shift[(tables.shift["statistics"] != RE_ESTIMATED) & (tables.shift["severity"] == 5)]
    worst = trained.pivot_table(index="corruption", columns="group", values="accuracy", sort=False)
    hardest = worst.mean(axis=1).idxmin()
    best, least = worst.loc[hardest].idxmax(), worst.loc[hardest].idxmin()
    return [
        f"Mean accuracy over the seven corruptions and five severities, n = {len(means)} seeds: {order}.",
        sentence(pairs),
        *(f"{measured(pair)}: **{pair.verdict}**." for pair in pairs),
        f"Hardest at severity 5 is {hardest}: from {100 * worst.loc[hardest, least]:.1f} % ({least}) to "
        f"{100 * worst.loc[hardest, best]:.1f} % ({best}).",
    ]


def calibration_figures(tables: Tables) -> dict[str, Figure]:
    """Reliability before and after the temperature."""
    assert tables.calibration is not None
    assert tables.reliability is not None
    said = note(tables, "temperature fitted on 6,000 held-out training images")
    return {"reliability": error_charts.reliability(tables.reliability, tables.calibration, said)}


def calibration(tables: Tables) -> list[str]:
    """Whether the networks know how sure they are."""
    assert tables.calibration is not None
    lines = []
    for group, rows in tables.calibration.groupby("group", sort=False):
        mean = rows.mean(numeric_only=True)
        low, high = bootstrap_interval(rows["temperature"].to_numpy(), np.random.default_rng(0))
        doubt = "over-confident" if low > 1 else "under-confident" if high < 1 else "neither over- nor under-confident"
        lines.append(
            f"{group} is {doubt}: temperature {mean['temperature']:.2f} ({low:.2f} to {high:.2f}, n = {len(rows)} "
            f"seeds); ECE {100 * mean['ece']:.2f} before and {100 * mean['ece_scaled']:.2f} points after scaling, NLL "
            f"{mean['nll']:.4f} and {mean['nll_scaled']:.4f} nats."
        )
    return lines
