"""The styles of the norms; and what figures make of divergence, ties and nothing, which no committed one shows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.figures import bars, points, texts
from helpers.tables import made

from normstudy import figures as plots
from normstudy import report
from normstudy.config import TrainConfig
from normstudy.figures import Picture
from normstudy.model import NORMS
from normstudy.report import charts, error_charts
from normstudy.stats import compare_pairs

RUNS = pd.DataFrame({"group": ["GN", "GN", "BN", "BN"], "test_accuracy": [0.994, 0.996, 0.99, np.nan]})
SWEEP = pd.DataFrame(
    [
        {"group": group, "seed": seed, "l1": l1, "test_accuracy": 0.99 + 0.002 * seed, "epochs": 4.0, "diverged": False}
        for group in ("GN", "BN")
        for l1 in (0.0, 1e-4, 1e-3)
        for seed in (0, 1)
    ]
)
ACCURACY = charts.Quantity(column="test_accuracy", label="test accuracy, %", unit="percent")


def sweep(table: pd.DataFrame, y: charts.Quantity = ACCURACY) -> Picture:
    return charts.draw_sweep(table, "", x="l1", y=y)


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
    assert looks["GN, lr 0.1"] == rows["GN"]
    assert {looks[group]["color"] for group in ("GN, lr 0.2", "GN + L1")} == {rows["GN"]["color"]}
    assert len({looks[group]["marker"] for group in looks if group.startswith("GN")}) == 3
    assert looks["rms"]["color"] == looks["what"]["color"] == plots.OTHER_STYLE["color"]
    norms = {style["color"] for style in [*rows.values(), plots.OTHER_STYLE]}
    for count in (5, 12):
        settings = plots.setting_styles(map(str, range(count)))
        assert len({look["color"] for look in settings.values()} - norms) == count


def test_many_groups_have_their_last_value_in_a_legend_outside() -> None:
    names = [f"GN, lr {place}" for place in range(12)]
    curve = pd.DataFrame({0: [0.95, 0.99, 0.9941]}, index=[1, 2, 3])
    figure = error_charts.accuracy_curves(dict.fromkeys(names, curve), "")
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 12
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}: 99.410 %" for name in names]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0


@pytest.mark.parametrize("count", [0, 3])
def test_a_grid_of_fewer_than_ten_images_has_no_blank_row(count: int) -> None:
    rows = pd.DataFrame({"index": range(count), "true": 3, "predicted": 5, "confidence": 0.9, "confidence_true": 0.05})
    figure = plots.misclassified_grid([np.zeros((28, 28), np.uint8)] * count, rows, "LN: few misclassified")
    assert sum("true 3, predicted 5\n90.0 % (true class: 5.0 %)" in text for text in texts(figure)) == count
    assert [len(tile.images) for tile in figure.axes] == [1] * count + [0] * (len(figure.axes) - count)
    assert ("none" in texts(figure)) == (count == 0)


def test_a_name_with_a_formula_in_it_is_text() -> None:
    tables = made([TrainConfig(seed=seed) for seed in (0, 1)], lambda config: 0.99)
    named = {name: table.assign(group=r"$\no$ $x^2$") for name, table in tables.frames().items() if "group" in table}
    assert r"<!-- $\no$ $x^2$ -->" in report.drawn("small", replace(tables, **named))["means.svg"].decode()


def test_mean_of_equal_values_that_misses_them_by_a_last_bit_is_drawn() -> None:
    charts.draw_means(RUNS.assign(test_accuracy=0.1).loc[[0, 0, 0, 1, 1, 1]], "", noise=0.0)
    sweep(pd.concat([SWEEP.assign(test_accuracy=0.1)] * 3))


def test_a_mean_is_of_the_seeds_that_did_not_diverge_and_says_of_how_many_and_such_a_pair_is_a_cross() -> None:
    figure = charts.draw_means(RUNS, "", noise=0.0007)
    assert {"99.500 [98.229, 100.771]", "1 of 2", "diverged (seeds)"} <= set(texts(figure))  # Student, n = 2
    lost = replace(compare_pairs(pd.DataFrame({"GN": [0.9, 0.8], "BN": [0.9, 0.7]}), [("GN", "BN")])[0], n=7)
    figure = charts.draw_differences([replace(lost, difference=np.nan, low=np.nan, high=np.nan)], "")
    assert [cross[0, 1] for cross in points(figure.axes[0], marker="x")] == [0]
    assert {"GN minus BN", "diverged, n = 7"} <= set(texts(figure))


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


def test_shifted_images_of_a_diverged_run_are_a_cross() -> None:
    rows = [
        (group, seed, "as trained", "blur", level, np.nan if group == "GN" else 0.9)
        for group in ("GN", "BN")
        for seed in (0, 1)
        for level in (0, 1, 5)
    ]
    columns = ["group", "seed", "statistics", "corruption", "severity", "accuracy"]
    figure = error_charts.draw_shift(pd.DataFrame(rows, columns=columns), "")
    assert "diverged" in texts(figure)
    assert [list(cross[:, 0]) for cross in points(figure.axes[0], marker="x")] == [[0, 1, 5], []]


def test_upset_says_what_it_does_not_show() -> None:
    names = ["BN", "GN", "IN", "LN", "NONE"]
    every = pd.Series(range(32), index=pd.MultiIndex.from_product([[False, True]] * 5, names=names))
    assert "Not shown: 66 images in 11 smaller" in error_charts.draw_overlap(every, "").caption
    assert "none" in texts(error_charts.draw_overlap(0 * every, ""))
