"""The experiments' tables to figures: accuracies, their differences, sweeps over a setting.

A table has a row for each run, with the run's `group` (the label that readers see) and `seed`; each function names the
further columns. Accuracies come as fractions and are drawn as percentages. `caption` gives data and n. A run without a
value is never a number: a mark at the axis' edge stands for it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, Locator, LogLocator, NullLocator

from normstudy.figures import DARK, Picture, Style, norm_styles, setting_styles
from normstudy.report.text import p_value
from normstudy.stats import Comparison, Verdict, mean_interval

ERROR_TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 90)
FEW_ERROR_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 90)
SETTINGS = {"l1": "lambda of the L1 penalty", "batch_size": "batch size, images", "lr": "peak learning rate"}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A column that a figure draws, with the label of its axis, and of that of differences.

    "percent" is a fraction as a percentage, "error" what it lacks to 100 %, on a log scale; the rest is drawn as it is.
    """

    column: str
    label: str
    unit: Literal["error", "percent", "number", "number, log scale"]
    missing: str = "diverged"  # what no value means where the run did not diverge
    plural: str = ""
    differences: str = ""

    @property
    def name(self) -> str:
        """Without its unit."""
        return self.label.split(",")[0]

    @property
    def title(self) -> str:
        """The name as it begins a title."""
        return f"{self.name[:1].upper()}{self.name[1:]}"

    @property
    def scale(self) -> int:
        """What a value is multiplied with."""
        return 100 if self.unit in ("error", "percent") else 1


ACCURACY = Quantity(
    column="test_accuracy",
    label="test accuracy, %",
    unit="percent",
    plural="test accuracies",
    differences="points of accuracy, first minus second",
)
TEST_ERROR = Quantity(column="test_accuracy", label="test error, %", unit="error")


def mean_intervals(values: pd.DataFrame) -> pd.DataFrame:
    """Of each row, whose columns are seeds: `mean`, and the ends `low` and `high` of its 95 % interval, which
    are missing where fewer than two seeds have a value."""
    rows = []
    for row in values.to_numpy(float):
        found = row[np.isfinite(row)]
        ends = mean_interval(found) if len(found) > 1 else (np.nan, np.nan)
        rows.append((found.mean() if len(found) else np.nan, *ends))
    return pd.DataFrame(rows, index=values.index, columns=["mean", "low", "high"])


def legend_below(figure: Figure, entries: Sequence[Any] | None = None, *, columns: int, title: str = "") -> None:
    """A legend of these entries, or of all that have a label, below the figure."""
    look: dict[str, Any] = {"loc": "outside lower left", "alignment": "left", "fontsize": 8, "title_fontsize": 8}
    figure.legend(handles=entries, title=title, ncols=columns, **look)


def entry(label: str, marker: str, **look: Any) -> Line2D:
    """A legend's entry: a mark of no group."""
    return Line2D([], [], linestyle="none", marker=marker, label=label, **{"color": DARK, **look})


