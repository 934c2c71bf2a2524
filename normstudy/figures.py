"""Tables to figures. No function reads a file or a server.

Curves come as a mapping from a group's label to a table with a row for each epoch, counted from 1, and a column for
each seed. The line is the mean over seeds; where there are several, the band behind it reaches from the lowest to the
highest.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

Style = dict[str, Any]  # color, linestyle and marker, as matplotlib names them
# Okabe and Ito's colours, safe for colour-blind readers; line and marker tell the variants apart in grey
NORM_STYLES: dict[str, Style] = {
    "GN": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "LN": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "BN + L1": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "IN": {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    "NONE": {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    "BN": {"color": "#E69F00", "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},
}
OTHER_STYLE: Style = {"color": "#777777", "linestyle": "-", "marker": "X"}
SETTING_STYLES = tuple(NORM_STYLES.values())[:5]
MOST_LABELLED = 5  # curves whose last values fit beside their ends
ACCURACY_TICKS = (50, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.4, 99.5, 99.6, 99.7, 99.8)


def norm_styles(groups: Iterable[str]) -> dict[str, Style]:
    """Each group's colour, line and marker: a norm has its row of `NORM_STYLES`, whatever else is drawn.

    Further groups of one norm have its colour and the next line and marker; where these run out, colours come from a
    colour map. A group that names no norm is grey.
    """
    norms = {group: _norm(group) for group in groups}
    if max(Counter(norms.values()).values(), default=0) > len(SETTING_STYLES):
        return setting_styles(norms)
    rows, seen, chosen = [*NORM_STYLES, ""], Counter[str](), {}
    for group, norm in norms.items():
        chosen[group] = NORM_STYLES.get(norm, OTHER_STYLE)
        if seen[norm]:
            further = SETTING_STYLES[(rows.index(norm) + seen[norm]) % len(SETTING_STYLES)]
            chosen[group] = {**further, "color": chosen[group]["color"]}
        seen[norm] += 1
    return chosen


def _norm(group: str) -> str:
    variant = group.split(",")[0].upper()
    return next((name for name in (variant, variant.split(" + ")[0]) if name in NORM_STYLES), "")


def setting_styles(groups: Iterable[str]) -> dict[str, Style]:
    """The same for groups that are settings, in a figure that compares no norms: a colour each, in their order."""
    names = list(groups)
    if len(names) <= len(SETTING_STYLES):
        return dict(zip(names, SETTING_STYLES, strict=False))
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    return {
        name: {**style, "color": to_hex(color), "marker": marker}
        for name, color, style, marker in zip(names, colors, cycle(SETTING_STYLES), cycle("os^DvPX"), strict=False)
    }


def loss_curves(curves: Mapping[str, pd.DataFrame], subtitle: str) -> Figure:
    """Test loss by epoch."""
    figure, axes = _curve_axes(curves, "Test loss by epoch", subtitle, "{:.4f}")
    axes.set(yscale="log", ylabel="test loss (cross-entropy, nats; log scale)")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    _label_last_values(axes, curves, "{:.4f}")
    return figure


def accuracy_curves(curves: Mapping[str, pd.DataFrame], subtitle: str) -> Figure:
    """Test accuracy by epoch, as fractions in, as percentages out.

    The axis is logarithmic in the error: all epochs are on it, and half of it lies above 98 %.
    """
    percent = {name: (100 * curve).clip(upper=99.99) for name, curve in curves.items()}
    figure, axes = _curve_axes(percent, "Test accuracy by epoch", subtitle, "{:.2f} %")
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(100 - y, 1e-3)), lambda t: 100 - 10**-t))
    values = np.concatenate([curve.to_numpy().ravel() for curve in percent.values()])
    axes.set_yticks(ACCURACY_TICKS, [f"{tick:g}" for tick in ACCURACY_TICKS])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(100 - 1.3 * (100 - values.min()), 100 - 0.8 * (100 - values.max()))
    axes.set_ylabel("test accuracy (%; log scale of the error)")
    _label_last_values(axes, percent, "{:.2f} %")
    return figure


def _curve_axes(curves: Mapping[str, pd.DataFrame], title: str, subtitle: str, form: str) -> tuple[Figure, Axes]:
    many = len(curves) > MOST_LABELLED
    figure = Figure(figsize=(8, 4.8 + 0.2 * len(curves) * many), layout="constrained")
    axes = figure.subplots()
    for name, style in norm_styles(curves).items():
        curve = curves[name]
        mean = curve.mean(axis=1)
        label = f"{name}: {form.format(mean.iloc[-1])}" if many else name
        axes.plot(curve.index, mean.to_numpy(), label=label, markersize=4, linewidth=1.5, **style)
        if curve.shape[1] > 1:
            band = axes.fill_between(
                curve.index, curve.min(axis=1), curve.max(axis=1), facecolor=(style["color"], 0.12)
            )
            band.set(edgecolor=(style["color"], 0.6), linestyle=style["linestyle"], linewidth=0.7)
    last = max(int(curve.index.max()) for curve in curves.values())
    axes.set(xlim=(0.5, last * (1 if many else 1.16) + 0.5), xlabel="epoch")
    axes.set_xticks([epoch for epoch in range(1, last + 1) if epoch in (1, last) or epoch % max(1, last // 10) == 0])
    axes.set_title(f"{title}\n{textwrap.fill(subtitle, 84)}", fontsize=11)
    axes.grid(alpha=0.3)
    if many:
        figure.legend(title="normalisation: last epoch", loc="outside lower center", ncols=2, fontsize=8)
    else:
        axes.legend(title="normalisation", loc="center right" if last < 4 else "best")
    return figure, axes


def _label_last_values(axes: Axes, curves: Mapping[str, pd.DataFrame], form: str) -> None:
    """Each curve's last value beside its end, moved apart where they would overlap; many have it in the legend."""
    if len(curves) > MOST_LABELLED:
        return
    looks = norm_styles(curves)
    ends = sorted((curve.iloc[-1].mean(), curve.index[-1], looks[name]["color"]) for name, curve in curves.items())
    heights: list[float] = []
    for value, _, _ in ends:
        height = axes.transLimits.transform(axes.transScale.transform((0, value)))[1]
        heights.append(max(height, heights[-1] + 0.05) if heights else height)
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
    shown = f"all {errors}: there are no ten" if errors < 10 else "all ten"
    if errors > 10:
        shown = "the ten with the highest loss, highest first"
    return f"{variant}: {100 * accuracy:.2f} % right, {errors} of {images:,} test images misclassified\nshown: {shown}"


