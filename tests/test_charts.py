"""What a reader must find on the experiments' figures, and what must not be drawn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.figures import bars, is_whole, points, texts
from helpers.tables import made
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from normstudy import report
from normstudy.config import TrainConfig
from normstudy.report import charts, error_charts
from normstudy.stats import Verdict, compare_pairs

NOTE = "MNIST, 10,000 test images; n = 2 seeds each"
RUNS = pd.DataFrame(
    {"group": ["GN", "GN", "BN", "BN"], "seed": [0, 1, 0, 1], "test_accuracy": [0.994, 0.996, 0.99, np.nan]}
)
INTERVALS = {"GN": (0.9935, 0.9965), "BN": (0.99, 0.99)}
TWO = pd.DataFrame({"GN": 0.992 + 1e-5 * (np.arange(10) - 4.5), "BN": np.full(10, 0.99)})
PAIR = replace(compare_pairs(TWO, [("GN", "BN")])[0], low=0.0015, high=0.0025)
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
OVERLAP = pd.Series([9900, 12, 0, 34], index=pd.MultiIndex.from_product([[False, True]] * 2, names=["GN", "BN"]))
CLASSES = pd.DataFrame([[0.99] * 10, [0.98] * 10], index=["GN", "BN"])
PAIRS = pd.DataFrame({"true": [4, 9], "predicted": [9, 4], "GN": [3.5, 1.0], "BN": [2.0, 0.5]})


def sweep(table: pd.DataFrame = SWEEP, y: charts.Quantity = ACCURACY) -> Figure:
    return charts.sweep(table, NOTE, x="l1", y=y)


def grid(count: int) -> Figure:
    captions = [f"#{place}: 5, read as 3\n10 of 10 seeds" for place in range(count)]
    return error_charts.image_grid([np.zeros((28, 28), np.uint8)] * count, captions, "Which images?", NOTE)


FIGURES: dict[str, Callable[[], Figure]] = {
    "means": lambda: charts.means(RUNS, NOTE, intervals=INTERVALS, noise=0.0007),
    "differences": lambda: charts.differences([PAIR, NO_PAIR], NOTE),
    "sweep": sweep,
    "sweep of settings": lambda: charts.sweep(LONG, NOTE, x="l1", y=ACCURACY, settings=True),
    "shift": lambda: error_charts.shift(SHIFT, NOTE),
    "reliability": lambda: error_charts.reliability(BINS, CALIBRATION, NOTE),
    "upset": lambda: error_charts.upset(OVERLAP, NOTE),
    "per_class": lambda: error_charts.per_class(CLASSES, NOTE),
    "confusion_pairs": lambda: error_charts.confusion_pairs(PAIRS, NOTE),
    "image_grid": lambda: grid(3),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_says_its_note_and_nothing_is_cut_off(name: str) -> None:
    figure = FIGURES[name]()
    assert NOTE in figure.get_suptitle()
    assert is_whole(figure)


def test_a_name_with_a_formula_in_it_is_text() -> None:
    tables = made([TrainConfig(seed=seed) for seed in (0, 1)], lambda config: 0.99)
    named = {name: table.assign(group=r"$\no$ $x^2$") for name, table in tables.frames().items() if "group" in table}
    assert r"<!-- $\no$ $x^2$ -->" in report.drawn("small", replace(tables, **named))["means.svg"].decode()


def test_means_have_a_dot_for_each_seed_with_a_value_the_interval_and_the_noise_to_scale() -> None:
    figure = FIGURES["means"]()
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GN", "BN"]
    assert axes.yaxis_inverted()
    dots = [line.get_xdata() for line in axes.get_lines() if line.get_alpha() == 0.5]
    assert dots == [pytest.approx([99.4, 99.6]), pytest.approx([99.0])]
    (mean, ends), _ = bars(axes)
    assert mean[0, 0] == pytest.approx(99.5)
    np.testing.assert_allclose(ends[:, 0], [99.35, 99.65])
    [noise] = points(axes, color="#777777")
    assert np.ptp(noise[:, 0]) == pytest.approx(0.14)
    assert {"99.50 [99.35, 99.65]", "1 of 2", "diverged (seeds)"} <= set(texts(figure))


def test_mean_of_equal_values_that_misses_them_by_a_last_bit_is_drawn() -> None:
    equal = RUNS.assign(test_accuracy=0.1).loc[[0, 0, 0, 1, 1, 1]]
    charts.means(equal, NOTE, intervals={"GN": (np.nextafter(0.1, 1), 0.1)}, noise=0.0)
    sweep(pd.concat([SWEEP.assign(test_accuracy=0.1)] * 3))


def test_pair_has_its_interval_and_verdict_and_one_that_diverged_a_cross_and_none() -> None:
    figure = FIGURES["differences"]()
    [axes] = figure.axes
    [(difference, ends)] = bars(axes)
    np.testing.assert_allclose(difference, [(0.2, 0)])
    np.testing.assert_allclose(ends, [(0.15, 0), (0.25, 0)])
    assert [cross[0, 1] for cross in points(axes, marker="x")] == [1]
    assert {"GN minus BN", "GN better, p < 0.001, n = 10", "diverged, n = 7"} <= set(texts(figure))


def test_sweep_draws_means_with_bars_from_lowest_to_highest_seed_and_lambda_0_left_of_a_gap() -> None:
    [axes] = sweep().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.0001", "0.001"]
    zero, low, high = axes.get_xticks()
    assert zero < low < high
    line, ends = bars(axes)[0]
    np.testing.assert_allclose(line[:, 0], [zero, np.nan, low, high], atol=0.01)
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
    assert {text.get_text() for text in axes.texts} == {"1/2", "2/2"}
    assert "diverged (seeds)" in texts(figure)


def test_what_was_not_reached_is_not_called_diverged() -> None:
    table = SWEEP.assign(diverged=SWEEP.index == 0)
    table.loc[[0, 3], "epochs"] = np.nan
    figure = sweep(table, charts.Quantity(column="epochs", label="epochs", unit="number", missing="not reached"))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["GN", "BN", "diverged (seeds)", "not reached (seeds)"]
    np.testing.assert_allclose(bars(figure.axes[0])[0][0][[0, 2, 3], 1], 4)


def test_shift_has_a_panel_for_each_corruption_from_the_clean_images_on() -> None:
    figure = FIGURES["shift"]()
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"kind {kind}" for kind in range(7)]
    lines = [line for line in panels[0].get_lines() if line.get_marker() != "x"]
    for line in lines:
        np.testing.assert_allclose(np.column_stack(line.get_data()), [(0, 98), (1, 88), (5, 48)])
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert lines[1].get_color() == lines[2].get_color()
    assert "diverged" not in texts(figure)


def test_shifted_images_of_a_diverged_run_are_a_cross() -> None:
    figure = error_charts.shift(SHIFT.assign(accuracy=SHIFT["accuracy"].where(SHIFT["group"] != "GN")), NOTE)
    assert "diverged" in texts(figure)
    assert [list(cross[:, 0]) for cross in points(figure.axes[0], marker="x")] == [[0, 1, 5], [], []]


def test_bins_are_weighted_by_count_and_those_without_error_stand_at_the_edge() -> None:
    figure = FIGURES["reliability"]()
    wrong, right = figure.axes[0].collections[:2]
    np.testing.assert_allclose(np.asarray(wrong.get_offsets()), np.array([(20, 25), (0.1, 1)]))  # 4 + 6 errors of 40
    np.testing.assert_allclose(np.asarray(right.get_offsets()), np.array([(10, 0.03)]))
    assert isinstance(wrong, PathCollection)
    assert wrong.get_sizes()[1] > wrong.get_sizes()[0]
    found = "ECE 0.30 → 0.10 points\nNLL 0.0250 → 0.0190 nats (T = 1.20)"
    assert found in figure.axes[0].get_title()


def test_upset_writes_the_numbers_on_its_bars_and_leaves_out_images_in_no_set() -> None:
    _, each, totals, matrix = FIGURES["upset"]().axes
    assert [text.get_text() for text in each.texts] == ["34", "12"]
    assert [text.get_text() for text in totals.texts] == ["34", "46"]
    assert [list(dark[:, 1]) for dark in points(matrix, color=charts.DARK)] == [[0, 1], [1]]
    assert "none" in texts(error_charts.upset(0 * OVERLAP, NOTE))


def test_upset_says_what_it_does_not_show() -> None:
    names = ["BN", "GN", "IN", "LN", "NONE"]
    every = pd.Series(range(32), index=pd.MultiIndex.from_product([[False, True]] * 5, names=names))
    assert "not shown: 66 images in 11 smaller" in error_charts.upset(every, "").get_suptitle()


def test_digits_have_their_error_rate_in_percent_and_pairs_a_bar_for_each_group() -> None:
    gn, bn = (points(FIGURES["per_class"]().axes[0], marker=marker)[0] for marker in "oP")
    np.testing.assert_allclose((gn[:, 1], bn[:, 1]), ([1.0] * 10, [2.0] * 10))
    assert (gn[:, 0] < bn[:, 0]).all()
    [axes] = FIGURES["confusion_pairs"]().axes
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [3.5, 1.0, 2.0, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4 read as 9", "9 read as 4"]


@pytest.mark.parametrize("count", [0, 3, 10])
def test_grid_holds_any_number_of_images(count: int) -> None:
    figure = grid(count)
    assert sum(len(axes.images) for axes in figure.axes) == count
    assert ("none" in texts(figure)) == (count == 0)