def label_rows(axes: Axes, labels: Sequence[str], xlabel: str) -> None:
    """A row for each label, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(xlabel)
    axes.grid(visible=False, axis="y")


def reach(middle: Any, low: Any, high: Any) -> np.ndarray:
    """Lengths of the bars to either side, at least 0: the mean of equal values can miss them by a last bit."""
    return np.maximum(np.stack([np.atleast_1d(middle - low), np.atleast_1d(high - middle)]), 0)


def draw_means(
    table: pd.DataFrame, caption: str, *, y: Quantity = ACCURACY, digits: int = 3, noise: float | None = None
) -> Picture:
    """A row for each group: a dot a seed, the mean with its interval, both also in figures.

    `noise`, the standard deviation that the choice of 10,000 test images gives one run's accuracy, as a fraction, is
    drawn to scale about the mean of all runs.
    """
    looks = norm_styles(table["group"].unique())
    figure = Picture(f"{y.title} of each group: every seed, and the mean", caption, height=1.5 + 0.36 * len(looks))
    axes = figure.subplots()
    for row, (group, runs) in enumerate(table.groupby("group", sort=False)[y.column]):
        _mean_row(axes, row, y.scale * runs.to_numpy(float), looks[str(group)], digits)
    failed = bool(table[y.column].isna().any())
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.12 * (high - low) * failed, high)
    entries = [
        entry("one seed", "o", markersize=4, alpha=0.4),
        Line2D([], [], marker="o", color=DARK, label="mean and its 95 % interval, also at the right"),
    ]
    labels = list(looks)
    if noise is not None:
        middle, look = y.scale * table[y.column].mean(), dict[str, Any](color="#777777", capsize=4, linestyle="none")
        axes.errorbar([middle], [len(looks)], xerr=[y.scale * noise], **look)
        labels.append("noise of the images")
        said = f"±{y.scale * noise:.2f} points, binomial, one run"
        entries.append(Line2D([], [], marker="|", color="#777777", label=said))
    label_rows(axes, labels, y.label)
    axes.ticklabel_format(axis="x", useOffset=False)
    legend_below(figure, [*entries, *[entry("diverged (seeds)", "x")] * failed], columns=4)
    return figure


def _mean_row(axes: Axes, row: int, values: np.ndarray, look: Style, digits: int) -> None:
    right, color, side = values[np.isfinite(values)], look["color"], axes.get_yaxis_transform()
    axes.plot(right, np.full(len(right), row), "o", markersize=4, color=color, markeredgewidth=0, alpha=0.4)
    if len(right):
        [ends] = mean_intervals(pd.DataFrame([right])).to_numpy()
        mean, low, high = (f"{end:.{digits}f}" for end in ends)
        text = f"{mean} [{low}, {high}]" if np.isfinite(ends).all() else mean
        shape = {**look, "linestyle": "none"}
        axes.errorbar([ends[0]], [row], xerr=reach(*ends), capsize=4, markersize=7, **shape)
        axes.text(1.01, row, text, transform=side, va="center", fontsize=8)
    if len(right) < len(values):
        axes.plot([0.015], [row], "x", color=color, transform=side)
        axes.text(0.03, row, f"{len(values) - len(right)} of {len(values)}", transform=side, va="center", fontsize=8)


def draw_differences(comparisons: Sequence[Comparison], caption: str, *, y: Quantity = ACCURACY) -> Picture:
    """A row for each pair: the difference of the means with its interval, its verdict, the corrected p of the test that
    the verdict rests on, and n.

    An interval within the margin on either side is one condition of `Verdict.EQUIVALENT`.
    """
    margin, entries = y.scale * comparisons[0].margin, list[Any]()
    title = f"Differences of the mean {y.plural}{', and what counts as equivalent' if margin else ''}"
    figure = Picture(title, caption, height=1.5 + 0.32 * len(comparisons))
    axes = figure.subplots()
    if margin:
        axes.axvspan(-margin, margin, color=DARK, alpha=0.1, linewidth=0)
        within = f"within {margin:g}{' points' if y.unit == 'percent' else ''}: too small to matter"
        entries.append(Patch(facecolor=DARK, alpha=0.1, label=within))
    axes.axvline(0, color=DARK, linewidth=0.8)
    side = axes.get_yaxis_transform()
    failed = False
    for row, pair in enumerate(comparisons):
        text = "diverged"
        if np.isfinite(pair.difference):
            ends = [y.scale * end for end in (pair.difference, pair.low, pair.high)]
            axes.errorbar(ends[:1], [row], xerr=reach(*ends), color="#000000", marker="o", capsize=3)
            text = f"{pair.winner} better" if pair.winner else str(pair.verdict)
            text += f", p {p_value(pair.deciding_p)}"
            if margin and pair.verdict is Verdict.INCONCLUSIVE:
                text += f" (equivalence: p {p_value(pair.tost_p_adjusted)})"
        else:
            axes.plot([0.015], [row], "x", color="#000000", transform=side)
            failed = True
        axes.text(1.02, row, f"{text}, n = {pair.n}", transform=side, va="center", fontsize=8)
    axes.locator_params(axis="x", nbins=7)
    label_rows(axes, [f"{pair.a} minus {pair.b}" for pair in comparisons], y.differences)
    legend_below(figure, [*entries, *[entry("diverged", "x")] * failed], columns=2)
    return figure


def draw_sweep(table: pd.DataFrame, caption: str, *, x: str, y: Quantity, settings: bool = False) -> Picture:
    """A line for each group over the setting `x`, on a log scale: the mean over seeds of `y`; a panel for each value of
    the column `panel`, where there is one.

    The bars reach from the lowest to the highest seed; a point at 0 stands left of a gap. The boolean column `diverged`
    tells which runs did. With `settings` the groups are other settings than `x`, and no norms.
    """
    label, names = SETTINGS.get(x, x.replace("_", " ")), list(table["group"].unique())
    looks = setting_styles(names) if settings else norm_styles(names)
    words = np.where(table["diverged"], "diverged", np.where(table[y.column].isna(), y.missing, ""))
    scaled = y.scale * table[y.column].astype(float)
    data = table.assign(x=table[x].astype(float), y=100 - scaled if y.unit == "error" else scaled, word=words)
    data["panel"] = table.get("panel", "")
    places = _places(sorted(data["x"].unique()))
    title, panels = f"{y.title} by {label.split(',')[0]}", list(data["panel"].unique())
    said = f"{caption} Points: mean over seeds; bars: lowest to highest seed."
    figure = Picture(title, said, width=8.0 if len(panels) == 1 else 3.6 * len(panels))
    tiles = list(figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False).flat)
    for axes, panel in zip(tiles, panels, strict=True):
        axes.set_title(panel, fontsize=9)
        rows = data[data["panel"] == panel]
        for group, look in looks.items():
            _sweep_line(axes, rows[rows["group"] == group], places, label=group, **look)
        axes.set_xlabel(f"{label} (log scale)")
    log_y = y.unit in ("error", "number, log scale")
    tiles[0].set_ylabel(y.label + " (log scale)" * log_y)
    if log_y:
        tiles[0].set_yscale("log")
        plain_ticks(tiles[0].yaxis, None if y.unit == "error" else LogLocator(subs=(1.0, 3.0)))
    for axes in tiles:
        _x_axis(axes, places, most=14 if len(panels) == 1 else 7)
    failed = _mark_failed(tiles, data, places, looks)
    entries = [*tiles[0].get_legend_handles_labels()[0], *failed]
    legend_below(figure, entries, columns=min(2 if max(map(len, looks)) > 20 else 7, len(entries)))
    return figure


def _places(numbers: Sequence[float]) -> dict[float, float]:
    """Where each number lies on a log axis that goes from 0 to 1; the number 0 left of it."""
    heights = {number: float(np.log10(number)) for number in numbers if number}
    low, high = min(heights.values(), default=0.0), max(heights.values(), default=0.0)
    return {number: (heights[number] - low) / ((high - low) or 1.0) if number else -0.15 for number in numbers}


def _sweep_line(axes: Axes, runs: pd.DataFrame, places: Mapping[float, float], **look: Any) -> None:
    numbers = sorted(set(runs["x"]))
    if numbers[:1] == [0]:
        numbers.insert(1, np.nan)  # no line across the gap
    seeds = runs[runs["word"] == ""].groupby("x")["y"].agg(["mean", "min", "max"]).reindex(numbers)
    at = np.array([places.get(number, np.nan) for number in numbers])
    middle, low, high = seeds.to_numpy().T
    look |= {"markersize": 5, "linewidth": 1.3, "elinewidth": 0.8, "capsize": 2}
    axes.errorbar(at, middle, yerr=reach(middle, low, high), **look)


def _x_axis(axes: Axes, places: Mapping[float, float], *, most: int) -> None:
    if 0 in places:
        side = axes.get_xaxis_transform()
        slashes: dict[str, Any] = {"marker": [(-0.5, -1), (0.5, 1)], "markersize": 9, "color": DARK}
        axes.plot([-0.085, -0.065], [0, 0], linestyle="none", transform=side, clip_on=False, **slashes)
    every = -(-len(places) // most)  # more labels than that run into one another
    axes.set_xticks([*places.values()][::every], [f"{number:g}" for number in places][::every], fontsize=8)
    axes.set_xlim(min(places.values()) - 0.06, 1.1)


def plain_ticks(axis: Axis, locator: Locator | None = None) -> None:
    """Ticks of a log scale as plain numbers: those of `locator`, or for errors in percent as many as are legible."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(locator or FixedLocator(ERROR_TICKS if high < 10 * low else FEW_ERROR_TICKS))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _mark_failed(
    tiles: Sequence[Axes], data: pd.DataFrame, places: Mapping[float, float], looks: Mapping[str, Style]
) -> list[Line2D]:
    """Marks in a strip below the data, a row for each group that has any, and their legend entries."""
    failures = data[data["word"] != ""]
    groups = [group for group in looks if group in set(failures["group"])]
    markers = dict(zip(sorted(failures["word"].unique(), key=lambda word: word != "diverged"), "x1", strict=False))
    if groups:
        _room_below(tiles, 0.04 + 0.05 * len(groups))
    runs, seen = data.groupby(["panel", "group", "x"]).size(), Counter[Any]()
    for (panel, group, number, word), count in failures.groupby(["panel", "group", "x", "word"]).size().items():
        axes = tiles[list(data["panel"].unique()).index(panel)]
        at = places[number] + 0.06 * seen[panel, group, number], 0.045 + 0.05 * groups.index(group)
        side, beside = axes.get_xaxis_transform(), dict[str, Any](xytext=(5, 0), textcoords="offset points")
        seen[panel, group, number] += 1
        axes.plot(*at, markers[word], color=looks[group]["color"], transform=side)
        axes.annotate(f"{count}/{runs[panel, group, number]}", at, xycoords=side, va="center", fontsize=7, **beside)
    for row, group in enumerate(groups):
        strip: dict[str, Any] = {"transform": tiles[-1].transAxes, "va": "center", "fontsize": 7}
        tiles[-1].text(1.01, 0.045 + 0.05 * row, group, color=looks[group]["color"], **strip)
    return [entry(f"{word} (seeds)", marker) for word, marker in markers.items()]


def _room_below(tiles: Sequence[Axes], part: float) -> None:
    """Room for a strip over this part of the axes' height, with the ticks of the data left as they are."""
    axes = tiles[0]
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(np.array(axes.get_ylim()))
    ticks = [tick for tick in axes.get_yticks() if low <= scale.transform(np.array([tick]))[0] <= high]
    axes.set_ylim(bottom=float(scale.inverted().transform(np.array([low - part / (1 - part) * (high - low)]))[0]))
    axes.set_yticks(ticks)
    for tile in tiles:
        tile.plot([0, 1], [part, part], linewidth=0.8, color=DARK, transform=tile.transAxes)