def misclassified_grid(images: Sequence[np.ndarray], rows: pd.DataFrame, title: str) -> Figure:
    """Up to ten 28 x 28 images, 5 across and 2 down; `rows` has each one's true, predicted, index and confidences."""
    figure = Figure(figsize=(9.5, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    captions = [
        f"true {row.true}, predicted {row.predicted}\n"
        f"confidence {row.confidence:.0%}, of true {row.confidence_true:.1%}\ntest image {row.index}"
        for row in rows.itertuples()
    ]
    draw_images(figure, images, captions, rows=2)
    return figure


def draw_images(figure: Figure, images: Sequence[np.ndarray], captions: Sequence[str], *, rows: int) -> None:
    """28 x 28 grey values each, dark on white, five in a row below their captions."""
    pictures = zip(images, captions, strict=True)
    for tile, picture in zip_longest(figure.subplots(rows, 5, squeeze=False).flat, pictures):
        if picture is None:
            tile.set_axis_off()
        else:
            tile.set(xticks=[], yticks=[])
            tile.imshow(picture[0], cmap="gray_r", vmin=0, vmax=255)
            tile.set_title(picture[1], fontsize=8)


def confusion(matrix: pd.DataFrame, variant: str) -> Figure:
    """Counts by true digit (rows) and predicted digit (columns); the diagonal is left pale, the errors are shaded."""
    counts = matrix.to_numpy()
    errors = counts - np.diag(np.diag(counts))
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(errors, cmap="Oranges", vmax=1.6 * max(errors.max(), 1))  # light enough for black figures
    for true, predicted in np.argwhere(counts):
        axes.text(predicted, true, counts[true, predicted], ha="center", va="center", fontsize=8)
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted digit", ylabel="true digit")
    axes.set_title(f"{variant}: confusion matrix, test images\nshade: number of errors", fontsize=11)
    return figure


def shared_statistics() -> Figure:
    """For each norm one N x C block; the cells that share one mean and variance with the first one are coloured."""
    images, channels = 3, 4
    members = {
        "BatchNorm": lambda n, c: c == 0,
        "GroupNorm, 2 groups": lambda n, c: n == 0 and c < channels // 2,
        "LayerNorm = GroupNorm, 1 group": lambda n, c: n == 0,
        "InstanceNorm": lambda n, c: n == 0 and c == 0,
    }
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    figure.suptitle("Coloured: the activations that share one mean and one variance", fontsize=11)
    for axes, (name, member) in zip(figure.subplots(1, 4), members.items(), strict=True):
        for image, channel in np.ndindex(images, channels):
            color, hatch = ("#56B4E9", "//") if member(image, channel) else ("#FFFFFF", None)
            cell = Rectangle(
                (channel, 2 - image), 1, 1, facecolor=color, edgecolor="#333333", linewidth=0.8, hatch=hatch
            )
            axes.add_patch(cell)
        axes.set(xlim=(-0.1, channels + 0.1), ylim=(-0.1, images + 0.1), aspect="equal")
        axes.set_xticks(np.arange(channels) + 0.5, range(channels))
        axes.set_yticks(np.arange(images) + 0.5, reversed(range(images)))
        axes.set_xlabel("channel C (each cell: all H x W)", fontsize=8)
        axes.set_ylabel("image N", fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.spines[:].set_visible(False)
    return figure
