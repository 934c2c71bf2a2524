"""The errors' tables to figures: corrupted images, calibration, shared errors, digits, pairs, single images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normstudy.figures import Style, draw_images, norm_styles
from normstudy.report.charts import DARK, entry, label_rows, legend_below, plain_ticks, start

COMBINATIONS = 20  # that fit side by side on an UpSet plot


def shift(table: pd.DataFrame, note: str) -> Figure:
    """A panel for each corruption: accuracy by severity, mean over seeds, band from lowest to highest seed.

    Columns: statistics ("as trained" or "re-estimated"), corruption, severity, accuracy. Severity 0 is the clean image;
    where it has a corruption's name of its own, it stands in every panel.
    """
    looks = norm_styles(table["group"].unique())
    names = list(table.loc[table["severity"] > 0, "corruption"].unique())
    clean = table[~table["corruption"].isin(names)]
    figure = start("How accurate does each group stay when the test images are corrupted?", note)
    tiles = list(figure.subplots(-(-(len(names) + 1) // 4), 4, sharex=True, sharey=True).flat)
    lines: dict[str, Line2D] = {}
    for tile, name in zip(tiles, names, strict=False):
        panel = pd.concat([clean, table[table["corruption"] == name]])
        for (group, statistics), runs in panel.groupby(["group", "statistics"], sort=False):
            again = statistics == "re-estimated"
            line = _shift_line(tile, runs, looks[str(group)], dashed=again)
            lines[f"{group}, statistics\nre-estimated" if again else str(group)] = line
        tile.set_title(name, fontsize=9)
        tile.set_xticks(range(int(table["severity"].max()) + 1))
        tile.grid(alpha=0.3)
        tile.tick_params(labelsize=8)
    if table["accuracy"].isna().any():
        lines["diverged"] = entry("diverged", "x")
    for tile in tiles[len(names) :]:
        tile.set_axis_off()
    title, small = "mean; band: lowest\nto highest seed", {"fontsize": 7, "title_fontsize": 7}
    legend = tiles[len(names)].legend(lines.values(), lines.keys(), title=title, loc="center", **small)
    legend.set_in_layout(False)  # else its column would be wider than the others
    figure.supxlabel("severity of the corruption (0: clean images)", fontsize=9)
    figure.supylabel("test accuracy, %", fontsize=9)
    return figure


def _shift_line(axes: Axes, runs: pd.DataFrame, look: Style, *, dashed: bool) -> Line2D:
    accuracy = 100 * runs.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
    color = look["color"]
    axes.fill_between(accuracy.index, accuracy["min"], accuracy["max"], color=color, alpha=0.15, linewidth=0)
    failed = sorted(set(runs.loc[runs["accuracy"].isna(), "severity"]))
    axes.plot(failed, [0.04] * len(failed), "x", color=color, transform=axes.get_xaxis_transform())
    shape: Style = {"color": color, "marker": look["marker"], "markersize": 4, "linewidth": 1.3}
    [line] = axes.plot(accuracy.index, accuracy["mean"], **shape)
    if dashed:
        line.set(linestyle="--", markerfacecolor="#FFFFFF")
    return line


def reliability(table: pd.DataFrame, calibration: pd.DataFrame, note: str) -> Figure:
    """A panel for each group: how often each bin's images are wrong, by how often its confidence lets expect it.

    `table`: group, seed, scaled (by temperature), bin, count, confidence, accuracy. `calibration`: group, seed,
    temperature, nll, nll_scaled, ece, ece_scaled. Nearly all images have a confidence above 0.99: both axes are
    logarithmic in the error, so that these are more than a dot in the corner. A bin is the mean over seeds, weighted
    by the count; one without an error in any seed is a triangle at the bottom edge.
    """
    looks = norm_styles(table["group"].unique())
    filled = table[table["count"] > 0].rename(columns={"accuracy": "error", "confidence": "doubt"})
    filled[["error", "doubt"]] = (1 - filled[["error", "doubt"]]).mul(filled["count"], axis=0)
    bins = filled.groupby(["group", "scaled", "bin"])[["count", "error", "doubt"]].sum().reset_index()
    bins[["error", "doubt"]] = 100 * bins[["error", "doubt"]].div(bins["count"], axis=0)
    columns = min(3, len(looks))
    down = -(-len(looks) // columns)
    figure = start("Is each group as often right as it is confident?", note, height=max(5.0, 1.2 + 2.5 * down))
    tiles = list(figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False).flat)
    shown = bins.loc[bins["error"] > 0, ["error", "doubt"]].to_numpy()
    limits = (0.6 * shown.min(), min(130.0, 1.6 * float(shown.max()))) if shown.size else (0.01, 100.0)
    for tile, (group, look) in zip(tiles, looks.items(), strict=False):
        _reliability_panel(tile, bins[bins["group"] == group], limits, look)
        tile.set_title(f"{group}\n{_calibration_text(calibration[calibration['group'] == group])}", fontsize=8)
    for tile in tiles[len(looks) :]:
        tile.set_axis_off()
    for tile in tiles[max(0, len(looks) - columns) : len(looks)]:  # under a legend, supxlabel would be hidden
        tile.set_xlabel("expected errors, %: 100\nminus mean confidence (log scale)", fontsize=8)
        tile.tick_params(labelbottom=True)
    figure.supylabel("observed errors, % (log scale)", fontsize=9)
    entries = [
        entry("as trained", "o", markerfacecolor="none"),
        entry("temperature scaled", "o"),
        entry("no error in any seed", "v"),
        Line2D([], [], color="#777777", linewidth=0.8, label="calibrated; above: overconfident"),
    ]
    legend_below(figure, entries, columns=4, title="larger: more images")
    return figure


def _reliability_panel(axes: Axes, bins: pd.DataFrame, limits: tuple[float, float], look: Style) -> None:
    axes.set(xscale="log", yscale="log")
    axes.plot(limits, limits, color="#777777", linewidth=0.8)
    for scaled in (True, False):  # the hollow ones on top
        rows = bins[bins["scaled"] == scaled]
        area = 8 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
        wrong = rows["error"] > 0
        colors: Style = {"facecolor": look["color"] if scaled else "none", "edgecolor": look["color"]}
        axes.scatter(rows["doubt"][wrong], rows["error"][wrong], s=area[wrong], alpha=0.8, **colors)
        side, heights = axes.get_xaxis_transform(), np.full((~wrong).sum(), 0.03)
        axes.scatter(rows["doubt"][~wrong], heights, marker="v", s=25, transform=side, **colors)
    axes.set(xlim=limits, ylim=limits)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)


def _calibration_text(rows: pd.DataFrame) -> str:
    mean = rows.mean(numeric_only=True)
    return (
        f"ECE {100 * mean['ece']:.2f} → {100 * mean['ece_scaled']:.2f} points\n"
        f"NLL {mean['nll']:.4f} → {mean['nll_scaled']:.4f} nats (T = {mean['temperature']:.2f})"
    )


# An own drawing: upsetplot 0.9.0, its last release, raises "Invalid RGBA argument: nan" with pandas 3.1 and warns of
# deprecated calls (its issues 276 and 303, both open)
def upset(overlap: pd.Series, note: str) -> Figure:
    """UpSet plot: how many images are in exactly these groups' sets, and the size of each group's set.

    The index of `overlap` has a boolean level for each group. Images in no set aren't drawn; of the combinations, the
    `COMBINATIONS` largest are, and the note says how many are left out.
    Lex et al. 2014, "UpSet: Visualization of Intersecting Sets".
    """
    looks = norm_styles(map(str, overlap.index.names))
    members = np.array([np.atleast_1d(key) for key in overlap.index], bool).reshape(-1, len(looks))
    counts = overlap.to_numpy()
    sizes = counts @ members
    filled = [place for place in np.argsort(-counts, kind="stable") if counts[place] and members[place].any()]
    drawn, left_out = filled[:COMBINATIONS], filled[COMBINATIONS:]
    if left_out:
        note += f"; not shown: {counts[left_out].sum()} images in {len(left_out)} smaller combinations"
    figure = start("How far do the groups' sets of images overlap?", note)
    if not drawn:
        figure.text(0.5, 0.5, "none", ha="center", va="center")
        return figure
    heights = (2, 0.2 + 0.22 * len(looks))
    corner, bars, totals, matrix = figure.subplots(2, 2, width_ratios=(1, 3.5), height_ratios=heights).flat
    corner.set_axis_off()
    bars.bar_label(bars.bar(range(len(drawn)), counts[drawn], width=0.6, color=DARK), fontsize=8)
    bars.set_ylabel("images in exactly these sets", fontsize=9)
    bars.yaxis.set_major_locator(MaxNLocator(integer=True))
    bars.set_xticks([])
    totals.set_xlim(1.4 * sizes.max(), 0)
    colors = [look["color"] for look in looks.values()]
    totals.bar_label(totals.barh(range(len(looks)), sizes, height=0.6, color=colors), fontsize=8, padding=2)
    totals.set_xlabel("images in the set", fontsize=9)
    totals.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    totals.set_yticks([])
    _membership(matrix, members[drawn], list(looks))
    for axes in (bars, matrix):
        axes.set_xlim(-0.6, len(drawn) - 0.4)
    for axes in (totals, matrix):
        axes.set_ylim(len(looks) - 0.5, -0.5)
    bars.spines[["top", "right"]].set_visible(False)
    totals.spines[["top", "left"]].set_visible(False)
    return figure


def _membership(axes: Axes, members: np.ndarray, names: Sequence[str]) -> None:
    """A column for each combination: dark dots, joined by a line, for the sets that it lies in, and pale ones else."""
    for place, inside in enumerate(members):
        rows = np.flatnonzero(inside)
        axes.plot([place] * len(inside), range(len(inside)), "o", color="#DDDDDD", zorder=1)
        axes.plot([place] * len(rows), rows, marker="o", color=DARK, zorder=2)
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def per_class(table: pd.DataFrame, note: str) -> Figure:
    """A mark for each group and digit: the digit's error rate. A row of `table` is a group, a column a digit."""
    figure = start("Which digits does each group get wrong?", note)
    axes = figure.subplots()
    digits = np.arange(table.shape[1])
    errors = 100 - 100 * table.to_numpy(float)
    for (group, look), rates, aside in zip(
        norm_styles(table.index).items(), errors, _beside(len(table), 0.7), strict=True
    ):
        axes.plot(digits + aside, rates, look["marker"], color=look["color"], markersize=6, label=group)
    for edge in digits[1:] - 0.5:
        axes.axvline(edge, color="#BBBBBB", linewidth=0.6)
    axes.set_xticks(digits, table.columns)
    axes.set(xlim=(-0.5, len(digits) - 0.5), xlabel="digit", ylabel="errors, % of the digit's test images")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    legend_below(figure, columns=6)
    return figure


