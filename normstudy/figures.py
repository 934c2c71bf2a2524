"""The style that all figures share, and the figures of one run. No function reads a file or a server."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import cycle, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

Style = dict[str, Any]  # color, linestyle, marker and markerfacecolor, as matplotlib names them
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
LINES = [style["linestyle"] for style in NORM_STYLES.values()][:5]
MARKERS = [style["marker"] for style in NORM_STYLES.values()][:5]
SETTING_COLORS = ("#332288", "#882255", "#999933", "#88CCEE", "#661100")  # Tol's "muted"; no norm has one of them
DARK = "#333333"
RC: Any = {  # what `report` draws with
    "svg.hashsalt": "normstudy",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "font.size": 9,
    "legend.frameon": False,
}


class Picture(Figure):
    """A figure under its title, one line at the left, and the caption that stands below it on a page."""

    def __init__(self, title: str, caption: str = "", *, width: float = 8.0, height: float = 4.6) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        fits = 72 * 0.97 * width / (0.6 * len(title))  # a letter is 0.6 of the font's size wide at most, in the mean
        self.suptitle(title, x=0.01, ha="left", fontsize=min(11.0, fits))
        self.caption = caption

    @property
    def title(self) -> str:
        """The line above it."""
        return self.get_suptitle()


def norm_styles(groups: Iterable[str]) -> dict[str, Style]:
    """Each group's colour, line and marker: a norm has its row of `NORM_STYLES`, whatever else is drawn.

    With and without L1 side by side, a norm's marker is filled without and open with. Further groups of one norm have
    its colour and the next line and marker; where these run out, and where no group names a norm, each has its own
    colour. Beside norms, a group that names none is grey.
    """
    norms = {group: _norm(group) for group in groups}
    if not any(norms.values()) or max(Counter(norms.values()).values()) > len(MARKERS):
        return setting_styles(norms)
    rows, seen, chosen = [*NORM_STYLES, ""], Counter[str](), {}
    for group, norm in norms.items():
        chosen[group] = dict(NORM_STYLES.get(norm, OTHER_STYLE))
        if group.removesuffix(" + L1") in norms and group.endswith(" + L1"):
            chosen[group]["markerfacecolor"] = "white"
        elif seen[norm]:
            place = (rows.index(norm) + seen[norm]) % len(MARKERS)
            chosen[group] |= {"linestyle": LINES[place], "marker": MARKERS[place]}
        seen[norm] += 1
    return chosen


def _norm(group: str) -> str:
    variant = group.split(",")[0].upper()
    return next((name for name in (variant, variant.split(" + ")[0]) if name in NORM_STYLES), "")


def setting_styles(groups: Iterable[str]) -> dict[str, Style]:
    """The same for groups that are settings, in a figure that compares no norms: a colour each, no norm's."""
    names = list(groups)
    colors: Iterable[str] = SETTING_COLORS
    if len(names) > len(SETTING_COLORS):
        colors = [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 0.95, len(names)))]
    looks = zip(names, colors, cycle(LINES), cycle("os^DvPX"), strict=False)
    return {name: {"color": color, "linestyle": line, "marker": marker} for name, color, line, marker in looks}


def ten_worst(table: pd.DataFrame) -> pd.DataFrame:
    """The ten misclassified images with the highest loss, highest first; of equals the earlier in the test set."""
    return table.sort_values(["loss", "index"], ascending=[False, True], kind="stable").head(10)


def misclassified_grid(images: Sequence[np.ndarray], rows: pd.DataFrame, title: str, caption: str = "") -> Picture:
    """Up to ten 28 x 28 images, two across: three such grids stand side by side and are legible. `rows` has each one's
    true, predicted, index and confidences."""
    captions = [
        f"true {row.true}, predicted {row.predicted}\n"
        f"{100 * row.confidence:.1f} % (true class: {100 * row.confidence_true:.1f} %)\ntest image {row.index}"
        for row in rows.itertuples()
    ]
    return image_grid(images, captions, title, caption, columns=2)


