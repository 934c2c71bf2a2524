"""Several seeds and several recipes: what is grouped, averaged, compared, named. From synthetic runs on sqlite."""

import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import log_fake_runs
from helpers.tables import tables_from

from normstudy.config import TrainConfig, group_labels
from normstudy.errors import ReportError
from normstudy.report import read as reading
from normstudy.report.collect import tables_of
from normstudy.report.errors import grid_of
from normstudy.report.groups import comparisons, curve_figures, curves
from normstudy.report.groups import tests_of_images as p_values  # whose name pytest would take for a test
from normstudy.report.pages import answer, answer_block
from normstudy.report.read import finished_trials
from normstudy.report.tables import ErrorTables
from normstudy.report.text import spans
from normstudy.stats import Verdict, mean_interval
from normstudy.tracking import Metric, Tag, mlflow_private

VARIANTS = [TrainConfig(norm="gn", epochs=3), TrainConfig(norm="bn", l1=1e-5, epochs=3)]


def with_seeds(configs: list[TrainConfig], seeds: int) -> list[TrainConfig]:
    return [config.model_copy(update={"seed": seed}) for seed in reversed(range(seeds)) for config in configs]


def test_every_seed_of_a_variant_is_used(store: str) -> None:
    log_fake_runs(VARIANTS, seeds=3)
    tables = tables_of(ErrorTables, "study", finished_trials(with_seeds(VARIANTS, 3), None))
    block, results = answer_block(tables, figures_at=Path("report")), tables.results
    logged = {run.info.run_id: run for run in mlflow.search_runs(search_all_experiments=True, output_format="list")}
    assert set(results["run_id"]) == set(logged)
    for group, rows in results.groupby("group"):
        accuracies = [logged[run_id].data.metrics[Metric.TEST_ACCURACY] for run_id in rows["run_id"]]
        low, high = mean_interval(np.array(accuracies))
        interval = f"{100 * np.mean(accuracies):.2f} % ({100 * low:.2f} to {100 * high:.2f})"
        assert f"| {group} | 3 | 7,522 | {interval} |" in block
    assert "mean test accuracy of n = 3 runs each, seeds 0 to 2, last epoch." in block
    for table in (tables.epochs, tables.misclassified):
        assert set(table["seed"]) == {0, 1, 2}
    assert re.findall(r"report/misclassified_(\w+)\.png", block) == ["gn", "bn_l1"]


def test_graphs_hold_a_column_a_seed_and_grids_are_of_the_lowest_seed(store: str) -> None:
    log_fake_runs(VARIANTS, seeds=3)
    records = finished_trials(with_seeds(VARIANTS, 3), None)
    tables = tables_of(ErrorTables, "study", records)
    for group, table in curves(tables, Metric.TEST_LOSS).items():
        assert set(table.columns) == {0, 1, 2}
        for record in (record for record in records if record.group == group):
            assert table[record.config.seed].tolist() == record.epochs[Metric.TEST_LOSS].tolist()
    said = curve_figures(tables)["test_loss"].caption
    assert "n = 3 runs each, seeds 0 to 2. Lines: mean over seeds; bands: 95 % interval" in said
    assert grid_of(tables, "GN").title.startswith("GN, seed 0: ")
    assert {record.config.seed for record in records if record.ten is not None} == {0}


def test_reading_in_parts_gives_what_reading_at_once_gives(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log_fake_runs(VARIANTS, seeds=3)
    configs = with_seeds(VARIANTS, 3)
    whole = tables_of(ErrorTables, "study", finished_trials(configs, None))
    monkeypatch.setattr(mlflow_private, "BULK_RUNS", 2)
    monkeypatch.setattr(reading, "RUNS_A_PAGE", 4)
    in_parts = tables_of(ErrorTables, "study", finished_trials(configs, None))
    monkeypatch.setattr(mlflow_private, "bulk_history", lambda run_ids, metric: None)
    one_by_one = tables_of(ErrorTables, "study", finished_trials(configs, None))
    for name, table in whole.frames().items():
        pd.testing.assert_frame_equal(table, getattr(in_parts, name), check_exact=True)
        pd.testing.assert_frame_equal(table, getattr(one_by_one, name), check_exact=True)


@pytest.mark.parametrize(
    ("logged", "complaint"),
    [({"lr": "0.5"}, "its parameters have the trial key"), ({"lr": "fast"}, "its parameters are no configuration: lr")],
)
def test_parameters_that_are_not_the_tagged_trial_are_refused(
    store: str, logged: dict[str, str], complaint: str
) -> None:
    config = TrainConfig(epochs=1)
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key}).info.run_id
    for name, value in {**config.model_dump(), **logged, "parameters": 7522}.items():
        client.log_param(run_id, name, value)
    client.set_terminated(run_id, "FINISHED")
    with pytest.raises(ReportError, match=f"run {run_id}: {complaint}"):
        finished_trials([config], None)


def test_recipes_of_one_variant_are_groups_named_by_what_differs() -> None:
    recipes = [{"lr": 0.06, "weight_decay": 1e-4}, {"lr": 0.1, "weight_decay": 5e-4}]
    configs = [TrainConfig(norm=norm, **recipe) for recipe in recipes for norm in ("gn", "ln")]
    configs += [TrainConfig(norm="bn", l1=l1, **recipes[0]) for l1 in (1e-5, 1e-4)]
    assert group_labels([*configs, *(c.model_copy(update={"seed": 1, "device": "cpu"}) for c in configs)]) == 2 * [
        "GN, lr 0.06, weight_decay 0.0001",
        "LN, lr 0.06, weight_decay 0.0001",
        "GN, lr 0.1, weight_decay 0.0005",
        "LN, lr 0.1, weight_decay 0.0005",
        "BN + L1, l1 1e-05, lr 0.06, weight_decay 0.0001",
        "BN + L1, l1 0.0001, lr 0.06, weight_decay 0.0001",
    ]


