"""Tables to figures. No function reads a file or a server; what comes from one is checked here before it is drawn.

Curves come as a mapping from a group's label to a table with a row for each epoch, counted from 1, and a column for
each seed. The line is the mean over seeds; where there are several, the band behind it reaches from the lowest to the
highest.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, safe for colour-blind readers; line and marker tell the variants apart in grey
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
)
ACCURACY_TICKS = (50, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.4, 99.5, 99.6, 99.7, 99.8)
CHOICE_OF_TEN = "the ten with the highest loss, highest first"


def styles_of(count: int) -> list[dict[str, Any]]:
    """A colour, line and marker for each of `count` curves; beyond `STYLES` the colours come from a colour map."""
    if count <= len(STYLES):
        return list(STYLES[:count])
    colors = [to_hex(color) for color in colormaps["turbo"](np.linspace(0.05, 0.95, count))]
    return [
        {"color": color, "linestyle": style["linestyle"], "marker": marker}
        for color, style, marker in zip(colors, cycle(STYLES), cycle("os^DvPX"), strict=False)
    ]


def loss_curves(curves: Mapping[str, pd.DataFrame], subtitle: str) -> Figure:
    """Graph 1: test loss by epoch."""
    figure, axes = _curve_axes(curves, "Test loss by epoch", subtitle, "{:.4f}")
    axes.set_yscale("log")
    axes.set_ylabel("test loss (cross-entropy, nats; log scale)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else ""))
    _label_last_values(axes, curves, "{:.4f}")
    return figure


def accuracy_curves(curves: Mapping[str, pd.DataFrame], subtitle: str) -> Figure:
    """Graph 2: test accuracy by epoch, as fractions in, as percentages out.

    The axis is logarithmic in the error: all epochs are on it, and half of it lies above 98 %.
    """
    percent = {name: (100 * curve).clip(upper=99.99) for name, curve in curves.items()}
    figure, axes = _curve_axes(percent, "Test accuracy by epoch", subtitle, "{:.2f} %")
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(100 - y, 1e-3)), lambda t: 100 - 10**-t))
    lowest, highest = (pick(pick(curve.to_numpy().flat) for curve in percent.values()) for pick in (min, max))
    axes.set_ylim(100 - 1.3 * (100 - lowest), 100 - 0.8 * (100 - highest))
    axes.yaxis.set_major_locator(FixedLocator(ACCURACY_TICKS))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ACCURACY_TICKS]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("test accuracy (%; log scale of the error)")
    _label_last_values(axes, percent, "{:.2f} %")
    return figure


def _curve_axes(curves: Mapping[str, pd.DataFrame], title: str, subtitle: str, form: str) -> tuple[Figure, Axes]:
    many = len(curves) > len(STYLES)
    figure = Figure(figsize=(8, 4.8 + 0.2 * len(curves) * many), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), styles_of(len(curves)), strict=True):
        mean = curve.mean(axis=1)
        label = f"{name}: {form.format(mean.iloc[-1])}" if many else name
        axes.plot(curve.index, mean.to_numpy(), label=label, markersize=4, linewidth=1.5, **style)
        if curve.shape[1] > 1:
            axes.fill_between(
                curve.index,
                curve.min(axis=1),
                curve.max(axis=1),
                facecolor=(style["color"], 0.12),
                edgecolor=(style["color"], 0.6),
                linestyle=style["linestyle"],
                linewidth=0.7,
            )
    last = max(int(curve.index.max()) for curve in curves.values())
    axes.set_xlim(0.5, last * (1 if many else 1.16) + 0.5)
    axes.set_xticks([epoch for epoch in range(1, last + 1) if epoch in (1, last) or epoch % max(1, last // 10) == 0])
    axes.set_xlabel("epoch")
    axes.set_title(f"{title}\n{textwrap.fill(subtitle, 84)}", fontsize=11)
    axes.grid(alpha=0.3)
    if many:
        figure.legend(title="normalisation: last epoch", loc="outside lower center", ncols=2, fontsize=8)
    else:
        axes.legend(title="normalisation", loc="center right" if last < 4 else "best")
    return figure, axes


def _label_last_values(axes: Axes, curves: Mapping[str, pd.DataFrame], form: str) -> None:
    """Each curve's last value beside its end, moved apart where they would overlap; many have it in the legend."""
    if len(curves) > len(STYLES):
        return
    styled = zip(curves.values(), STYLES, strict=False)
    ends = sorted((curve.iloc[-1].mean(), int(curve.index[-1]), style["color"]) for curve, style in styled)
    gap = 0.05
    heights: list[float] = []
    for value, _, _ in ends:
        height = axes.transLimits.transform(axes.transScale.transform((0, value)))[1]
        heights.append(max(height, heights[-1] + gap) if heights else height)
    excess = max(0.0, heights[-1] - 0.97)
    for (value, epoch, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            form.format(value),
            xy=(epoch, value),
            xytext=(0.885, height - excess),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6},
        )


