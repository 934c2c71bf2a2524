"""A comparison's figures: each group's seeds and mean, the differences, the curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from normstudy.comparison import Compared
from normstudy.comparison.output import verdict
from normstudy.errors import one_line
from normstudy.figures import norm_styles
from normstudy.report.text import p_value
from normstudy.stats import mean_interval

LONGEST = 40  # characters of a label
NEAR_ONE = 0.9  # above which fractions get an axis that is logarithmic in what they lack to 1
TICKS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 0.9999)


def figures(found: Compared) -> dict[str, Figure]:
    """`means`; `differences` where there are pairs; `curves` where any run has more than one step."""
    drawn = {"means": _means(found)}
    if found.comparisons:
        drawn["differences"] = _differences(found)
    curves = found.curves()
    if any(len(curve) > 1 for curve in curves.values()):
        drawn["curves"] = _curves(found, curves)
    return drawn


def label(text: str) -> str:
    """A name that a figure shows as it is: no line break, no formula, not too long."""
    short = one_line(text, None).replace("$", r"\$")
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"


def _rows(title: str, names: list[str], xlabel: str, *, width: float = 8.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 1.4 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _means(found: Compared) -> Figure:
    names, looks = list(found.groups["group"]), _looks(found)
    metric = label(found.choice.metric)
    figure, axes = _rows(f"{metric} by group: runs, mean and 95 % interval", names, metric)
    generator = np.random.default_rng(0)
    for row, group in enumerate(found.groups.itertuples()):
        values = found.values.loc[found.values["group"] == group.group, "value"].to_numpy()
        scatter = row + 0.16 * generator.uniform(-1, 1, len(values))
        axes.plot(values, scatter, ".", color=looks[group.group]["color"], alpha=0.4, zorder=1)
        reach = (
            [[max(0, group.mean - group.low)], [max(0, group.high - group.mean)]] if group.low == group.low else None
        )
        axes.errorbar([group.mean], [row], xerr=reach, color="black", marker="|", markersize=12, capsize=4, zorder=2)
        axes.annotate(f"n = {group.n}", (1.01, row), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9)
    return figure


def _differences(found: Compared) -> Figure:
    names = [f"{pair.a} minus {pair.b}" for pair in found.comparisons]
    metric = label(found.choice.metric)
    several = "simultaneous 95 % intervals" if len(names) > 1 else "95 % interval"
    figure, axes = _rows(f"Difference of mean {metric}, {several}", names, f"difference of {metric}", width=10.0)
    if found.choice.margin:
        axes.axvspan(-found.choice.margin, found.choice.margin, color="#0072B2", alpha=0.12, linewidth=0)
    axes.axvline(0, color="#333333", linewidth=0.8)
    for row, pair in enumerate(found.comparisons):
        reach = (
            [[max(0, pair.difference - pair.low)], [max(0, pair.high - pair.difference)]]
            if pair.low == pair.low
            else None
        )
        axes.errorbar([pair.difference], [row], xerr=reach, color="black", marker="o", markersize=5, capsize=3)
        said = verdict(pair, None) if pair.winner is None else f"{label(pair.winner)} is better"
        text = f"{said}, p {p_value(pair.deciding_p)}, n = {pair.n}"
        axes.annotate(text, (1.01, row), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8)
    return figure


def _curves(found: Compared, curves: Mapping[str, pd.DataFrame]) -> Figure:
    metric = label(found.choice.metric)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{metric} by step: mean and 95 % interval", loc="left", fontsize=11)
    for name, look in _looks(found).items():
        curve = curves[name][np.isfinite(curves[name])]
        axes.plot(curve.index, curve.mean(axis=1), color=look["color"], linestyle=look["linestyle"], label=label(name))
        bounds = [
            mean_interval(row.dropna().to_numpy()) if row.count() > 1 else (np.nan, np.nan)
            for _, row in curve.iterrows()
        ]
        low, high = np.array(bounds).T
        axes.fill_between(curve.index, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    values = found.values["value"]
    if values.between(0, 1).all() and values.median() > NEAR_ONE:
        _error_scale(axes, 1 - values.max())
    axes.legend(fontsize=8)
    return figure


def _error_scale(axes: Axes, least: float) -> None:
    """An axis that is logarithmic in what the values lack to 1, so that 0.99 and 0.995 stand apart."""
    floor = max(least / 2, 1e-6)
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(1 - y, floor)), lambda z: 1 - 10**-z))
    low, high = axes.dataLim.intervaly
    axes.set_ylim(max(0.0, low), min(high + least / 3, 1 - floor))
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(f"{axes.get_ylabel()} (log scale of the distance to 1)")


def _looks(found: Compared) -> dict[str, dict[str, Any]]:
    """Colour and line of each group: a norm's own where the groups are named like norms."""
    from normstudy.figures import NORM_STYLES, setting_styles

    names = list(found.groups["group"])
    styles = norm_styles(names) if {name.upper() for name in names} <= set(NORM_STYLES) else setting_styles(names)
    return dict(styles)
