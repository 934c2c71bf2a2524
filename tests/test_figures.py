"""What a reader must find on the curves, the grids and the drawing of the norms."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from helpers.figures import is_whole, texts
from matplotlib.figure import Figure

from normstudy import figures as plots
from normstudy.model import NORMS
from normstudy.report import error_charts

Draw = Callable[[Mapping[str, pd.DataFrame], str], Figure]
CURVES = {
    "GN": pd.DataFrame({0: [0.95, 0.99, 0.9941]}, index=[1, 2, 3]),
    "LN": pd.DataFrame({0: [0.94, 0.985, 0.9940]}, index=[1, 2, 3]),
    "BN + L1": pd.DataFrame({0: [0.97, 0.991, 0.9946]}, index=[1, 2, 3]),
}
SEEDS = pd.DataFrame({0: [0.95, 0.99, 0.994], 3: [0.94, 0.988, 0.998], 7: [0.96, 0.98, 0.993]}, index=[1, 2, 3])


def test_every_norm_has_its_own_colour_and_marker() -> None:
    rows = plots.NORM_STYLES
    assert [name for name in NORMS if name.upper() not in rows] == []
    assert [name for name in rows if name.split(" + ")[0].lower() not in NORMS] == []
    for key in ("color", "marker"):
        assert len({style[key] for style in [*rows.values(), plots.OTHER_STYLE]}) == len(rows) + 1


def test_a_norm_has_its_colour_whatever_else_is_drawn_and_what_names_none_has_no_norms_colour() -> None:
    looks = plots.norm_styles(["none", "BN", "GN, lr 0.1", "GN, lr 0.2", "GN + L1", "BN + L1", "rms", "what"])
    rows = plots.NORM_STYLES
    assert looks["BN"] == rows["BN"] == plots.norm_styles(["BN"])["BN"]
    assert looks["BN + L1"] == {**rows["BN + L1"], "markerfacecolor": "white"}  # beside BN, without L1
    assert plots.norm_styles(["GN", "BN + L1"])["BN + L1"] == rows["BN + L1"]
    assert looks["GN, lr 0.1"] == rows["GN"]
    assert {looks[group]["color"] for group in ("GN, lr 0.2", "GN + L1")} == {rows["GN"]["color"]}
    assert len({looks[group]["marker"] for group in looks if group.startswith("GN")}) == 3
    assert looks["rms"]["color"] == looks["what"]["color"] == plots.OTHER_STYLE["color"]
    assert looks["rms"]["marker"] != looks["what"]["marker"]


@pytest.mark.parametrize("draw", [error_charts.loss_curves, error_charts.accuracy_curves])
def test_curves_are_labelled_and_told_apart_without_colour_and_a_long_subtitle_is_whole(draw: Draw) -> None:
    figure = draw(CURVES, "MNIST, 10,000 test images; 7,522 parameters each; " + "seeds 0 to 9, " * 9)
    labels = {text.split(":")[0] for text in texts(figure)}
    assert {"epoch", *CURVES} <= labels
    lines = figure.axes[0].get_lines()
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 3
    assert is_whole(figure)


def test_accuracy_axis_gives_half_its_height_to_what_lies_above_98_percent_and_holds_every_seed() -> None:
    axes = error_charts.accuracy_curves({"GN": SEEDS}, "").axes[0]
    heights = [(axes.transScale + axes.transLimits).transform((0, value))[1] for value in (94, 98, 99.8)]
    assert 0 <= heights[0] < heights[1] < 0.5 < heights[2] <= 1


def test_many_groups_differ_in_colour_and_style_and_have_their_last_value_in_a_legend_outside() -> None:
    names = [f"GN, lr {place}" for place in range(12)]
    figure = error_charts.accuracy_curves(dict.fromkeys(names, CURVES["GN"]), "")
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 12
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}: 99.410 %" for name in names]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0


@pytest.mark.parametrize("count", [0, 3, 10])
def test_grid_shows_each_image_below_its_numbers_and_no_blank_row(count: int) -> None:
    rows = pd.DataFrame({"index": range(count), "true": 3, "predicted": 5, "confidence": 0.9, "confidence_true": 0.05})
    figure = plots.misclassified_grid([np.zeros((28, 28), np.uint8)] * count, rows, "LN: 10 of 10,000 misclassified")
    said = texts(figure)
    assert sum("true 3, predicted 5\n90.0 % (true class: 5.0 %)" in text for text in said) == count
    assert [len(tile.images) for tile in figure.axes] == [1] * count + [0] * (len(figure.axes) - count)
    assert ("none" in said) == (count == 0)
    assert is_whole(figure)


def test_shared_statistics_colours_the_pixels_of_each_norms_definition() -> None:
    figure = plots.shared_statistics()
    coloured = [sum(patch.get_hatch() is not None for patch in axes.patches) for axes in figure.axes]
    assert coloured == [9 * cells for cells in (3, 2, 4, 1)]


def test_settings_have_no_norms_colour() -> None:
    norms = {style["color"] for style in [*plots.NORM_STYLES.values(), plots.OTHER_STYLE]}
    for count in (5, 12):
        looks = plots.setting_styles(map(str, range(count)))
        assert len({look["color"] for look in looks.values()} - norms) == count