def ten_worst(table: pd.DataFrame) -> pd.DataFrame:
    """The ten misclassified images with the highest loss, highest first; of equals the earlier in the test set."""
    return table.sort_values(["loss", "index"], ascending=[False, True], kind="stable").head(10)


def grid_title(variant: str, accuracy: float, errors: int, images: int) -> str:
    """The title of a grid: variant, accuracy, how many errors, and how the shown ones were chosen."""
    shown = CHOICE_OF_TEN if errors > 10 else f"all {errors}: there are no ten"
    if errors == 10:
        shown = "all ten"
    return f"{variant}: {100 * accuracy:.2f} % right, {errors} of {images:,} test images misclassified\nshown: {shown}"


def misclassified_grid(images: Sequence[np.ndarray], rows: pd.DataFrame, title: str) -> Figure:
    """Up to ten 28 x 28 images, 5 across and 2 down; `rows` has each one's true, predicted, index and confidences."""
    figure = Figure(figsize=(9.5, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for tile in figure.subplots(2, 5).flat:
        tile.set_axis_off()
    for tile, image, row in zip(figure.axes, images, rows.itertuples(), strict=False):
        tile.set_axis_on()
        tile.set_xticks([])
        tile.set_yticks([])
        tile.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        tile.set_title(
            f"true {row.true}, predicted {row.predicted}\n"
            f"confidence {row.confidence:.0%}, of true {row.confidence_true:.1%}\ntest image {row.index}",
            fontsize=8,
        )
    return figure


def confusion(matrix: pd.DataFrame, variant: str) -> Figure:
    """Counts by true digit (rows) and predicted digit (columns); the diagonal is left pale, the errors are shaded."""
    counts = matrix.to_numpy()
    errors = counts - np.diag(np.diag(counts))
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(errors, cmap="Oranges", vmax=1.6 * max(errors.max(), 1))  # light enough for black figures
    for true, predicted in np.ndindex(*counts.shape):
        if counts[true, predicted]:
            axes.text(predicted, true, counts[true, predicted], ha="center", va="center", fontsize=8)
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    axes.set_xlabel("predicted digit")
    axes.set_ylabel("true digit")
    axes.set_title(f"{variant}: confusion matrix, test images\nshade: number of errors", fontsize=11)
    return figure


def shared_statistics(groups: int = 2, channels: int = 4) -> Figure:
    """For each norm one N x C block; the cells that share one mean and variance with the first one are coloured."""
    members = {
        "BatchNorm": lambda n, c: c == 0,
        "GroupNorm, 2 groups": lambda n, c: n == 0 and c < channels // groups,
        "LayerNorm = GroupNorm, 1 group": lambda n, c: n == 0,
        "InstanceNorm": lambda n, c: n == 0 and c == 0,
    }
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    figure.suptitle("Coloured: the activations that share one mean and one variance", fontsize=11)
    for axes, (name, member) in zip(figure.subplots(1, 4), members.items(), strict=True):
        for image in range(3):
            for channel in range(channels):
                look: dict[str, Any] = (
                    {"facecolor": "#56B4E9", "hatch": "//"} if member(image, channel) else {"facecolor": "#FFFFFF"}
                )
                axes.add_patch(Rectangle((channel, 2 - image), 1, 1, edgecolor="#333333", linewidth=0.8, **look))
        axes.set_xlim(-0.1, channels + 0.1)
        axes.set_ylim(-0.1, 3.1)
        axes.set_aspect("equal")
        axes.set_xticks([place + 0.5 for place in range(channels)], range(channels))
        axes.set_yticks([0.5, 1.5, 2.5], [2, 1, 0])
        axes.set_xlabel("channel C (each cell: all H x W)", fontsize=8)
        axes.set_ylabel("image N", fontsize=8)
        axes.set_title(name, fontsize=9)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure
