"""What a reader must find on the experiments' figures, and what must not be drawn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.figures import bars, is_whole, points, texts
from helpers.tables import made
from matplotlib.axes import Axes

from normstudy import report
from normstudy.config import TrainConfig
from normstudy.figures import DARK, Picture
from normstudy.report import charts, error_charts
from normstudy.stats import Verdict, compare_pairs

NOTE = "MNIST, 10,000 test images; n = 2 seeds each"
RUNS = pd.DataFrame(
    {"group": ["GN", "GN", "BN", "BN"], "seed": [0, 1, 0, 1], "test_accuracy": [0.994, 0.996, 0.99, np.nan]}
)
TWO = pd.DataFrame({"GN": 0.992 + 1e-5 * (np.arange(10) - 4.5), "BN": np.full(10, 0.99)})
PAIR = replace(compare_pairs(TWO, [("GN", "BN")])[0], low=0.0015, high=0.0025, p_adjusted=0.0004, tost_p_adjusted=0.2)
NO_PAIR = replace(PAIR, n=7, difference=np.nan, low=np.nan, high=np.nan, p=np.nan, verdict=Verdict.INCONCLUSIVE)
SWEEP = pd.DataFrame(
    [
        {"group": group, "seed": seed, "l1": l1, "test_accuracy": 0.99 + 0.002 * seed, "epochs": 4.0, "diverged": False}
        for group in ("GN", "BN")
        for l1 in (0.0, 1e-4, 1e-3)
        for seed in (0, 1)
    ]
)
ACCURACY = charts.Quantity(column="test_accuracy", label="test accuracy, %", unit="percent")
LONG = pd.concat([SWEEP[:6].assign(group=f"all parameters, rate ends at its peak {number}") for number in range(4)])
SHIFT = pd.DataFrame(
    [
        [group, seed, statistics, corruption, severity, 0.99 - 0.1 * severity - 0.02 * seed]
        for group, statistics in (("GN", "as trained"), ("BN", "as trained"), ("BN", "re-estimated"))
        for corruption, severity in [("clean", 0), *((f"kind {kind}", level) for kind in range(7) for level in (1, 5))]
        for seed in (0, 1)
    ],
    columns=["group", "seed", "statistics", "corruption", "severity", "accuracy"],
)
BINS = pd.DataFrame(
    [
        ["GN", seed, scaled, *row]
        for seed in (0, 1)
        for scaled in (False, True)
        for row in (
            (0, 0, np.nan, np.nan),
            (1, 10 + 20 * seed, 0.8, 0.6 + 0.2 * seed),
            (2, 5, 0.9, 1),
            (3, 900, 0.999, 0.99),
        )
    ],
    columns=["group", "seed", "scaled", "bin", "count", "confidence", "accuracy"],
)
CALIBRATION = pd.DataFrame(
    [["GN", 0, 1.1, 0.02, 0.019, 0.002, 0.001], ["GN", 1, 1.3, 0.03, 0.019, 0.004, 0.001]],
    columns=["group", "seed", "temperature", "nll", "nll_scaled", "ece", "ece_scaled"],
)
CURVES = {
    group: pd.DataFrame(
        {seed: [0.9 + 0.008 * (epoch + seed) for epoch in range(11)] for seed in (0, 1)}, index=range(1, 12)
    )
    for group in ("GN", "BN")
}
OVERLAP = pd.Series([9900, 12, 0, 34], index=pd.MultiIndex.from_product([[False, True]] * 2, names=["GN", "BN"]))
CELLS = {group: pd.DataFrame({"mean": [3.5, 1.0], "low": [3.0, 0.5], "high": [4.0, 1.5]}) for group in ("GN", "BN")}


def sweep(table: pd.DataFrame = SWEEP, y: charts.Quantity = ACCURACY) -> Picture:
    return charts.draw_sweep(table, NOTE, x="l1", y=y)


FIGURES: dict[str, Callable[[], Picture]] = {
    "means": lambda: charts.draw_means(RUNS, NOTE, noise=0.0007),
    "differences": lambda: charts.draw_differences([PAIR, NO_PAIR], NOTE),
    "sweep": sweep,
    "sweep of settings": lambda: charts.draw_sweep(LONG, NOTE, x="l1", y=ACCURACY, settings=True),
    "shift": lambda: error_charts.draw_shift(SHIFT, NOTE),
    "calibration": lambda: error_charts.draw_calibration(BINS, CALIBRATION, NOTE),
    "upset": lambda: error_charts.draw_overlap(OVERLAP, NOTE),
    "rows": lambda: error_charts.draw_rows(CELLS, ["4 read as 9", "9 read as 4"], "Read as", NOTE, "images"),
    "curves": lambda: error_charts.accuracy_curves(CURVES, NOTE),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_a_title_of_one_line_a_caption_and_nothing_cut_off(name: str) -> None:
    figure = FIGURES[name]()
    assert (NOTE in figure.caption, "\n" in figure.title) == (True, False)
    assert is_whole(figure)


def test_a_name_with_a_formula_in_it_is_text() -> None:
    tables = made([TrainConfig(seed=seed) for seed in (0, 1)], lambda config: 0.99)
    named = {name: table.assign(group=r"$\no$ $x^2$") for name, table in tables.frames().items() if "group" in table}
    assert r"<!-- $\no$ $x^2$ -->" in report.drawn("small", replace(tables, **named))["means.svg"].decode()


def test_means_have_a_dot_for_each_seed_with_a_value_the_interval_and_the_noise_about_the_mean_of_all() -> None:
    figure = FIGURES["means"]()
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GN", "BN", "noise of the images"]
    assert axes.yaxis_inverted()
    dots = [np.column_stack(line.get_data()).tolist() for line in axes.get_lines() if line.get_alpha() == 0.4]
    assert dots == [[pytest.approx([99.4, 0]), pytest.approx([99.6, 0])], [pytest.approx([99.0, 1])]]
    (mean, ends), _, (_, noise) = bars(axes)
    assert mean[0].tolist() == pytest.approx([99.5, 0])
    np.testing.assert_allclose(ends[:, 0], [98.229380, 100.770620])  # Student, n = 2
    np.testing.assert_allclose(noise[:, 0], [298 / 3 - 0.07, 298 / 3 + 0.07])
    assert {"99.500 [98.229, 100.771]", "1 of 2", "diverged (seeds)"} <= set(texts(figure))


def test_mean_of_equal_values_that_misses_them_by_a_last_bit_is_drawn() -> None:
    equal = RUNS.assign(test_accuracy=0.1).loc[[0, 0, 0, 1, 1, 1]]
    charts.draw_means(equal, NOTE, noise=0.0)
    sweep(pd.concat([SWEEP.assign(test_accuracy=0.1)] * 3))


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.BETTER, "GN better, p < 0.001, n = 10"),
        (Verdict.EQUIVALENT, "equivalent, p = 0.200, n = 10"),
        (Verdict.INCONCLUSIVE, "inconclusive, p < 0.001 (equivalence: p = 0.200), n = 10"),
    ],
)
def test_pair_has_its_interval_and_the_p_of_its_verdict_and_one_that_diverged_a_cross(
    verdict: Verdict, said: str
) -> None:
    figure = charts.draw_differences([replace(PAIR, verdict=verdict), NO_PAIR], NOTE)
    [axes] = figure.axes
    [(difference, ends)] = bars(axes)
    np.testing.assert_allclose(difference, [(0.2, 0)])
    np.testing.assert_allclose(ends, [(0.15, 0), (0.25, 0)])
    assert [cross[0, 1] for cross in points(axes, marker="x")] == [1]
    assert {"GN minus BN", said, "diverged, n = 7"} <= set(texts(figure))


def test_sweep_draws_means_with_bars_from_lowest_to_highest_seed_and_lambda_0_left_of_a_gap() -> None:
    [axes] = sweep().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.0001", "0.001"]
    zero, low, high = axes.get_xticks()
    assert zero < low < high
    line, ends = bars(axes)[0]
    np.testing.assert_allclose(line[:, 0], [zero, np.nan, low, high])  # no shift to the side
    np.testing.assert_allclose(line[[0, 2, 3], 1], 99.1)
    np.testing.assert_allclose(ends[:, 1], (99.0, 99.2))


def test_error_rate_shows_half_a_percent_and_ninety_together() -> None:
    table = SWEEP.assign(test_accuracy=np.where(SWEEP["group"] == "GN", 0.995, 0.1))
    [axes] = sweep(table, charts.TEST_ERROR).axes
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose([line[0, 1] for line, _ in bars(axes)], [0.5, 90])
    assert axes.get_ylim()[0] < 0.5 < 90 < axes.get_ylim()[1]
    assert {"0.5", "90"} <= {label.get_text() for label in axes.get_yticklabels()}


def test_diverged_runs_are_marks_below_the_data_and_never_averaged() -> None:
    table = SWEEP.assign(diverged=(SWEEP["group"] == "BN") & (SWEEP["l1"] == 1e-3) | (SWEEP.index == 2))
    table.loc[table["diverged"], "test_accuracy"] = 0.098  # chance: what must not be averaged
    figure = sweep(table)
    [axes] = figure.axes
    (gn, _), (bn, _) = bars(axes)
    np.testing.assert_allclose(gn[[0, 2, 3], 1], [99.1, 99.2, 99.1])
    np.testing.assert_allclose(bn[[0, 2, 3], 1], [99.1, 99.1, np.nan])
    assert axes.get_ylim()[0] > 98
    heights = [cross[0, 1] for cross in points(axes, marker="x")]
    assert sorted(heights) == pytest.approx([0.045, 0.095])  # of the axis' height
    assert {text.get_text() for text in axes.texts} == {"1/2", "2/2", "GN", "BN"}
    assert "diverged (seeds)" in texts(figure)


def test_what_was_not_reached_is_not_called_diverged() -> None:
    table = SWEEP.assign(diverged=SWEEP.index == 0)
    table.loc[[0, 3], "epochs"] = np.nan
    figure = sweep(table, charts.Quantity(column="epochs", label="epochs", unit="number", missing="not reached"))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["GN", "BN", "diverged (seeds)", "not reached (seeds)"]
    np.testing.assert_allclose(bars(figure.axes[0])[0][0][[0, 2, 3], 1], 4)


def test_a_sweep_has_a_panel_for_each_value_of_that_column_on_shared_axes() -> None:
    figure = sweep(pd.concat([SWEEP.assign(panel="one"), SWEEP[SWEEP["group"] == "GN"].assign(panel="two")]))
    one, two = figure.axes
    assert (one.get_title(), two.get_title(), len(bars(one))) == ("one", "two", 2)
    assert one.get_ylim() == two.get_ylim()
    assert [len(line) for line in points(two, marker="P")] == [0]


def test_shift_has_a_panel_for_each_corruption_from_the_clean_images_on() -> None:
    figure = FIGURES["shift"]()
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"kind {kind}" for kind in range(7)]
    lines = [line for line in panels[0].get_lines() if line.get_marker() != "x"]
    for line in lines:
        np.testing.assert_allclose(np.column_stack(line.get_data()), [(0, 2), (1, 12), (5, 52)])
    assert lines[1].get_color() == lines[2].get_color()
    assert [line.get_markerfacecolor() == "white" for line in lines] == [False, False, True]
    assert "diverged" not in texts(figure)


def test_shifted_images_of_a_diverged_run_are_a_cross() -> None:
    figure = error_charts.draw_shift(SHIFT.assign(accuracy=SHIFT["accuracy"].where(SHIFT["group"] != "GN")), NOTE)
    assert "diverged" in texts(figure)
    assert [list(cross[:, 0]) for cross in points(figure.axes[0], marker="x")] == [[0, 1, 5], [], []]


def test_calibration_shows_the_mean_gap_of_each_bin_that_holds_an_image_with_its_interval() -> None:
    figure = FIGURES["calibration"]()
    (trained, ends), (scaled, _) = bars(figure.axes[0])
    gaps = [-10, -0.9]  # of the first bin -20 and 0; none of the bins of fewer than 20 images
    np.testing.assert_allclose(trained[:, 1], gaps)
    np.testing.assert_allclose(scaled[:, 1], gaps)
    assert ends[0, 1] < -10 < ends[1, 1]
    found = "ECE 0.30 → 0.10 points\nNLL 0.0250 → 0.0190 nats (T = 1.20)"
    assert found in figure.axes[0].get_title()


def test_curves_have_the_interval_of_the_mean_and_an_inset_of_the_last_epochs() -> None:
    [axes] = FIGURES["curves"]().axes
    [inset] = (child for child in axes.child_axes if isinstance(child, Axes))
    for panel, first in ((axes, 1), (inset, 7)):
        lines = points(panel)
        np.testing.assert_allclose(lines[0][[0, -1]], [(first, 90.4 + 0.8 * (first - 1)), (11, 98.4)])
        assert len(panel.collections) == len(lines) == 2
    assert not error_charts.loss_curves({"GN": CURVES["GN"][:4]}, "").axes[0].child_axes


def test_upset_writes_the_numbers_on_its_bars_and_leaves_out_images_in_no_set() -> None:
    _, each, totals, matrix = FIGURES["upset"]().axes
    assert [text.get_text() for text in each.texts] == ["34", "12"]
    assert [text.get_text() for text in totals.texts] == ["34", "46"]
    assert [list(dark[:, 1]) for dark in points(matrix, color=DARK)] == [[0, 1], [1]]
    assert "none" in texts(error_charts.draw_overlap(0 * OVERLAP, NOTE))


def test_upset_says_what_it_does_not_show() -> None:
    names = ["BN", "GN", "IN", "LN", "NONE"]
    every = pd.Series(range(32), index=pd.MultiIndex.from_product([[False, True]] * 5, names=names))
    assert "Not shown: 66 images in 11 smaller" in error_charts.draw_overlap(every, "").caption
