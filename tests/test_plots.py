"""What a reader must find on each figure."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from normstudy import figures as plots

CURVES = {
    "GN": pd.DataFrame({0: [0.95, 0.99, 0.9941]}, index=[1, 2, 3]),
    "LN": pd.DataFrame({0: [0.94, 0.985, 0.9940]}, index=[1, 2, 3]),
    "BN + L1": pd.DataFrame({0: [0.97, 0.991, 0.9946]}, index=[1, 2, 3]),
}
SEEDS = pd.DataFrame({0: [0.95, 0.99, 0.994], 3: [0.94, 0.988, 0.998], 7: [0.96, 0.98, 0.993]}, index=[1, 2, 3])


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.accuracy_curves])
def test_curves_are_labelled_and_told_apart_without_colour(draw: object) -> None:
    figure = draw(CURVES, "the subtitle")  # type: ignore[operator]
    shown = texts(figure)
    for wanted in ("epoch", "the subtitle", *CURVES):
        assert wanted in shown
    lines = figure.axes[0].get_lines()
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 3


def test_accuracy_axis_gives_half_its_height_to_what_lies_above_98_percent() -> None:
    axes = plots.accuracy_curves(CURVES, "").axes[0]
    to_height = axes.transScale + axes.transLimits
    assert to_height.transform((0, 98))[1] < 0.5
    assert all(0 <= to_height.transform((0, 100 * value))[1] <= 1 for curve in CURVES.values() for value in curve[0])


def test_last_values_are_written_and_do_not_overlap() -> None:
    figure = plots.accuracy_curves(CURVES, "")
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if "%" in text.get_text()]
    assert {label.get_text() for label in labels} == {"99.41 %", "99.40 %", "99.46 %"}
    # Text's own extent: an annotation's would take in its leader line
    boxes = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))


@pytest.mark.parametrize(("draw", "scale"), [(plots.loss_curves, 1), (plots.accuracy_curves, 100)])
def test_line_is_the_mean_over_seeds_and_band_reaches_from_lowest_to_highest(draw: object, scale: int) -> None:
    figure = draw({"GN": SEEDS, "LN": CURVES["LN"]}, "")  # type: ignore[operator]
    [axes] = figure.axes
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), scale * np.array([0.95, 0.986, 0.995]))
    [band] = axes.collections  # none behind the single run
    edges = {epoch: band.get_paths()[0].vertices[band.get_paths()[0].vertices[:, 0] == epoch, 1] for epoch in (1, 2, 3)}
    spans = [(edge.min(), edge.max()) for edge in edges.values()]
    np.testing.assert_allclose(spans, scale * np.array([(0.94, 0.96), (0.98, 0.99), (0.993, 0.998)]))
    assert {"99.50 %", "0.9950"} & {text.get_text() for text in axes.texts}


def test_accuracy_axis_holds_every_seed() -> None:
    low, high = plots.accuracy_curves({"GN": SEEDS}, "").axes[0].get_ylim()
    assert low < 94
    assert high > 99.8


def test_many_groups_differ_in_colour_and_style_and_have_their_last_value_in_a_legend_outside() -> None:
    names = [f"GN, lr {place}" for place in range(12)]
    figure = plots.accuracy_curves(dict.fromkeys(names, CURVES["GN"]), "")
    lines = figure.axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == 12
    assert len({(style["linestyle"], style["marker"]) for style in plots.styles_of(12)}) == 12
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}: 99.41 %" for name in names]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0


def test_long_subtitle_stays_on_the_figure() -> None:
    figure = plots.loss_curves(CURVES, "MNIST, 10,000 test images; 7,522 parameters each; " + "seeds 0 to 9, " * 9)
    figure.draw_without_rendering()
    box = figure.axes[0].title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("errors", [0, 3, 10, 59])
def test_grid_says_what_it_shows_even_when_there_are_no_ten(errors: int) -> None:
    shown = min(errors, 10)
    rows = pd.DataFrame({"index": range(shown), "true": 3, "predicted": 5, "confidence": 0.9, "confidence_true": 0.05})
    title = plots.grid_title("LN", 1 - errors / 10_000, errors, 10_000)
    figure = plots.misclassified_grid([np.zeros((28, 28), np.uint8)] * shown, rows, title)
    text = texts(figure)
    assert f"LN: {100 - errors / 100:.2f} % right, {errors} of 10,000 test images misclassified" in text
    assert text.count("true 3, predicted 5") == shown
    assert text.count("confidence 90%") == shown
    assert ("there are no ten" in text) == (errors < 10)


def test_shared_statistics_colours_the_cells_of_each_norms_definition() -> None:
    figure = plots.shared_statistics(groups=2, channels=4)
    coloured = [sum(patch.get_hatch() is not None for patch in axes.patches) for axes in figure.axes]
    assert coloured == [3, 2, 4, 1]
