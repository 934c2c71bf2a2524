"""The experiments' tables to figures: accuracies, their differences, sweeps over a setting.

A table has a row for each run, with the run's `group` (the label that readers see) and `seed`; each function names the
further columns. Accuracies come as fractions and are drawn as percentages. `note` is the line below the title that
gives data, n and what the bars are. A run without a value is never a number: a mark at the axis' edge stands for it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, Locator, LogLocator, NullLocator

from normstudy.figures import Style, norm_styles, setting_styles
from normstudy.report.text import p_value
from normstudy.stats import MARGIN, SIGNIFICANCE, Comparison

DARK = "#333333"
ERROR_TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 90)
FEW_ERROR_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 90)
LONG = 20  # characters of a label, of which no four fit side by side below a figure
SETTINGS = {"l1": "lambda of the L1 penalty", "batch_size": "batch size, images", "lr": "peak learning rate"}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A column that a sweep draws, with the label of its axis.

    "percent" is a fraction as a percentage, "error" what it lacks to 100 %, on a log scale; the rest is drawn as it is.
    """

    column: str
    label: str
    unit: Literal["error", "percent", "number", "number, log scale"]
    missing: str = "diverged"  # what no value means where the run did not diverge


TEST_ERROR = Quantity(column="test_accuracy", label="test error, %", unit="error")


def start(title: str, note: str, *, height: float = 5.0) -> Figure:
    """An empty figure, 8 inches wide, under its title and note."""
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle(f"{title}\n{textwrap.fill(note, 100)}", fontsize=10)
    return figure


def legend_below(figure: Figure, entries: Sequence[Any] | None = None, *, columns: int, title: str = "") -> None:
    """A legend of these entries, or of all that have a label, below the figure."""
    figure.legend(handles=entries, title=title, loc="outside lower center", ncols=columns, fontsize=8, title_fontsize=8)


def entry(label: str, marker: str, **look: Any) -> Line2D:
    """A legend's entry: a mark of no group."""
    return Line2D([], [], linestyle="none", marker=marker, label=label, **{"color": DARK, **look})