def image_grid(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, caption: str, *, columns: int
) -> Picture:
    """28 x 28 grey values each, dark on white, below their captions; without any image the figure says "none"."""
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    lines = max((text.count("\n") + 1 for text in captions), default=1)
    figure = Picture(title, caption, width=max(3.6, 1.8 * columns), height=0.35 + rows * (1.75 + 0.16 * lines))
    tiles = figure.subplots(rows, columns, squeeze=False).flat
    for tile, picture in zip_longest(tiles, zip(images, captions, strict=True)):
        tile.set(xticks=[], yticks=[])
        tile.spines[:].set_visible(picture is not None)
        if picture is not None:
            tile.imshow(picture[0], cmap="gray_r", vmin=0, vmax=255)
            tile.set_title(picture[1], fontsize=8)
    if not images:
        figure.text(0.5, 0.4, "none", ha="center", va="center")
    return figure


def confusion(matrix: pd.DataFrame, variant: str) -> Picture:
    """Counts by true digit (rows) and predicted digit (columns); the diagonal is left pale, the errors are shaded."""
    counts = matrix.to_numpy()
    errors = counts - np.diag(np.diag(counts))
    figure = Picture(f"{variant}: confusion matrix, test images; shade: number of errors", width=6.0, height=5.4)
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.imshow(errors, cmap="Oranges", vmax=1.6 * max(errors.max(), 1))  # light enough for black figures
    for true, predicted in np.argwhere(counts):
        axes.text(predicted, true, counts[true, predicted], ha="center", va="center", fontsize=8)
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted digit", ylabel="true digit")
    return figure


def shared_statistics() -> Picture:
    """For each norm a block of N x C cells of H x W pixels; what shares one mean and variance with the first pixel is
    coloured."""
    images, channels = 3, 4
    members = {
        "BatchNorm": lambda n, c: c == 0,
        "GroupNorm, 2 groups": lambda n, c: n == 0 and c < channels // 2,
        "LayerNorm = GroupNorm, 1 group": lambda n, c: n == 0,
        "InstanceNorm": lambda n, c: n == 0 and c == 0,
    }
    said = "N: images of the batch; C: channels; each cell holds the H x W pixels of one channel of one image."
    title = "Coloured: the activations that share one mean and one variance"
    figure = Picture(title, said, width=10.0, height=2.5)
    for axes, (name, member) in zip(figure.subplots(1, 4), members.items(), strict=True):
        for image, channel in np.ndindex(images, channels):
            color, hatch = ("#56B4E9", "//") if member(image, channel) else ("#FFFFFF", None)
            look: Style = {"edgecolor": DARK, "linewidth": 0.3}
            for row, column in np.ndindex(3, 3):
                corner = channel + 0.3 * column, images - 1 - image + 0.3 * row
                axes.add_patch(Rectangle(corner, 0.3, 0.3, facecolor=color, hatch=hatch, **look))
            frame = Rectangle((channel, images - 1 - image), 0.9, 0.9, fill=False, edgecolor=DARK, linewidth=1)
            axes.add_patch(frame)
        axes.set(xlim=(-0.35, channels), ylim=(-0.1, images + 0.25), aspect="equal", title=name)
        axes.title.set_fontsize(9)
        axes.text(0.45, images - 0.05, "W", ha="center", va="bottom", fontsize=8)
        axes.text(-0.08, images - 0.55, "H", ha="right", va="center", fontsize=8)
        axes.set_xticks(np.arange(channels) + 0.45, range(channels))
        axes.set_yticks(np.arange(images) + 0.45, reversed(range(images)))
        axes.tick_params(length=0, labelsize=8)
        axes.set_xlabel("channel C", fontsize=8)
        axes.set_ylabel("image N", fontsize=8)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    return figure
