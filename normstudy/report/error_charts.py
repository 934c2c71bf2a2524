"""The errors' tables to figures: corrupted images, calibration, shared errors, digits, pairs, single images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normstudy.report.charts import cross, error_ticks, start, styles


def shift(table: pd.DataFrame, note: str) -> Figure:
    """A panel for each corruption: accuracy by severity, mean over seeds, band from lowest to highest seed.

    Columns: statistics ("as trained" or "re-estimated"), corruption, severity, accuracy. Severity 0 is the clean image;
    where it has a corruption's name of its own, it stands in every panel.
    """
    looks = styles(list(dict.fromkeys(table["group"])))
    names = list(dict.fromkeys(table.loc[table["severity"] > 0, "corruption"]))
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
    if not np.isfinite(table["accuracy"].to_numpy(float)).all():
        lines["diverged"] = cross("diverged")
    for tile in tiles[len(names) :]:
        tile.set_axis_off()
    legend = tiles[len(names)].legend(
        lines.values(),
        lines.keys(),
        title="mean; band: lowest\nto highest seed",
        loc="center",
        fontsize=7,
        title_fontsize=7,
    )
    legend.set_in_layout(False)  # else its column would be wider than the others
    figure.supxlabel("severity of the corruption (0: clean images)", fontsize=9)
    figure.supylabel("test accuracy, %", fontsize=9)
    return figure


def _shift_line(axes: Axes, runs: pd.DataFrame, look: Mapping[str, Any], *, dashed: bool) -> Line2D:
    accuracy = 100 * runs.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
    axes.fill_between(accuracy.index, accuracy["min"], accuracy["max"], color=look["color"], alpha=0.15, linewidth=0)
    failed = sorted(set(runs.loc[~np.isfinite(runs["accuracy"].astype(float)), "severity"]))
    axes.plot(
        failed,
        [0.04] * len(failed),
        linestyle="none",
        marker="x",
        color=look["color"],
        transform=axes.get_xaxis_transform(),
    )
    face = "#FFFFFF" if dashed else look["color"]
    [line] = axes.plot(
        accuracy.index,
        accuracy["mean"],
        color=look["color"],
        marker=look["marker"],
        markersize=4,
        linewidth=1.3,
        linestyle="--" if dashed else "-",
        markerfacecolor=face,
    )
    return line


def reliability(table: pd.DataFrame, calibration: pd.DataFrame, note: str) -> Figure:
    """A panel for each group: how often each bin's images are wrong, by how often its confidence lets expect it.

    `table`: group, seed, scaled (by temperature), bin, count, confidence, accuracy. `calibration`: group, seed,
    temperature, nll, nll_scaled, ece, ece_scaled. Nearly all images have a confidence above 0.99: both axes are
    logarithmic in the error, so that these are more than a dot in the corner. A bin is the mean over seeds, weighted
    by the count; one without an error in any seed is a triangle at the bottom edge.
    """
    looks = styles(list(dict.fromkeys(table["group"])))
    filled = table[table["count"] > 0].assign(
        error=lambda rows: rows["count"] * (1 - rows["accuracy"]),
        doubt=lambda rows: rows["count"] * (1 - rows["confidence"]),
    )
    bins = filled.groupby(["group", "scaled", "bin"])[["count", "error", "doubt"]].sum().reset_index()
    bins[["error", "doubt"]] = 100 * bins[["error", "doubt"]].div(bins["count"], axis=0)
    columns = min(3, len(looks))
    down = -(-len(looks) // columns)
    figure = start("Is each group as often right as it is confident?", note, height=max(5.0, 1.2 + 2.5 * down))
    tiles = list(figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False).flat)
    shown = bins.loc[bins["error"] > 0, ["error", "doubt"]].to_numpy()
    limits = (0.6 * shown.min(), min(130.0, 1.6 * float(shown.max()))) if shown.size else (0.01, 100.0)
    for tile, group in zip(tiles, looks, strict=False):
        _reliability_panel(tile, bins[bins["group"] == group], limits, looks[group])
        tile.set_title(f"{group}\n{_calibration_text(calibration[calibration['group'] == group])}", fontsize=8)
    for tile in tiles[len(looks) :]:
        tile.set_axis_off()
    for tile in tiles[max(0, len(looks) - columns) : len(looks)]:  # under a legend, supxlabel would be hidden
        tile.set_xlabel("expected errors, %: 100\nminus mean confidence (log scale)", fontsize=8)
        tile.tick_params(labelbottom=True)
    figure.supylabel("observed errors, % (log scale)", fontsize=9)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": "#333333"}
    entries = [
        Line2D([], [], markerfacecolor="none", **look, label="as trained"),
        Line2D([], [], **look, label="temperature scaled"),
        Line2D([], [], linestyle="none", marker="v", color="#333333", label="no error in any seed"),
        Line2D([], [], color="#777777", linewidth=0.8, label="calibrated; above: overconfident"),
    ]
    figure.legend(
        handles=entries, title="larger: more images", loc="outside lower center", ncols=4, fontsize=8, title_fontsize=8
    )
    return figure


def _reliability_panel(axes: Axes, bins: pd.DataFrame, limits: tuple[float, float], look: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(limits, limits, color="#777777", linewidth=0.8)
    for scaled in (True, False):  # the hollow ones on top
        rows = bins[bins["scaled"] == scaled]
        area = 8 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
        face = look["color"] if scaled else "none"
        wrong = rows["error"] > 0
        axes.scatter(
            rows["doubt"][wrong],
            rows["error"][wrong],
            s=area[wrong],
            facecolor=face,
            edgecolor=look["color"],
            alpha=0.8,
        )
        axes.scatter(
            rows["doubt"][~wrong],
            np.full((~wrong).sum(), 0.03),
            marker="v",
            s=25,
            facecolor=face,
            edgecolor=look["color"],
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    error_ticks(axes.xaxis)
    error_ticks(axes.yaxis)
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
def upset(overlap: pd.Series, note: str, *, most: int = 20, counted: str = "images") -> Figure:
    """UpSet plot: how many images are in exactly these groups' sets, and the size of each group's set.

    The index of `overlap` has a boolean level for each group. Images in no set aren't drawn; of the combinations, the
    `most` largest are, and the note says how many are left out.
    Lex et al. 2014, "UpSet: Visualization of Intersecting Sets".
    """
    names = [str(name) for name in overlap.index.names]
    members = np.array([np.atleast_1d(key) for key in overlap.index], bool).reshape(-1, len(names))
    counts = overlap.to_numpy()
    sizes = (members * counts[:, None]).sum(axis=0)
    drawn = [place for place in np.argsort(-counts, kind="stable") if counts[place] and members[place].any()]
    left_out = drawn[most:]
    if left_out:
        note += f"; not shown: {counts[left_out].sum()} {counted} in {len(left_out)} smaller combinations"
    drawn = drawn[:most]
    figure = start(f"How far do the groups' sets of {counted} overlap?", note)
    if not drawn:
        figure.text(0.5, 0.5, "none", ha="center", va="center")
        return figure
    corner, bars, totals, matrix = figure.subplots(
        2, 2, width_ratios=(1, 3.5), height_ratios=(2, 0.2 + 0.22 * len(names))
    ).flat
    corner.set_axis_off()
    bars.bar_label(bars.bar(range(len(drawn)), counts[drawn], width=0.6, color="#333333"), fontsize=8)
    bars.set_ylabel(f"{counted} in exactly these sets", fontsize=9)
    bars.yaxis.set_major_locator(MaxNLocator(integer=True))
    bars.set_xticks([])
    totals.set_xlim(1.4 * sizes.max(), 0)
    colors = [look["color"] for look in styles(names).values()]
    totals.bar_label(totals.barh(range(len(names)), sizes, height=0.6, color=colors), fontsize=8, padding=2)
    totals.set_xlabel(f"{counted} in the set", fontsize=9)
    totals.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    totals.set_yticks([])
    _membership(matrix, members[drawn], names)
    for axes in (bars, matrix):
        axes.set_xlim(-0.6, len(drawn) - 0.4)
    for axes in (totals, matrix):
        axes.set_ylim(len(names) - 0.5, -0.5)
    for axes in (bars, totals):
        axes.spines[["top", "left" if axes is totals else "right"]].set_visible(False)
    return figure


def _membership(axes: Axes, members: np.ndarray, names: Sequence[str]) -> None:
    """A column for each combination: dark dots, joined by a line, for the sets that it lies in, and pale ones else."""
    for place, inside in enumerate(members):
        rows = np.flatnonzero(inside)
        axes.plot([place] * len(inside), range(len(inside)), linestyle="none", marker="o", color="#DDDDDD", zorder=1)
        axes.plot([place] * len(rows), rows, marker="o", color="#333333", zorder=2)
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def per_class(table: pd.DataFrame, note: str) -> Figure:
    """A mark for each group and digit: the digit's error rate. A row of `table` is a group, a column a digit."""
    figure = start("Which digits does each group get wrong?", note)
    axes = figure.subplots()
    aside = 0.7 / len(table)
    for row, (group, look) in enumerate(styles([str(name) for name in table.index]).items()):
        places = np.arange(table.shape[1]) + (row - (len(table) - 1) / 2) * aside
        axes.plot(
            places,
            100 - 100 * table.iloc[row].to_numpy(float),
            linestyle="none",
            marker=look["marker"],
            color=look["color"],
            markersize=6,
            label=group,
        )
    for edge in np.arange(table.shape[1] - 1) + 0.5:
        axes.axvline(edge, color="#BBBBBB", linewidth=0.6)
    axes.set_xticks(range(table.shape[1]), [str(name) for name in table.columns])
    axes.set_xlim(-0.5, table.shape[1] - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("digit")
    axes.set_ylabel("errors, % of the digit's test images")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    return figure


def confusion_pairs(table: pd.DataFrame, note: str) -> Figure:
    """A row for each pair of digits, a bar for each group: columns true, predicted, then a group's mean number."""
    groups = [str(name) for name in table.columns if name not in ("true", "predicted")]
    figure = start(
        "Which digits are read as which?", note, height=max(5.0, 1.6 + 0.09 * len(table) * (len(groups) + 1))
    )
    axes = figure.subplots()
    height = 0.8 / len(groups)
    rows = np.arange(len(table))
    for place, (group, look) in enumerate(styles(groups).items()):
        middle = rows + (place - (len(groups) - 1) / 2) * height
        axes.barh(middle, table[group], height=0.85 * height, color=look["color"], alpha=0.6)
        axes.plot(
            table[group],
            middle,
            linestyle="none",
            marker=look["marker"],
            markersize=5,
            color=look["color"],
            label=group,
        )
    pairs = zip(table["true"], table["predicted"], strict=True)
    axes.set_yticks(rows, [f"{true} read as {predicted}" for true, predicted in pairs])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("test images, mean over seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    return figure


def image_grid(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, note: str, *, columns: int = 5
) -> Figure:
    """28 x 28 images with their captions, `columns` across; without any image the figure says "none"."""
    down = -(-len(images) // columns)
    figure = start(title, note, height=0.8 + down * (8 / columns + 0.35) if images else 2.0)
    if not images:
        figure.text(0.5, 0.4, "none", ha="center", va="center")
        return figure
    tiles = list(figure.subplots(down, columns, squeeze=False).flat)
    for tile in tiles[len(images) :]:
        tile.set_axis_off()
    for tile, image, caption in zip(tiles, images, captions, strict=False):
        tile.set_xticks([])
        tile.set_yticks([])
        tile.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        tile.set_title(caption, fontsize=8)
    return figure
