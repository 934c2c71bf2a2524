"""What a reader must find on the experiments' figures, and what must not be drawn."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from normstudy.figures import STYLES
from normstudy.report import charts, error_charts
from normstudy.stats import Comparison, Verdict

NOTE = "MNIST, 10,000 test images; n = 2 seeds each"
RUNS = pd.DataFrame(
    {"group": ["GN", "GN", "BN", "BN"], "seed": [0, 1, 0, 1], "test_accuracy": [0.994, 0.996, 0.99, np.nan]}
)
INTERVALS = {"GN": (0.9935, 0.9965), "BN": (0.99, 0.99)}
PAIR = Comparison(
    a="GN", b="BN", n=10, difference=0.002, low=0.0015, high=0.0025, p=0.0004, comparisons=1, verdict=Verdict.BETTER
)
NO_PAIR = Comparison(
    a="GN",
    b="none",
    n=7,
    difference=np.nan,
    low=np.nan,
    high=np.nan,
    p=np.nan,
    comparisons=1,
    verdict=Verdict.UNDECIDED,
)
SWEEP = pd.DataFrame(
    [
        {"group": group, "seed": seed, "l1": l1, "accuracy": 0.99 + 0.002 * seed, "epochs": 4.0, "diverged": False}
        for group in ("GN", "BN")
        for l1 in (0.0, 1e-4, 1e-3)
        for seed in (0, 1)
    ]
)
SHIFT = pd.DataFrame(
    [
        {
            "group": group,
            "seed": seed,
            "statistics": statistics,
            "corruption": corruption,
            "severity": severity,
            "accuracy": 0.99 - 0.1 * severity - 0.02 * seed,
        }
        for group, statistics in (("GN", "as trained"), ("BN", "as trained"), ("BN", "re-estimated"))
        for corruption, severity in [("clean", 0), *((f"kind {kind}", level) for kind in range(7) for level in (1, 5))]
        for seed in (0, 1)
    ]
)
BINS = pd.DataFrame(
    [
        {
            "group": "GN",
            "seed": seed,
            "scaled": scaled,
            "bin": place,
            "count": count,
            "confidence": confidence,
            "accuracy": accuracy,
        }
        for seed in (0, 1)
        for scaled in (False, True)
        for place, count, confidence, accuracy in (
            (0, 0, np.nan, np.nan),
            (1, 10 + 20 * seed, 0.8, 0.6 + 0.2 * seed),
            (2, 5, 0.9, 1.0),
            (3, 900, 0.999, 0.99),
        )
    ]
)
CALIBRATION = pd.DataFrame(
    {
        "group": "GN",
        "seed": [0, 1],
        "temperature": [1.1, 1.3],
        "nll": [0.02, 0.03],
        "nll_scaled": 0.019,
        "ece": [0.002, 0.004],
        "ece_scaled": 0.001,
    }
)
OVERLAP = pd.Series(
    [9900, 12, 0, 34], index=pd.MultiIndex.from_product([[False, True]] * 2, names=["GN", "BN"]), name="images"
)
CLASSES = pd.DataFrame([[0.99] * 10, [0.98] * 10], index=["GN", "BN"])
PAIRS = pd.DataFrame({"true": [4, 9], "predicted": [9, 4], "GN": [3.5, 1.0], "BN": [2.0, 0.5]})


def sweep(table: pd.DataFrame = SWEEP, **options: object) -> Figure:
    given = {"x": "l1", "x_label": "lambda", "value": "accuracy", "y_label": "test accuracy, %", **options}
    return charts.sweep(table, NOTE, **given)  # type: ignore[arg-type]


def grid(count: int) -> Figure:
    captions = [f"#{place}: 5, read as 3\n10 of 10 seeds" for place in range(count)]
    return error_charts.image_grid([np.zeros((28, 28), np.uint8)] * count, captions, "Which images?", NOTE)


FIGURES: dict[str, Callable[[], Figure]] = {
    "means": lambda: charts.means(RUNS, NOTE, intervals=INTERVALS, noise=0.0007),
    "differences": lambda: charts.differences([PAIR, NO_PAIR], NOTE, margin=0.001),
    "sweep": sweep,
    "shift": lambda: error_charts.shift(SHIFT, NOTE),
    "reliability": lambda: error_charts.reliability(BINS, CALIBRATION, NOTE),
    "upset": lambda: error_charts.upset(OVERLAP, NOTE),
    "per_class": lambda: error_charts.per_class(CLASSES, NOTE),
    "confusion_pairs": lambda: error_charts.confusion_pairs(PAIRS, NOTE),
    "image_grid": lambda: grid(3),
}
SHOWN = {
    "means": [
        "test accuracy, %",
        "99.50 [99.35, 99.65]",
        "one seed",
        "diverged (seeds)",
        "1 of 2",
        "binomial noise of 10,000 images: ±0.07 points",
    ],
    "differences": [
        "GN minus BN",
        "GN better, p < 0.001, n = 10",
        "diverged, n = 7",
        "within 0.1 points: equivalent, if one-sided t-tests agree (corrected p < 0.05)",
        "difference of the mean test accuracies, points (first minus second)",
    ],
    "sweep": [
        "Test accuracy by lambda",
        "lambda (log scale)",
        "test accuracy, %",
        "GN",
        "BN",
        "mean over seeds; bars: lowest to highest seed",
    ],
    "shift": [
        "kind 0",
        "kind 6",
        "severity of the corruption (0: clean images)",
        "test accuracy, %",
        "GN",
        "BN, statistics\nre-estimated",
    ],
    "reliability": [
        "ECE 0.30 → 0.10 points",
        "NLL 0.0250 → 0.0190 nats (T = 1.20)",
        "as trained",
        "temperature scaled",
        "observed errors, % (log scale)",
        "expected errors, %",
        "no error in any seed",
    ],
    "upset": ["images in exactly these sets", "images in the set", "GN", "BN"],
    "per_class": ["digit", "errors, % of the digit's test images", "GN", "BN"],
    "confusion_pairs": ["4 read as 9", "9 read as 4", "test images, mean over seeds", "GN", "BN"],
    "image_grid": ["Which images?", "#2: 5, read as 3\n10 of 10 seeds"],
}


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize("name", FIGURES)
def test_figure_says_its_note_units_groups_and_marks_on_the_page(name: str) -> None:
    figure = FIGURES[name]()
    shown = texts(figure)
    missing = [wanted for wanted in (NOTE, *SHOWN[name]) if not any(wanted in text for text in shown)]
    assert not missing
    box = figure.get_tightbbox()
    assert 0 <= box.x0 < box.x1 <= figure.get_figwidth()
    assert 0 <= box.y0 < box.y1 <= figure.get_figheight()


@pytest.mark.parametrize("name", FIGURES)
def test_two_draws_give_the_same_bytes(name: str) -> None:
    drawn = []
    for _ in range(2):
        buffer = BytesIO()
        FIGURES[name]().savefig(buffer, dpi=50, metadata={"Software": None})
        drawn.append(buffer.getvalue())
    assert drawn[0] == drawn[1]


def test_a_norm_has_its_colour_whatever_else_is_drawn() -> None:
    looks = charts.styles(["none", "BN", "GN, lr 0.1", "GN, lr 0.2", "BN + L1", "what"])
    assert looks["GN, lr 0.1"] == STYLES[0]
    assert looks["BN + L1"] == STYLES[2]
    assert looks["GN, lr 0.2"]["color"] == STYLES[0]["color"]
    assert looks["GN, lr 0.2"]["marker"] != STYLES[0]["marker"]
    assert looks["BN"] == charts.styles(["BN"])["BN"]
    assert len({look["color"] for look in looks.values()}) == 5


def test_groups_that_name_no_norm_are_told_apart_by_colour() -> None:
    assert len({look["color"] for look in charts.styles(["plain", "wide", "deep"]).values()}) == 3


def test_means_have_a_dot_for_each_seed_with_a_value_in_table_order() -> None:
    [axes] = charts.means(RUNS, NOTE, intervals=INTERVALS).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GN", "BN"]
    assert axes.yaxis_inverted()
    dots = [line.get_xdata().tolist() for line in axes.get_lines() if line.get_alpha() == 0.5]
    assert dots == [pytest.approx([99.4, 99.6]), pytest.approx([99.0])]


def test_noise_is_drawn_to_scale() -> None:
    [axes] = charts.means(RUNS, NOTE, intervals=INTERVALS, noise=0.0007).axes
    [bar] = [line for line in axes.get_lines() if line.get_linewidth() == 5]
    assert np.ptp(bar.get_xdata()) == pytest.approx(0.14)


def test_mean_of_equal_values_that_misses_them_by_a_last_bit_is_drawn() -> None:
    equal = RUNS.assign(test_accuracy=0.1).loc[[0, 0, 0, 1, 1, 1]]
    charts.means(equal, NOTE, intervals={"GN": (np.nextafter(0.1, 1), 0.1)})
    sweep(pd.concat([SWEEP.assign(accuracy=0.1)] * 3))


def test_pair_that_diverged_has_a_cross_and_no_interval() -> None:
    [axes] = charts.differences([PAIR, NO_PAIR], NOTE, margin=0.001).axes
    assert len(axes.containers) == 1
    assert [line.get_ydata() for line in axes.get_lines() if line.get_marker() == "x"] == [[1]]


def test_lambda_0_stands_left_of_a_gap_with_its_own_label() -> None:
    [axes] = sweep(zero_label="0 (none)").axes
    labels = {label.get_text(): label.get_position()[0] for label in axes.get_xticklabels()}
    assert labels.keys() == {"0 (none)", "0.0001", "0.001"}
    assert labels["0 (none)"] < labels["0.0001"] < labels["0.001"]
    line = axes.containers[0].lines[0]
    assert np.isnan(line.get_xdata()).tolist() == [False, True, False, False]
    np.testing.assert_allclose(line.get_ydata()[[0, 2, 3]], 99.1)


def test_linear_axis_has_no_gap_at_0() -> None:
    [axes] = sweep(log_x=False).axes
    assert not np.isnan(axes.containers[0].lines[0].get_xdata()).any()
    assert axes.get_xlabel() == "lambda"


@pytest.mark.parametrize(("interval", "span"), [("range", (99.0, 99.2)), ("mean", (97.829, 100.371))])
def test_bars_are_what_the_legend_says(interval: str, span: tuple[float, float]) -> None:
    figure = sweep(interval=interval)
    segment = figure.axes[0].containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], span, atol=1e-3)
    [legend] = figure.legends
    assert legend.get_title().get_text().endswith({"range": "highest seed", "mean": "interval of the mean"}[interval])


def test_error_rate_shows_half_a_percent_and_ninety_together() -> None:
    table = SWEEP.assign(accuracy=np.where(SWEEP["group"] == "GN", 0.995, 0.1))
    [axes] = sweep(table, error_rate=True, y_label="test error, %").axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 0.5
    assert axes.get_ylim()[1] > 90
    assert {"0.5", "90"} <= {label.get_text() for label in axes.get_yticklabels()}


def test_diverged_runs_are_marks_below_the_data_and_never_numbers() -> None:
    table = SWEEP.assign(diverged=(SWEEP["group"] == "BN") & (SWEEP["l1"] == 1e-3) | (SWEEP.index == 2))
    table.loc[table["diverged"], "accuracy"] = 0.098  # chance: what must not be averaged
    figure = sweep(table, diverged="diverged")
    [axes] = figure.axes
    lines = [container.lines[0].get_ydata() for container in axes.containers]
    np.testing.assert_allclose(lines[0][[0, 2, 3]], [99.1, 99.2, 99.1])
    assert np.isnan(lines[1][3])
    assert axes.get_ylim()[0] > 98
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert sorted(line.get_ydata()[0] for line in crosses) == pytest.approx([0.045, 0.095])  # of the axis' height
    assert {text.get_text() for text in axes.texts} == {"1/2", "2/2"}
    assert "diverged (seeds)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_legend_of_long_labels_fits_below_the_figure() -> None:
    groups = [f"all parameters, rate ends at its peak {number}" for number in range(4)]
    table = pd.concat([SWEEP[SWEEP["group"] == SWEEP["group"].iloc[0]].assign(group=group) for group in groups])
    figure = sweep(table)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_what_was_not_reached_is_not_called_diverged() -> None:
    table = SWEEP.assign(diverged=SWEEP.index == 0)
    table.loc[[0, 3], "epochs"] = np.nan
    options = {"value": "epochs", "y_label": "epochs to 99 %", "percent": False, "missing": "not reached"}
    figure = sweep(table, diverged="diverged", **options)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[2:] == ["diverged (seeds)", "not reached (seeds)"]
    assert np.nanmax(figure.axes[0].containers[0].lines[0].get_ydata()) == 4


def test_shift_has_a_panel_for_each_corruption_from_the_clean_images_on() -> None:
    figure = error_charts.shift(SHIFT, NOTE)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"kind {kind}" for kind in range(7)]
    lines = [line for line in panels[0].get_lines() if len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 5]] * 3
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert lines[1].get_color() == lines[2].get_color()
    assert "diverged" not in texts(figure)


def test_shifted_images_of_a_diverged_run_are_a_cross() -> None:
    failed = SHIFT.assign(accuracy=SHIFT["accuracy"].where(SHIFT["group"] != "GN"))
    figure = error_charts.shift(failed, NOTE)
    assert "diverged" in texts(figure)
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in crosses] == [[0, 1, 5]]


def test_bins_are_weighted_by_count_and_those_without_error_stand_at_the_edge() -> None:
    figure = error_charts.reliability(BINS, CALIBRATION, NOTE)
    wrong, right = figure.axes[0].collections[:2]
    np.testing.assert_allclose(wrong.get_offsets(), [(20, 25), (0.1, 1)])  # 4 + 6 errors in 10 + 30 images
    np.testing.assert_allclose(right.get_offsets(), [(10, 0.03)])
    assert wrong.get_sizes()[1] > wrong.get_sizes()[0]


def test_upset_writes_the_numbers_on_its_bars_and_leaves_out_images_in_no_set() -> None:
    _, bars, totals, matrix = error_charts.upset(OVERLAP, NOTE).axes
    assert [text.get_text() for text in bars.texts] == ["34", "12"]
    assert [text.get_text() for text in totals.texts] == ["34", "46"]
    dark = [list(line.get_ydata()) for line in matrix.get_lines() if line.get_color() == "#333333"]
    assert dark == [[0, 1], [1]]


def test_upset_says_what_it_does_not_show() -> None:
    assert any("not shown: 12 images in 1 smaller" in text for text in texts(error_charts.upset(OVERLAP, "", most=1)))
    assert "none" in texts(error_charts.upset(0 * OVERLAP, NOTE))


def test_digits_have_their_error_rate_in_percent_and_one_mark_a_group() -> None:
    [axes] = error_charts.per_class(CLASSES, NOTE).axes
    marks = [line for line in axes.get_lines() if line.get_marker() != "None"]
    np.testing.assert_allclose([line.get_ydata() for line in marks], [[1.0] * 10, [2.0] * 10])
    assert (marks[0].get_xdata() < marks[1].get_xdata()).all()


def test_pairs_have_a_bar_for_each_group() -> None:
    [axes] = error_charts.confusion_pairs(PAIRS, NOTE).axes
    assert [bar.get_width() for bar in axes.patches] == [3.5, 1.0, 2.0, 0.5]


@pytest.mark.parametrize("count", [0, 3, 10])
def test_grid_holds_any_number_of_images(count: int) -> None:
    figure = grid(count)
    assert sum(len(axes.images) for axes in figure.axes) == count
    assert ("none" in texts(figure)) == (count == 0)
