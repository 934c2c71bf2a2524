"""Curves, and the errors' tables to figures: corrupted images, calibration, shared errors, digits, pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from normstudy.config import BINS
from normstudy.figures import DARK, Picture, Style, norm_styles
from normstudy.report.charts import entry, label_rows, legend_below, mean_intervals, plain_ticks, reach

ACCURACY_TICKS = (50, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.4, 99.5, 99.6, 99.7, 99.8, 99.9, 99.95, 99.99)
INSET = 5  # epochs at the end that a curve's inset shows
COMBINATIONS = 20  # that fit side by side on an UpSet plot
FEWEST = 20  # images of all seeds that a bin needs to be drawn: of fewer the gap is chance


def loss_curves(curves: Mapping[str, pd.DataFrame], caption: str) -> Picture:
    """Test loss by epoch, of each group a table with a row an epoch, counted from 1, and a column a seed."""
    found = {name: mean_intervals(curve) for name, curve in curves.items()}
    figure, axes = _curve_axes(found, "Test loss by epoch", caption, "{:.4f}", inset_above=True)
    axes.set(yscale="log", ylabel="test loss (cross-entropy, nats; log scale)")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    return figure


def accuracy_curves(curves: Mapping[str, pd.DataFrame], caption: str) -> Picture:
    """Test accuracy by epoch, as fractions in, as percentages out.

    The axis is logarithmic in the error: every seed and epoch is on it, and half of it lies above 98 %; the interval of
    a few seeds may reach beyond it.
    """
    percent = {name: (100 * curve).clip(upper=99.99) for name, curve in curves.items()}
    found = {name: mean_intervals(curve) for name, curve in percent.items()}
    figure, axes = _curve_axes(found, "Test accuracy by epoch", caption, "{:.3f} %", inset_above=False)
    error_scale(axes, pd.concat(percent.values()).stack(), whole=100)
    axes.set_ylabel("test accuracy (%; log scale of the error)")
    return figure


def error_scale(axes: Axes, values: pd.Series, *, whole: int) -> None:
    """An axis for all of these values that is logarithmic in what they lack to `whole`, so that 99 and 99.5 % stand
    apart."""
    least = 1e-5 * whole
    functions = (lambda y: -np.log10(np.maximum(whole - y, least)), lambda z: whole - 10**-z)
    axes.set_yscale("function", functions=functions)
    ticks = [whole / 100 * tick for tick in ACCURACY_TICKS]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(whole - 1.3 * (whole - values.min()), whole - 0.8 * (whole - values.max()))


def _curve_axes(
    curves: Mapping[str, pd.DataFrame], title: str, caption: str, form: str, *, inset_above: bool
) -> tuple[Picture, Axes]:
    """Lines with bands, and an inset of the last epochs where there are epochs enough."""
    figure = Picture(title, caption, width=5.8, height=4.2 + 0.2 * (len(curves) // 3))
    axes = figure.subplots()
    last = max(int(curve.index.max()) for curve in curves.values())
    panels = [axes]
    if last >= 2 * INSET:
        panels.append(axes.inset_axes((0.56, 0.55 if inset_above else 0.09, 0.43, 0.38)))
        panels[1].set_xlim(last - INSET + 0.8, last + 0.2)
        panels[1].set_xticks(range(last - INSET + 1, last + 1))
        panels[1].tick_params(labelsize=8)
        panels[1].set_title(f"last {INSET} epochs, linear scale", fontsize=8)
        panels[1].spines[:].set_visible(True)
    for name, style in norm_styles(curves).items():
        for panel in panels:
            curve = curves[name] if panel is axes else curves[name].loc[last - INSET + 1 :]
            label = f"{name}: {form.format(curve['mean'].iloc[-1])}"
            panel.plot(curve.index, curve["mean"], label=label, markersize=4, linewidth=1.5, **style)
            panel.fill_between(curve.index, curve["low"], curve["high"], color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlim=(0.5, last + 0.5), xlabel="epoch")
    axes.set_xticks([epoch for epoch in range(1, last + 1) if epoch in (1, last) or epoch % max(1, last // 5) == 0])
    legend_below(figure, axes.get_legend_handles_labels()[0], columns=3, title="mean at the last epoch")
    return figure, axes


def draw_shift(table: pd.DataFrame, caption: str) -> Picture:
    """A panel for each corruption: test error by severity, mean over seeds, band: its interval.

    Columns: statistics ("as trained" or "re-estimated"), corruption, severity, accuracy. Severity 0 is the clean image;
    where it has a corruption's name of its own, it stands in every panel.
    """
    looks = norm_styles(table["group"].unique())
    names = list(table.loc[table["severity"] > 0, "corruption"].unique())
    clean = table[~table["corruption"].isin(names)]
    figure = Picture("Test error on corrupted images, by severity", caption, width=9.0, height=5.4)
    tiles = list(figure.subplots(-(-(len(names) + 1) // 4), 4, sharex=True, sharey=True).flat)
    lines: dict[str, Line2D] = {}
    tiles[0].set_yscale("log")
    for tile, name in zip(tiles, names, strict=False):
        panel = pd.concat([clean, table[table["corruption"] == name]])
        for (group, statistics), runs in panel.groupby(["group", "statistics"], sort=False):
            again = statistics == "re-estimated"
            line = _shift_line(tile, runs, looks[str(group)], dashed=again)
            lines[f"{group}, statistics of\nthe shifted images" if again else str(group)] = line
        tile.set_title(name, fontsize=9)
        tile.set_xticks(range(int(table["severity"].max()) + 1))
        tile.tick_params(labelsize=8)
    plain_ticks(tiles[0].yaxis)
    if table["accuracy"].isna().any():
        lines["diverged"] = entry("diverged", "x")
    for tile in tiles[len(names) :]:
        tile.set_axis_off()
    legend = tiles[len(names)].legend(lines.values(), lines.keys(), loc="center", fontsize=8)
    legend.set_in_layout(False)  # else its column would be wider than the others
    figure.supxlabel("severity of the corruption (0: clean images)", fontsize=9)
    figure.supylabel("test error, % (log scale)", fontsize=9)
    return figure


def _shift_line(axes: Axes, runs: pd.DataFrame, look: Style, *, dashed: bool) -> Line2D:
    errors = mean_intervals(100 - 100 * runs.pivot(index="severity", columns="seed", values="accuracy"))
    axes.fill_between(errors.index, errors["low"], errors["high"], color=look["color"], alpha=0.15, linewidth=0)
    failed = sorted(set(runs.loc[runs["accuracy"].isna(), "severity"]))
    axes.plot(failed, [0.04] * len(failed), "x", color=look["color"], transform=axes.get_xaxis_transform())
    shape: Style = {"marker": "*", "markersize": 8, "markerfacecolor": "white", "linestyle": "-"} if dashed else {}
    [line] = axes.plot(errors.index, errors["mean"], **{**look, "markersize": 4, "linewidth": 1.2, **shape})
    return line


def draw_corruptions(table: pd.DataFrame, caption: str) -> Picture:
    """A row for each corruption: test error of each group, mean over seeds with its interval.

    Columns as of `draw_shift`. Filled marks are networks as trained, hollow ones BatchNorm with other statistics.
    """
    looks, hollow = norm_styles(table["group"].unique()), iter("*D" * table["group"].nunique())
    names = list(dict.fromkeys(table["corruption"]))
    figure = Picture("Test error under the corruptions of MNIST-C", caption, width=8.0, height=7.5)
    axes = figure.subplots()
    shown = list(table.groupby(["group", "statistics"], sort=False))
    for place, ((group, statistics), runs) in enumerate(shown):
        accuracies = runs.pivot(index="corruption", columns="seed", values="accuracy").loc[names]
        errors, style = mean_intervals(100 - 100 * accuracies), looks[str(group)]
        label, look = str(group), {"color": style["color"], "marker": style["marker"]}
        if statistics != "as trained":
            label, look = f"{group}, {statistics}", {**look, "marker": next(hollow), "markerfacecolor": "white"}
        rows = np.arange(len(names)) + 0.6 * ((place + 0.5) / len(shown) - 0.5)
        bars = reach(errors["mean"], errors["low"], errors["high"])
        axes.errorbar(errors["mean"], rows, xerr=bars, label=label, linestyle="", markersize=5, **look)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    label_rows(axes, names, "test error, % (log scale)")
    legend_below(figure, axes.get_legend_handles_labels()[0], columns=4)
    return figure


def draw_calibration(table: pd.DataFrame, calibration: pd.DataFrame, caption: str) -> Picture:
    """A panel for each group: by how much accuracy exceeds confidence in each bin of the confidence, mean over seeds.

    `table`: group, seed, scaled (by temperature), bin, count, confidence, accuracy. `calibration`: group, seed,
    temperature, nll, nll_scaled, ece, ece_scaled. The bars are intervals of the mean over the seeds that have an image
    in the bin. Bins of fewer than `FEWEST` images are left out.
    """
    looks = norm_styles(table["group"].unique())
    held = table.groupby(["group", "scaled", "bin"])["count"].transform("sum") >= FEWEST
    gaps = table[held & (table["count"] > 0)].assign(gap=lambda rows: 100 * (rows["accuracy"] - rows["confidence"]))
    columns = min(3, len(looks))
    down = -(-len(looks) // columns)
    figure = Picture("Calibration gap: accuracy minus confidence", caption, width=9.0, height=1.2 + 2.5 * down)
    tiles = list(figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False).flat)
    for tile, (group, look) in zip(tiles, looks.items(), strict=False):
        tile.axhline(0, color=DARK, linewidth=0.8)
        for scaled, rows in gaps[gaps["group"] == group].groupby("scaled"):
            found = mean_intervals(rows.pivot(index="bin", columns="seed", values="gap"))
            at = 100 * (found.index.to_numpy() + (0.65 if scaled else 0.35)) / BINS
            face: Style = {"markerfacecolor": look["color"] if scaled else "white", "linestyle": "none"}
            bar = reach(found["mean"], found["low"], found["high"])
            tile.errorbar(at, found["mean"], yerr=bar, capsize=2, markersize=5, elinewidth=0.8, **{**look, **face})
            if not scaled and len(found):
                counts = table[(table["group"] == group) & (table["scaled"] == scaled)].groupby("bin")["count"].sum()
                mean, low, high = found.iloc[-1]
                text = f"last bin, as trained, {100 * counts[found.index[-1]] / counts.sum():.1f} % of images:\n"
                text += f"{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}] points"
                tile.text(0.98, 0.03, text, ha="right", va="bottom", fontsize=8, transform=tile.transAxes)
        tile.set_title(f"{group}\n{_calibration_text(calibration[calibration['group'] == group])}", fontsize=8)
        tile.set_xlabel("confidence, % (15 bins)", fontsize=8)
        tile.tick_params(labelsize=8)
    for tile in tiles[len(looks) :]:
        tile.set_axis_off()
    figure.supylabel("accuracy minus confidence, points", fontsize=9)
    entries = [entry("as trained", "o", markerfacecolor="white"), entry("temperature scaled", "o")]
    legend_below(figure, entries, columns=2)
    return figure


def _calibration_text(rows: pd.DataFrame) -> str:
    mean = rows.mean(numeric_only=True)
    return (
        f"ECE {100 * mean['ece']:.2f} → {100 * mean['ece_scaled']:.2f} points\n"
        f"NLL {mean['nll']:.4f} → {mean['nll_scaled']:.4f} nats (T = {mean['temperature']:.2f})"
    )


# An own drawing: upsetplot 0.9.0, its last release, raises "Invalid RGBA argument: nan" with pandas 3.1 and warns of
# deprecated calls (its issues 276 and 303, both open)
def draw_overlap(overlap: pd.Series, caption: str) -> Picture:
    """UpSet plot: how many images are in exactly these groups' sets, and the size of each group's set.

    The index of `overlap` has a boolean level for each group. Images in no set aren't drawn; of the combinations, the
    `COMBINATIONS` largest are, and the caption says how many are left out.
    Lex et al. 2014, "UpSet: Visualization of Intersecting Sets".
    """
    looks = norm_styles(map(str, overlap.index.names))
    members = np.array([np.atleast_1d(key) for key in overlap.index], bool).reshape(-1, len(looks))
    counts = overlap.to_numpy()
    sizes = counts @ members
    filled = [place for place in np.argsort(-counts, kind="stable") if counts[place] and members[place].any()]
    drawn, left_out = filled[:COMBINATIONS], filled[COMBINATIONS:]
    if left_out:
        caption += f" Not shown: {counts[left_out].sum()} images in {len(left_out)} smaller combinations."
    figure = Picture("Misclassified images that the groups share", caption)
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
    for axes in (bars, totals, matrix):
        axes.grid(visible=False)
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


def draw_rows(
    found: Mapping[str, pd.DataFrame], labels: Sequence[str], title: str, caption: str, xlabel: str
) -> Picture:
    """A row for each label, in it a mark with its interval for each group, whose tables are of `mean_intervals`."""
    height = 1.5 + 0.11 * len(labels) * (len(found) + 1)
    figure = Picture(title, caption, height=height)
    axes = figure.subplots()
    asides = (np.arange(len(found)) - (len(found) - 1) / 2) * (0.7 / len(found))
    for (group, look), aside in zip(norm_styles(found).items(), asides, strict=True):
        middle, low, high = found[group].to_numpy().T
        shape: Style = {"linestyle": "none", "markersize": 5, "elinewidth": 1, "capsize": 2, "label": group}
        axes.errorbar(middle, np.arange(len(labels)) + aside, xerr=reach(middle, low, high), **{**look, **shape})
    for edge in np.arange(1, len(labels)) - 0.5:
        axes.axhline(edge, color="#BBBBBB", linewidth=0.6)
    label_rows(axes, labels, xlabel)
    axes.set_xlim(left=0)
    legend_below(figure, columns=6)
    return figure
