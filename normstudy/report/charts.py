"""The experiments' tables to figures: accuracies, their differences, sweeps over a setting.

A table has a row for each run, with the run's `group` (the label that readers see) and `seed`; each function names the
further columns. Accuracies come as fractions and are drawn as percentages. `note` is the line below the title that
gives data, n and what the bars are. A run without a value is never a number: a mark at the axis' edge stands for it.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from normstudy.figures import STYLES, styles_of
from normstudy.stats import SIGNIFICANCE, Comparison, mean_interval

NORM_STYLES: dict[str, dict[str, Any]] = {
    **dict(zip(("GN", "LN", "BN + L1", "IN", "NONE"), STYLES, strict=True)),
    "BN": {"color": "#E69F00", "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},  # Okabe and Ito's orange
}
OTHER_STYLE: dict[str, Any] = {"color": "#777777", "linestyle": "-", "marker": "X"}
ERROR_TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 90)
LONG = 20  # characters of a label, of which no four fit side by side below a figure
FEW_ERROR_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 90)


def styles(groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each group's colour, line and marker: a norm has its colour in every figure, whatever else is drawn.

    Further groups of one norm have its colour and the next marker and line. Groups that name no norm have the colours
    of `plots.styles_of` or, beside groups that do, grey.
    """
    norms = {group: _norm(group) for group in groups}
    if not any(norms.values()):
        return dict(zip(groups, styles_of(len(groups)), strict=True))
    seen: Counter[str] = Counter()
    chosen = {}
    for group, norm in norms.items():
        style = NORM_STYLES.get(norm, OTHER_STYLE)
        if seen[norm]:
            other = STYLES[(list(NORM_STYLES).index(norm) + seen[norm] if norm else seen[norm]) % len(STYLES)]
            style = {**other, "color": style["color"]}
        chosen[group] = style
        seen[norm] += 1
    return chosen


def _norm(group: str) -> str:
    variant = group.split(",")[0].upper()
    return next((name for name in (variant, variant.split(" + ")[0]) if name in NORM_STYLES), "")


def start(title: str, note: str, *, height: float = 5.0) -> Figure:
    """An empty figure, 8 inches wide, under its title and note."""
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle(f"{title}\n{textwrap.fill(note, 100)}", fontsize=10)
    return figure


