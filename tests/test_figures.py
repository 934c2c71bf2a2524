"""What a reader must find on the curves, the grids and the drawing of the norms."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers.figures import is_whole, points, texts
from matplotlib.figure import Figure
from matplotlib.text import Text

from normstudy import figures as plots
from normstudy.model import NORMS

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
    assert looks["BN + L1"] == rows["BN + L1"]
    assert looks["GN, lr 0.1"] == rows["GN"]
    assert {looks[group]["color"] for group in ("GN, lr 0.2", "GN + L1")} == {rows["GN"]["color"]}
    assert len({looks[group]["marker"] for group in looks if group.startswith("GN")}) == 3
    assert looks["rms"]["color"] == looks["what"]["color"] == plots.OTHER_STYLE["color"]
    assert looks["rms"]["marker"] != looks["what"]["marker"]


@pytest.mark.parametrize(("draw", "scale"), [(plots.loss_curves, 1), (plots.accuracy_curves, 100)])
def test_line_is_the_mean_over_seeds_and_band_reaches_from_lowest_to_highest(draw: Draw, scale: int) -> None:
    [axes] = draw({"GN": SEEDS, "LN": CURVES["LN"]}, "").axes
    np.testing.assert_allclose(points(axes)[0], np.array([(1, scale * 0.95), (2, scale * 0.986), (3, scale * 0.995)]))
    [band] = axes.collections  # none behind the single run
    vertices = np.asarray(band.get_paths()[0].vertices)
    spans = [(edge.min(), edge.max()) for edge in (vertices[vertices[:, 0] == epoch, 1] for epoch in (1, 2, 3))]
    np.testing.assert_allclose(spans, scale * np.array([(0.94, 0.96), (0.98, 0.99), (0.993, 0.998)]))
    assert {"99.50 %", "0.9950"} & {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.accuracy_curves])
def test_curves_are_labelled_and_told_apart_without_colour_and_a_long_subtitle_is_whole(draw: Draw) -> None:
    figure = draw(CURVES, "MNIST, 10,000 test images; 7,522 parameters each; " + "seeds 0 to 9, " * 9)
    assert {"epoch", *CURVES} <= set(texts(figure))
    lines = figure.axes[0].get_lines()
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 3
    assert is_whole(figure)


def test_accuracy_axis_gives_half_its_height_to_what_lies_above_98_percent_and_holds_every_seed() -> None:
    axes = plots.accuracy_curves({"GN": SEEDS}, "").axes[0]
    heights = [(axes.transScale + axes.transLimits).transform((0, value))[1] for value in (94, 98, 99.8)]
    assert 0 <= heights[0] < heights[1] < 0.5 < heights[2] <= 1


def test_last_values_are_written_and_do_not_overlap() -> None:
    figure = plots.accuracy_curves(CURVES, "")
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if "%" in text.get_text()]
    assert {label.get_text() for label in labels} == {"99.41 %", "99.40 %", "99.46 %"}
    # Text's own extent: an annotation's would take in its leader line
    boxes = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))


def test_many_groups_differ_in_colour_and_style_and_have_their_last_value_in_a_legend_outside() -> None:
    names = [f"GN, lr {place}" for place in range(12)]
    figure = plots.accuracy_curves(dict.fromkeys(names, CURVES["GN"]), "")
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 12
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}: 99.41 %" for name in names]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0


@pytest.mark.parametrize("errors", [0, 3, 10, 59])
def test_grid_says_what_it_shows_even_when_there_are_no_ten(errors: int) -> None:
    shown = min(errors, 10)
    rows = pd.DataFrame({"index": range(shown), "true": 3, "predicted": 5, "confidence": 0.9, "confidence_true": 0.05})
    title = plots.grid_title("LN", 1 - errors / 10_000, errors, 10_000)
    figure = plots.misclassified_grid([np.zeros((28, 28), np.uint8)] * shown, rows, title)
    text = "\n".join(texts(figure))
    assert f"LN: {100 - errors / 100:.2f} % right, {errors} of 10,000 test images misclassified" in text
    assert text.count("true 3, predicted 5\nconfidence 90%") == sum(len(tile.images) for tile in figure.axes) == shown
    assert ("there are no ten" in text) == (errors < 10)


def test_shared_statistics_colours_the_cells_of_each_norms_definition() -> None:
    figure = plots.shared_statistics()
    coloured = [sum(patch.get_hatch() is not None for patch in axes.patches) for axes in figure.axes]
    assert coloured == [3, 2, 4, 1]