def confusion_pairs(table: pd.DataFrame, note: str) -> Figure:
    """A row for each pair of digits, a bar for each group: columns true, predicted, then a group's mean number."""
    counts = table.drop(columns=["true", "predicted"])
    height = max(5.0, 1.6 + 0.09 * len(table) * (counts.shape[1] + 1))
    figure = start("Which digits are read as which?", note, height=height)
    axes = figure.subplots()
    for (group, look), aside in zip(norm_styles(counts).items(), _beside(counts.shape[1], 0.8), strict=True):
        middle = np.arange(len(table)) + aside
        axes.barh(middle, counts[group], height=0.68 / counts.shape[1], color=look["color"], alpha=0.6)
        axes.plot(counts[group], middle, look["marker"], markersize=5, color=look["color"], label=group)
    pairs = [f"{true} read as {predicted}" for true, predicted in zip(table["true"], table["predicted"], strict=True)]
    label_rows(axes, pairs, "test images, mean over seeds", above=0.5, below=0.5)
    legend_below(figure, columns=6)
    return figure


def _beside(groups: int, width: float) -> np.ndarray:
    """How far from the middle of their common place each of the groups stands, over this width together."""
    return (np.arange(groups) - (groups - 1) / 2) * (width / groups)


def image_grid(images: Sequence[np.ndarray], captions: Sequence[str], title: str, note: str) -> Figure:
    """28 x 28 images with their captions; without any image the figure says "none"."""
    rows = -(-len(images) // 5)
    figure = start(title, note, height=0.8 + rows * 1.95 if images else 2.0)
    if images:
        draw_images(figure, images, captions, rows=rows)
    else:
        figure.text(0.5, 0.4, "none", ha="center", va="center")
    return figure