def test_settings_that_differ_between_variants_alone_are_not_named() -> None:
    configs = [TrainConfig(norm="gn", lr=0.06), TrainConfig(norm="ln", lr=0.1), TrainConfig(norm="ln", lr=0.1, seed=1)]
    assert group_labels(configs) == ["GN", "LN", "LN"]


# the seeds differ far more than the groups do: only the pairs show by how much A errs less, each time
B = [40, 60, 45, 80, 52, 71, 58, 66]


def test_seeds_are_compared_in_pairs() -> None:
    a = [*(count - 20 for count in B[:-1]), 36]
    tables = tables_from({"A": a, "B": B})
    [pair] = comparisons(tables)
    assert (pair.winner, pair.n) == ("A", 8)
    low, high = mean_interval(np.subtract(B, a) / 10_000)
    assert [pair.low, pair.high] == pytest.approx([low, high])
    text, interval = answer(tables), f"{100 * low:+.3f} to {100 * high:+.3f}"
    measured = f"A minus B +0.213 points ({interval}; n = 8 pairs; difference p < 0.001; equivalence p > 0.999)"
    assert f"\n- {measured}: **A is better** (smallest margin of equivalence 0.236 points).\n" in text
    assert "- **Which?** A is better than B.\n" in text
    assert "- **By how much?** The largest difference of two means: A minus B +0.213 points (" in text
    assert "- **Errors.** 20 images are misclassified by all 16 runs; 80 by at least one.\n" in text


@pytest.mark.parametrize(
    ("fewer", "verdict", "words"),
    [
        ([20, 20, 20, 20, 20, 20, 20, 30], Verdict.BETTER, "A is better than B"),
        ([-20, -20, -20, -20, -20, -20, -20, -30], Verdict.BETTER, "B is better than A"),
        ([2, -2, 2, -2, 2, -2, 2, -3], Verdict.EQUIVALENT, "A and B are equivalent"),
        ([5, 5, 6, 5, 5, 5, 6, 5], Verdict.WITHIN_MARGIN, "A and B are different, but within the margin"),
        ([30, -30, 30, -30, 30, -30, 30, -29], Verdict.INCONCLUSIVE, "A against B is inconclusive"),
    ],
)
def test_the_answer_says_one_of_four_verdicts(fewer: list[int], verdict: Verdict, words: str) -> None:
    tables = tables_from({"A": np.subtract(B, fewer).tolist(), "B": B})
    assert [pair.verdict for pair in comparisons(tables)] == [verdict]
    assert f"- **Which?** {words}." in answer(tables)


def test_too_few_seeds_are_called_so() -> None:
    text = answer(tables_from({"A": [10, 20], "B": [90, 95]}))
    assert "**inconclusive**.\n- 2 seeds are too few for a verdict, which needs 3.\n" in text


def test_groups_with_other_seeds_are_not_tested() -> None:
    tables = tables_from({"A": [40, 50, 54], "B": [60]})
    assert comparisons(tables) == []
    text = answer(tables)
    assert text.count("Not tested: the groups were not trained with the same seeds.") == 1
    assert "| B | 1 | 7,522 | 99.40 % (99.23 to 99.53) |" in text  # Wilson's interval
    assert "of n = 1 to 3 runs each, seeds 0 to 2, on 10,000" in text
    assert "(Student's t), that of a single run of the sampling of images (Wilson)." in text


def test_p_values_of_single_runs_are_corrected_for_their_number() -> None:
    # of each pair the one's errors are among the other's: 8, 9 and 17 images that one alone gets wrong
    tests = p_values(tables_from({"A": [10], "B": [18], "C": [27]}))
    found = {(test["a"], test["b"]): test["p"] for test in tests}
    single = {("A", "B"): 2 / 2**8, ("A", "C"): 2 / 2**17, ("B", "C"): 2 / 2**9}
    assert found == {
        ("A", "C"): pytest.approx(3 * single["A", "C"]),
        ("B", "C"): pytest.approx(2 * single["B", "C"]),
        ("A", "B"): pytest.approx(single["A", "B"]),
    }


def test_one_run_each_is_told_as_before() -> None:
    text = answer(tables_from({"GN": [46], "LN": [37]}))
    assert text.startswith(
        "**LN 99.63 %, GN 99.54 %**: 0.09 points from first to last. "
        "On these images one run each tells apart: GN and LN.\n"
    )
    assert "| | parameters | test accuracy, 95 % interval |" in text
    assert "| GN | 7,522 | 99.54 % (99.39 to 99.65) | 0.0100 | 99.00 % | 46 |" in text
    assert "9 images misclassified by GN only, 0 by LN only (exact McNemar test, corrected for 1 " in text
    assert "- 37 images are misclassified by all 2; 46 by at least one." in text


def test_seeds_in_a_row_are_written_as_a_span() -> None:
    assert spans([0, 1, 2, 3, 7, 9, 10]) == "0 to 3, 7, 9, 10"