def means(
    table: pd.DataFrame,
    note: str,
    *,
    intervals: Mapping[str, tuple[float, float]],
    value: str = "test_accuracy",
    noise: float | None = None,
    images: int = 10_000,
) -> Figure:
    """A row for each group: a dot a seed, the mean with the interval of `intervals`, both also in figures.

    `noise`, the standard deviation that the choice of `images` images gives one run, is drawn as a bar to scale. All
    are fractions.
    """
    looks = styles(list(dict.fromkeys(table["group"])))
    half = 100 * (noise or 0)
    figure = start(
        "How accurate is each group, and how far apart are its seeds?",
        note,
        height=max(5.0, 1.8 + 0.45 * (len(looks) + bool(half))),
    )
    axes = figure.subplots()
    for row, (group, runs) in enumerate(table.groupby("group", sort=False)):
        _mean_row(axes, row, 100 * runs[value].to_numpy(float), intervals.get(group), looks[group])
    low, high = axes.get_xlim()
    failed = not np.isfinite(table[value].to_numpy(float)).all()
    axes.set_xlim(low - 0.12 * (high - low) * failed, max(high, low + 2.2 * half))
    if half:
        text = f"binomial noise of {images:,} images: ±{half:.2f} points (one standard deviation)"
        axes.plot([low, low + 2 * half], [len(looks)] * 2, color="#777777", linewidth=5, solid_capstyle="butt")
        axes.text(low, len(looks) + 0.2, text, va="top", fontsize=8)
    axes.set_yticks(range(len(looks)), list(looks))
    axes.set_ylim(len(looks) + bool(half) - 0.4, -0.6)
    axes.set_xlabel(f"{value.replace('_', ' ')}, %")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", alpha=0.3)
    entries = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color="#333333", alpha=0.5, label="one seed"),
        Line2D([], [], marker="o", color="#333333", label="mean and its interval, also at the right"),
    ]
    if failed:
        entries.append(cross("diverged (seeds)"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _mean_row(
    axes: Axes, row: int, values: np.ndarray, interval: tuple[float, float] | None, look: Mapping[str, Any]
) -> None:
    right = values[np.isfinite(values)]
    jitter = 0.618 * np.arange(len(right)) % 1  # the golden ratio's: neighbours lie far apart, and no chance in it
    axes.plot(
        right,
        row + 0.1 + 0.25 * jitter,
        linestyle="none",
        marker="o",
        markersize=4,
        color=look["color"],
        markeredgewidth=0,
        alpha=0.5,
    )
    side = axes.get_yaxis_transform()
    if len(right):
        mean, text = right.mean(), f"{right.mean():.2f}"
        reach = None
        if interval is not None and np.isfinite(interval).all():
            low, high = 100 * interval[0], 100 * interval[1]
            reach, text = _reach(mean, low, high), f"{text} [{low:.2f}, {high:.2f}]"
        axes.errorbar([mean], [row - 0.12], xerr=reach, color=look["color"], marker=look["marker"], capsize=4)
        axes.text(1.01, row, text, transform=side, va="center", fontsize=9)
    if len(right) < len(values):
        axes.plot([0.015], [row], linestyle="none", marker="x", color=look["color"], transform=side)
        axes.text(0.03, row, f"{len(values) - len(right)} of {len(values)}", transform=side, va="center", fontsize=8)


def _reach(middle: Any, low: Any, high: Any) -> np.ndarray:
    """Lengths of the bars to either side, at least 0: the mean of equal values can miss them by a last bit."""
    return np.maximum(np.stack([np.atleast_1d(middle - low), np.atleast_1d(high - middle)]), 0)


def cross(label: str, marker: str = "x") -> Line2D:
    """The legend's entry of runs without a value."""
    return Line2D([], [], linestyle="none", marker=marker, color="#333333", label=label)


def differences(comparisons: Sequence[Comparison], note: str, *, margin: float) -> Figure:
    """A row for each pair: the difference of the means with its interval, verdict, corrected p and n.

    `margin` is a fraction: an interval within it on either side is one condition of `Verdict.EQUIVALENT`.
    """
    count = len(comparisons)
    figure = start("Which groups differ, and which are equivalent?", note, height=max(5.0, 1.8 + 0.3 * count))
    axes = figure.subplots()
    axes.axvspan(-100 * margin, 100 * margin, color="#0072B2", alpha=0.12, linewidth=0)
    axes.axvline(0, color="#333333", linewidth=0.8)
    side = axes.get_yaxis_transform()
    within = f"within {100 * margin:g} points: equivalent, if one-sided t-tests agree (corrected p < {SIGNIFICANCE:g})"
    entries: list[Any] = [Patch(facecolor="#0072B2", alpha=0.2, label=within)]
    for row, pair in enumerate(comparisons):
        middle, low, high = 100 * pair.difference, 100 * pair.low, 100 * pair.high
        if np.isfinite(middle):
            axes.errorbar(
                [middle], [row], xerr=_reach(middle, low, high), color="#000000", marker="o", markersize=5, capsize=3
            )
            verdict = f"{pair.winner} better" if pair.winner else pair.verdict
            p = "p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.3f}"
            axes.text(1.02, row, f"{verdict}, {p}, n = {pair.n}", transform=side, va="center", fontsize=8)
        else:
            axes.plot([0.015], [row], linestyle="none", marker="x", color="#000000", transform=side)
            axes.text(1.02, row, f"diverged, n = {pair.n}", transform=side, va="center", fontsize=8)
            entries[1:] = [cross("diverged")]
    axes.set_yticks(range(count), [f"{pair.a} minus {pair.b}" for pair in comparisons])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlabel("difference of the mean test accuracies, points (first minus second)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(handles=entries, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def sweep(
    table: pd.DataFrame,
    note: str,
    *,
    x: str,
    x_label: str,
    value: str,
    y_label: str,
    log_x: bool = True,
    percent: bool = True,
    error_rate: bool = False,
    diverged: str | None = None,
    missing: str = "diverged",
    zero_label: str = "0",
    interval: Literal["range", "mean"] = "range",
    title: str = "",
    log_y: bool = False,
) -> Figure:
    """A line for each group over the numeric column `x`: the mean over seeds of `value`.

    The bars reach from the lowest to the highest seed, or over the 95 % interval of the mean. With `percent`, `value`
    is a fraction; `error_rate` draws what is missing to 100 % on a log scale. Where `x` is 0 on a log scale, the point
    stands left of a gap. The boolean column `diverged` tells which runs did; `missing` says what else no value means.
    """
    looks = styles(list(dict.fromkeys(table["group"])))
    failed = ~np.isfinite(table[value].to_numpy(float))
    words = np.where(failed, missing, "")
    if diverged is not None:
        words = np.where(table[diverged].to_numpy(bool), "diverged", words)
    scaled = (100 if percent else 1) * table[value].astype(float)
    data = table.assign(y=100 - scaled if error_rate else scaled, word=words)
    places = _places(sorted({float(number) for number in table[x]}), log=log_x)
    names = [label.split(",")[0] for label in (y_label, x_label)]
    figure = start(title or f"{names[0][:1].upper()}{names[0][1:]} by {names[1]}", note)
    axes = figure.subplots()
    entries: list[Any] = [
        _sweep_line(axes, str(group), runs, x, places, (row - (len(looks) - 1) / 2) / 100, looks[group], interval)
        for row, (group, runs) in enumerate(data.groupby("group", sort=False))
    ]
    _x_axis(axes, places, zero_label, log=log_x)
    axes.set_xlabel(x_label + (" (log scale)" if log_x else ""))
    axes.set_ylabel(y_label + (" (log scale)" if error_rate or log_y else ""))
    if error_rate or log_y:
        axes.set_yscale("log")
        error_ticks(axes.yaxis, None if error_rate else LogLocator(subs=(1.0, 3.0)))
    entries += _mark_failed(axes, data, x, places, looks)
    axes.grid(alpha=0.3)
    bars = "lowest to highest seed" if interval == "range" else "95 % interval of the mean"
    columns = 2 if max(map(len, looks)) > LONG else 4
    figure.legend(
        handles=entries,
        title=f"mean over seeds; bars: {bars}",
        loc="outside lower center",
        ncols=min(columns, len(entries)),
        fontsize=8,
        title_fontsize=8,
    )
    return figure


def _places(numbers: Sequence[float], *, log: bool) -> dict[float, float]:
    """Where each number lies on an axis that goes from 0 to 1, or from left of 0 if the number 0 has no logarithm."""
    heights = {number: np.log10(number) if log else number for number in numbers if number > 0 or not log}
    low = min(heights.values(), default=0.0)
    span = (max(heights.values(), default=0.0) - low) or 1.0
    return {number: float((heights[number] - low) / span) if number in heights else -0.15 for number in numbers}


def _sweep_line(
    axes: Axes,
    group: str,
    runs: pd.DataFrame,
    x: str,
    places: Mapping[float, float],
    aside: float,
    look: Mapping[str, Any],
    interval: str,
) -> ErrorbarContainer:
    points: list[tuple[float, float, float, float]] = []
    for number, place in places.items():
        values = runs.loc[(runs[x] == number) & (runs["word"] == ""), "y"].to_numpy(float)
        low, high = (values.min(), values.max()) if len(values) else (np.nan, np.nan)
        if interval == "mean" and len(values) > 1:
            low, high = mean_interval(values)
        if number in set(runs[x]):
            points.append((place + aside, values.mean() if len(values) else np.nan, low, high))
        if place < 0:
            points.append((np.nan,) * 4)  # no line across the gap
    places_x, middle, lows, highs = np.array(points).T
    style = {name: look[name] for name in ("color", "linestyle", "marker")}
    return axes.errorbar(
        places_x,
        middle,
        yerr=_reach(middle, lows, highs),
        label=group,
        markersize=5,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
        **style,
    )


def _x_axis(axes: Axes, places: Mapping[float, float], zero_label: str, *, log: bool) -> None:
    shown = {place: f"{number:g}" for number, place in places.items()}
    if log and 0 in places:
        shown[places[0]] = zero_label
        side = axes.get_xaxis_transform()
        slashes: dict[str, Any] = {"marker": [(-0.5, -1), (0.5, 1)], "markersize": 9, "color": "#333333"}
        axes.plot([-0.085, -0.065], [0, 0], linestyle="none", transform=side, clip_on=False, **slashes)
        axes.plot([-0.075, -0.075], [0, 1], linestyle=":", linewidth=0.8, color="#333333", transform=side)
    every = -(-len(shown) // 14)  # more labels than that run into one another
    axes.set_xticks(list(shown)[::every], list(shown.values())[::every])
    axes.set_xlim(min(shown) - 0.06, 1.1)


def error_ticks(axis: Axis, locator: Locator | None = None) -> None:
    """Ticks of a log scale as plain numbers: those of `locator`, or for errors in percent as many as are legible."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(locator or FixedLocator(ERROR_TICKS if high < 10 * low else FEW_ERROR_TICKS))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_locator(NullLocator())


def _mark_failed(
    axes: Axes, data: pd.DataFrame, x: str, places: Mapping[float, float], looks: Mapping[str, Mapping[str, Any]]
) -> list[Line2D]:
    """Marks in a strip below the data, a row for each group that has any, and their legend entries."""
    failures = data[data["word"] != ""]
    groups = [group for group in looks if group in set(failures["group"])]
    words = sorted(set(failures["word"]), key=lambda word: word != "diverged")
    markers = dict(zip(words, ("x", "1"), strict=False))
    side = axes.get_xaxis_transform()
    if groups:
        part = 0.04 + 0.05 * len(groups)
        scale = axes.yaxis.get_transform()
        low, high = scale.transform(np.array(axes.get_ylim()))
        ticks = [tick for tick in axes.get_yticks() if low <= scale.transform(np.array([tick]))[0] <= high]
        axes.set_ylim(bottom=float(scale.inverted().transform(np.array([low - part / (1 - part) * (high - low)]))[0]))
        axes.set_yticks(ticks)
        axes.plot([0, 1], [part, part], linewidth=0.8, color="#333333", transform=axes.transAxes)
    runs = data.groupby(["group", x]).size()
    for (group, number, word), count in failures.groupby(["group", x, "word"]).size().items():
        place = places[float(number)] + 0.06 * words.index(word)
        height = 0.045 + 0.05 * groups.index(group)
        axes.plot(
            [place], [height], linestyle="none", marker=markers[word], color=looks[group]["color"], transform=side
        )
        axes.annotate(
            f"{count}/{runs[group, number]}",
            (place, height),
            xycoords=side,
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    return [cross(f"{word} (seeds)", markers[word]) for word in words]