def label_rows(axes: Axes, labels: Sequence[str], xlabel: str, *, above: float = 0.6, below: float = 0.6) -> None:
    """A row for each label, the first on top, with this much room above the first and below the last."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 1 + below, -above)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)


def means(table: pd.DataFrame, note: str, *, intervals: Mapping[str, tuple[float, float]], noise: float) -> Figure:
    """A row for each group: a dot a seed, the mean with the interval of `intervals`, both also in figures.

    The column is `test_accuracy`. `noise`, the standard deviation that the choice of 10,000 test images gives one run,
    is drawn as a bar to scale. All are fractions.
    """
    looks = norm_styles(table["group"].unique())
    title = "How accurate is each group, and how far apart are its seeds?"
    figure = start(title, note, height=max(5.0, 1.8 + 0.45 * (len(looks) + 1)))
    axes = figure.subplots()
    for row, (group, runs) in enumerate(table.groupby("group", sort=False)["test_accuracy"]):
        _mean_row(axes, row, 100 * runs.to_numpy(float), intervals.get(str(group)), looks[str(group)])
    low, high = axes.get_xlim()
    failed, half = bool(table["test_accuracy"].isna().any()), 100 * noise
    axes.set_xlim(low - 0.12 * (high - low) * failed, max(high, low + 2.2 * half))
    axes.plot([low, low + 2 * half], [len(looks)] * 2, color="#777777", linewidth=5, solid_capstyle="butt")
    text = f"binomial noise of 10,000 images: ±{half:.2f} points (one standard deviation)"
    axes.text(low, len(looks) + 0.2, text, va="top", fontsize=8)
    label_rows(axes, list(looks), "test accuracy, %", below=1.6)
    axes.ticklabel_format(axis="x", useOffset=False)
    entries = [
        entry("one seed", "o", markersize=4, alpha=0.5),
        Line2D([], [], marker="o", color=DARK, label="mean and its interval, also at the right"),
    ]
    legend_below(figure, [*entries, *[entry("diverged (seeds)", "x")] * failed], columns=3)
    return figure


def _mean_row(axes: Axes, row: int, values: np.ndarray, interval: tuple[float, float] | None, look: Style) -> None:
    right, color, side = values[np.isfinite(values)], look["color"], axes.get_yaxis_transform()
    jitter = 0.618 * np.arange(len(right)) % 1  # the golden ratio's: neighbours lie far apart, and no chance in it
    axes.plot(right, row + 0.1 + 0.25 * jitter, "o", markersize=4, color=color, markeredgewidth=0, alpha=0.5)
    if len(right):
        mean, reach, text = right.mean(), None, f"{right.mean():.2f}"
        if interval is not None and np.isfinite(interval).all():
            low, high = 100 * interval[0], 100 * interval[1]
            reach, text = _reach(mean, low, high), f"{text} [{low:.2f}, {high:.2f}]"
        axes.errorbar([mean], [row - 0.12], xerr=reach, color=color, marker=look["marker"], capsize=4)
        axes.text(1.01, row, text, transform=side, va="center", fontsize=9)
    if len(right) < len(values):
        axes.plot([0.015], [row], "x", color=color, transform=side)
        axes.text(0.03, row, f"{len(values) - len(right)} of {len(values)}", transform=side, va="center", fontsize=8)


def _reach(middle: Any, low: Any, high: Any) -> np.ndarray:
    """Lengths of the bars to either side, at least 0: the mean of equal values can miss them by a last bit."""
    return np.maximum(np.stack([np.atleast_1d(middle - low), np.atleast_1d(high - middle)]), 0)


def differences(comparisons: Sequence[Comparison], note: str) -> Figure:
    """A row for each pair: the difference of the means with its interval, verdict, corrected p and n.

    An interval within `MARGIN` on either side is one condition of `Verdict.EQUIVALENT`.
    """
    count, margin = len(comparisons), 100 * MARGIN
    figure = start("Which groups differ, and which are equivalent?", note, height=max(5.0, 1.8 + 0.3 * count))
    axes = figure.subplots()
    axes.axvspan(-margin, margin, color="#0072B2", alpha=0.12, linewidth=0)
    axes.axvline(0, color=DARK, linewidth=0.8)
    side = axes.get_yaxis_transform()
    within = f"within {margin:g} points: equivalent, if one-sided t-tests agree (corrected p < {SIGNIFICANCE:g})"
    entries: list[Artist] = [Patch(facecolor="#0072B2", alpha=0.2, label=within)]
    for row, pair in enumerate(comparisons):
        middle, low, high = 100 * pair.difference, 100 * pair.low, 100 * pair.high
        if np.isfinite(middle):
            reach = _reach(middle, low, high)
            axes.errorbar([middle], [row], xerr=reach, color="#000000", marker="o", markersize=5, capsize=3)
            verdict = f"{pair.winner} better" if pair.winner else pair.verdict
            text = f"{verdict}, p {p_value(pair.deciding_p)}"
        else:
            axes.plot([0.015], [row], "x", color="#000000", transform=side)
            text, entries[1:] = "diverged", [entry("diverged", "x")]
        axes.text(1.02, row, f"{text}, n = {pair.n}", transform=side, va="center", fontsize=8)
    label = "difference of the mean test accuracies, points (first minus second)"
    label_rows(axes, [f"{pair.a} minus {pair.b}" for pair in comparisons], label)
    legend_below(figure, entries, columns=2)
    return figure


def sweep(table: pd.DataFrame, note: str, *, x: str, y: Quantity, settings: bool = False) -> Figure:
    """A line for each group over the setting `x`, on a log scale: the mean over seeds of `y`.

    The bars reach from the lowest to the highest seed; a point at 0 stands left of a gap. The boolean column `diverged`
    tells which runs did. With `settings` the groups are other settings than `x`, and no norms.
    """
    label, names = SETTINGS.get(x, x.replace("_", " ")), list(table["group"].unique())
    looks = setting_styles(names) if settings else norm_styles(names)
    words = np.where(table["diverged"], "diverged", np.where(table[y.column].isna(), y.missing, ""))
    scaled = (100 if y.unit in ("error", "percent") else 1) * table[y.column].astype(float)
    data = table.assign(x=table[x].astype(float), y=100 - scaled if y.unit == "error" else scaled, word=words)
    places = _places(sorted(data["x"].unique()))
    over, of = label.split(",")[0], y.label.split(",")[0]
    figure = start(f"{of[:1].upper()}{of[1:]} by {over}", note)
    axes = figure.subplots()
    for row, (group, look) in enumerate(looks.items()):
        aside = (row - (len(looks) - 1) / 2) / 100
        _sweep_line(axes, data[data["group"] == group], places, aside, label=group, **look)
    log_y = y.unit in ("error", "number, log scale")
    _x_axis(axes, places)
    axes.set_xlabel(f"{label} (log scale)")
    axes.set_ylabel(y.label + " (log scale)" * log_y)
    if log_y:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, None if y.unit == "error" else LogLocator(subs=(1.0, 3.0)))
    failed = _mark_failed(axes, data, places, looks)
    axes.grid(alpha=0.3)
    entries = [*axes.get_legend_handles_labels()[0], *failed]
    columns = min(2 if max(map(len, looks)) > LONG else 4, len(entries))
    legend_below(figure, entries, columns=columns, title="mean over seeds; bars: lowest to highest seed")
    return figure


def _places(numbers: Sequence[float]) -> dict[float, float]:
    """Where each number lies on a log axis that goes from 0 to 1; the number 0 left of it."""
    heights = {number: float(np.log10(number)) for number in numbers if number}
    low, high = min(heights.values(), default=0.0), max(heights.values(), default=0.0)
    return {number: (heights[number] - low) / ((high - low) or 1.0) if number else -0.15 for number in numbers}


def _sweep_line(axes: Axes, runs: pd.DataFrame, places: Mapping[float, float], aside: float, **look: Any) -> None:
    numbers = sorted(set(runs["x"]))
    if numbers[0] == 0:
        numbers.insert(1, np.nan)  # no line across the gap
    seeds = runs[runs["word"] == ""].groupby("x")["y"].agg(["mean", "min", "max"]).reindex(numbers)
    at = np.array([places.get(number, np.nan) for number in numbers]) + aside
    middle, low, high = seeds.to_numpy().T
    look |= {"markersize": 5, "linewidth": 1.3, "elinewidth": 0.8, "capsize": 2}
    axes.errorbar(at, middle, yerr=_reach(middle, low, high), **look)


def _x_axis(axes: Axes, places: Mapping[float, float]) -> None:
    if 0 in places:
        side = axes.get_xaxis_transform()
        slashes: dict[str, Any] = {"marker": [(-0.5, -1), (0.5, 1)], "markersize": 9, "color": DARK}
        axes.plot([-0.085, -0.065], [0, 0], linestyle="none", transform=side, clip_on=False, **slashes)
        axes.plot([-0.075, -0.075], [0, 1], linestyle=":", linewidth=0.8, color=DARK, transform=side)
    every = -(-len(places) // 14)  # more labels than that run into one another
    axes.set_xticks([*places.values()][::every], [f"{number:g}" for number in places][::every])
    axes.set_xlim(min(places.values()) - 0.06, 1.1)


def plain_ticks(axis: Axis, locator: Locator | None = None) -> None:
    """Ticks of a log scale as plain numbers: those of `locator`, or for errors in percent as many as are legible."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(locator or FixedLocator(ERROR_TICKS if high < 10 * low else FEW_ERROR_TICKS))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _mark_failed(
    axes: Axes, data: pd.DataFrame, places: Mapping[float, float], looks: Mapping[str, Style]
) -> list[Line2D]:
    """Marks in a strip below the data, a row for each group that has any, and their legend entries."""
    failures = data[data["word"] != ""]
    groups = [group for group in looks if group in set(failures["group"])]
    markers = dict(zip(sorted(failures["word"].unique(), key=lambda word: word != "diverged"), "x1", strict=False))
    if groups:
        _room_below(axes, 0.04 + 0.05 * len(groups))
    side, runs = axes.get_xaxis_transform(), data.groupby(["group", "x"]).size()
    for (group, number, word), count in failures.groupby(["group", "x", "word"]).size().items():
        at = places[number] + 0.06 * [*markers].index(word), 0.045 + 0.05 * groups.index(group)
        axes.plot(*at, markers[word], color=looks[group]["color"], transform=side)
        beside: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(f"{count}/{runs[group, number]}", at, xycoords=side, va="center", fontsize=7, **beside)
    return [entry(f"{word} (seeds)", marker) for word, marker in markers.items()]


def _room_below(axes: Axes, part: float) -> None:
    """Room for a strip over this part of the axes' height, with the ticks of the data left as they are."""
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(np.array(axes.get_ylim()))
    ticks = [tick for tick in axes.get_yticks() if low <= scale.transform(np.array([tick]))[0] <= high]
    axes.set_ylim(bottom=float(scale.inverted().transform(np.array([low - part / (1 - part) * (high - low)]))[0]))
    axes.set_yticks(ticks)
    axes.plot([0, 1], [part, part], linewidth=0.8, color=DARK, transform=axes.transAxes)
