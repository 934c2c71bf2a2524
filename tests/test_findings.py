"""What the pages say of divergence, single seeds, ties and gaps, from tables made by hand.

What they say otherwise `test_results.py` compares with the committed pages, tables and figures.
"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from helpers.tables import made, measured, of_kind, penalised, said, steady, trials

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.experiment import About, Kind
from normstudy.files import archives, unpacked
from normstudy.report import errors, groups, measures, pages, sweeps
from normstudy.report.groups import comparisons
from normstudy.report.groups import tests_of_images as p_values  # whose name pytest would take for a test
from normstudy.report.pages import answer
from normstudy.report.tables import CalibrationTables, ErrorTables, Tables
from normstudy.stats import mean_interval

PAIRS = [TrainConfig(norm=norm, epochs=2, seed=seed) for norm in ("gn", "bn") for seed in (0, 1)]
RATES = (0.01, 0.02, 0.04)
LAMBDAS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)


def tuned_from(losses: Mapping[tuple[str, float], tuple[float | None, float | None]]) -> Tables:
    """Batches of 2 and 64; held-out losses of the two seeds at 2, 0.05 but these, None where a run diverges."""
    cells = [(size, norm, lr, seed) for size in (2, 64) for norm in ("bn", "gn") for lr in RATES for seed in (0, 1)]
    configs = [
        TrainConfig(norm=norm, batch_size=size, lr=lr, seed=seed, epochs=2, train_size=1_000, val_size=100)
        for size, norm, lr, seed in cells
    ]

    def loss(config: TrainConfig) -> float | None:
        found = losses.get((config.norm, config.lr), (0.05, 0.05))[config.seed]
        return found if config.batch_size == 2 else 0.05

    return made(
        configs,
        lambda config: None if loss(config) is None else 0.99 - config.lr,
        val_loss=lambda config: loss(config) or 0.0,
    )


def test_of_the_rates_at_which_no_seed_diverged_the_one_with_the_lowest_mean_held_out_loss_is_taken() -> None:
    # BN at 0.02: one seed has the lowest loss of all, the other diverged. GN at 0.04: one seed alone is the lowest
    rows = sweeps.tuned(
        tuned_from({("bn", 0.02): (0.001, None), ("bn", 0.04): (0.03, 0.04), ("gn", 0.04): (0.01, 0.1)})
    )
    chosen = {key: set(cell["lr"]) for key, cell in rows.groupby(["norm", "batch_size"])}
    assert chosen == {
        ("bn", 2): {0.04},
        ("gn", 2): {0.01},
        ("bn", 64): {0.01},
        ("gn", 64): {0.01},
    }  # the lowest of equals


def test_a_cell_of_which_every_rate_diverged_stays_as_diverged() -> None:
    tables = tuned_from({("bn", lr): (None, 0.01) for lr in RATES})
    rows = sweeps.tuned(tables)
    cell = rows[(rows["norm"] == "bn") & (rows["batch_size"] == 2)]
    assert cell["diverged"].tolist() == [True] * 3
    assert cell["test_accuracy"].isna().all()
    assert said("batch_size", tables)[0] == "BN: test error diverged at batches of 2, 2.00 % at batches of 64."


@pytest.mark.parametrize(
    ("histories", "diverged", "expected"),
    [
        ({0.01: [0.98], 0.03: [0.97], 0.1: [0.989]}, (), "at 0.01 alone and at 0.1 alone, best at 0.1 (98.90 %); 99 %"),
        ({0.01: [0.5, 0.96], 0.03: [0.5]}, (0.03,), "nowhere, best at 0.01 (96.00 %); diverged at 0.03."),
        ({0.01: [0.5], 0.03: [0.5]}, (0.01, 0.03), "nowhere; diverged at 0.01, 0.03."),
        ({0.01: [0.985], 0.03: [0.995]}, (0.03,), "at 0.01 alone, best at 0.01 (98.50 %); 99 % not reached; diverged"),
    ],
)
def test_a_norm_that_trains_nowhere_or_with_gaps_or_diverges_is_told_so(
    histories: dict[float, list[float]], diverged: tuple[float, ...], expected: str
) -> None:
    tables = made(
        [TrainConfig(norm="bn", lr=lr, epochs=2) for lr in histories],
        lambda config: None if config.lr in diverged else histories[config.lr][-1],
        history=lambda config: histories[config.lr],
    )
    assert said("learning_rate", tables)[0].startswith(f"BN trains to 98 % or more {expected}")


def test_a_sweep_of_any_number_names_each_norms_best_value_and_where_it_diverged() -> None:
    configs = [TrainConfig(norm="bn", momentum=momentum, seed=seed) for momentum in (0.0, 0.5, 0.99) for seed in (0, 1)]
    accuracy = {0.0: 0.97, 0.5: 0.98}
    tables = made(configs, lambda config: accuracy.get(config.momentum, None if config.seed else 0.99))
    assert said("sweep", tables) == [
        "Momentum 0: BN 97.00 %.",
        "Momentum 0.5: BN 98.00 %.",
        "BN, by momentum: best at 0.5 (98.00 %); diverged at 0.99 (1 of 2 runs).",
    ]
    assert set(sweeps.sweep_figures(tables)) == {"error_rate"}
    lengths = [TrainConfig(norm=norm, epochs=epochs) for epochs in (1, 4, 20) for norm in ("gn", "bn")]
    tables = made(lengths, lambda config: 0.99 if config.epochs == 20 else 0.9 if config.norm == "gn" else 0.95)
    assert [text for text in said("sweep", tables) if "apart" in text][::2] == [
        "Epochs 1: BN 95.00 %, GN 90.00 %, at most 5.00 points apart.",
        "Epochs 20: GN 99.00 %, BN 99.00 %, at most 0.00 points apart.",
    ]
    for others, named in (([], "no setting"), ([TrainConfig(lr=0.1, epochs=3)], "epochs, lr")):
        with pytest.raises(ReportError, match=f"report=sweep: {named} varies; expected one that is a number"):
            said("sweep", made([TrainConfig(), *others], lambda config: 0.98))


def test_penalty_costs_accuracy_from_the_lambda_on_that_none_comes_back_from() -> None:
    # GN loses exactly 0.5 points, LN gains, and BN comes back after 3e-5
    cells = {("gn", 0.03): 0.975, ("gn", 0.1): 0.9, ("gn", 0.01): 0.9751, ("ln", 0.1): 0.99, ("bn", 3e-5): 0.9}
    assert said("penalty", penalised(cells))[0] == (
        "From which lambda on the mean accuracy is 0.5 points or more below that without L1: BN none of these, GN "
        "0.03, LN none of these (n = 2)."
    )


def test_a_lambda_at_which_one_seed_diverges_counts_as_a_loss_however_the_other_does() -> None:
    found = said("penalty", penalised({("gn", 1e-3): None, ("gn", 0.1): None, ("ln", 0.0): None}, only=1))
    assert "GN 0.1, LN diverged without L1 (" in found[0]
    assert "25 % of its weights at zero, GN diverged, LN 98.00 % with 50 % of its weights" in found[1]
    rows = measures.statistics_rows(penalised({("bn", 1e-2): None}, only=0))
    assert rows.loc[rows["l1"] == 1e-2, "accuracy"].isna().tolist() == [True, True, False, False]


def test_running_averages_are_judged_at_the_lambda_where_new_statistics_gain_most() -> None:
    cells = {("bn", 3e-4): 0.9, ("bn", 1e-3): 0.7}
    found = said("penalty", penalised(cells, {1e-4: -0.3, 3e-4: 0.08, 1e-3: 0.02}))[3]
    assert found.endswith("these gain most at lambda 0.0003, 98.00 % instead of 90.00 %.")
    losing = said("penalty", penalised(cells, {l1: -0.01 if l1 == 1e-4 else -0.02 for l1 in LAMBDAS}))[3]
    assert losing.endswith("these gain at no lambda; they come closest at lambda 0.0001, 97.00 % instead of 98.00 %.")
    without = said("penalty", penalised(dict.fromkeys([("bn", l1) for l1 in LAMBDAS])))[3]
    assert without == "BatchNorm's running averages: every lambda had a seed that diverged."


@pytest.mark.parametrize(
    ("temperatures", "found"),
    [
        ([1.2, 1.25, 1.15], "GN is over-confident on held-out images: temperature 1.20"),
        ([0.85, 0.8, 0.75], "GN is under-confident on held-out images: temperature 0.80"),
        ([0.9, 1.3, 1.1], "GN shows no over- or under-confidence on held-out images: temperature 1.10"),
        ([1.2], "GN is one network, too few to tell over- from under-confident: temperature 1.20"),
    ],
)
def test_confidence_is_judged_by_the_interval_of_the_temperature(temperatures: list[float], found: str) -> None:
    tables = made([TrainConfig(seed=seed) for seed in range(len(temperatures))], steady(gn=0.98))
    scaled = {"nll": 0.04, "nll_scaled": 0.035, "ece": 0.004, "ece_scaled": 0.0015}
    rows = measured(tables, lambda config: [{"temperature": temperatures[config.seed], **scaled}])
    assert said("calibration", of_kind(CalibrationTables, tables, calibration=rows, reliability=rows))[0].startswith(
        found
    )


@pytest.mark.parametrize(("name", "kind"), [("factorial", "factorial"), ("groups", "baseline"), ("small", "groups")])
def test_single_seeds_are_not_compared_and_said_to_be_so(name: str, kind: Kind) -> None:
    accuracy = steady(bn=0.98, gn=0.97, ln=0.96, none=0.95, **{"in": 0.94})
    found = " ".join(said(kind, made(trials(name, seeds=1), accuracy)))
    assert "No comparison: it needs two seeds or more" in found
    assert "better" not in found


def test_factorial_splits_bn_with_l1_into_norm_and_penalty() -> None:
    plain = steady(bn=0.98, gn=0.9805, ln=0.98, none=0.95, **{"in": 0.97})
    tables = made(trials("factorial"), lambda config: 0.9812 if config.variant == "BN + L1" else plain(config))
    facts = groups.factorial_facts(tables)
    bn = 0.98 + 0.0001 * 4.5  # mean of ten seeds
    assert (facts["norm_part"], facts["penalty_part"]) == pytest.approx((0.03, 0.9812 - bn))
    assert facts["largest"] == facts["of_penalty"][0]


@pytest.mark.parametrize(
    ("gn", "bn", "expected"),
    [
        (0.9955, 0.9950, ["met (lowest: BN 99.500 %)", "met (GN 99.550 %)"]),
        (0.9954, 0.9949, ["not met (lowest: BN 99.490 %)", "not met (GN 99.540 %)"]),
    ],
)
def test_targets_are_met_by_the_lowest_and_by_the_best_mean(gn: float, bn: float, expected: list[str]) -> None:
    about = About(report="groups", targets={"every": 0.9950, "best": 0.9955})
    found = pages.findings(made(PAIRS, lambda config: {"gn": gn, "bn": bn}[config.norm], about=about))
    assert re.findall(r"(?:not )?met \([^)]*\)", " ".join(found)) == expected


def test_finished_leaves_out_every_row_of_a_run_that_diverged() -> None:
    tables = made(PAIRS, lambda config: None if config.norm == "gn" and config.seed else 0.99, wrong=lambda c: [1, 2])
    ended = groups.finished(tables)
    assert ended.results["run_id"].tolist() == ["run000", "run002", "run003"]
    assert set(ended.epochs["run_id"]) == set(ended.misclassified["run_id"]) == {"run000", "run002", "run003"}


def erring(wrong: dict[tuple[str, int], list[int]]) -> ErrorTables:
    configs = [TrainConfig(norm=norm, epochs=2, seed=seed) for norm, seed in wrong]
    return made(configs, lambda config: 0.99, wrong=lambda config: wrong[config.norm, config.seed])


def test_errors_without_a_common_image_or_without_any_are_told_in_whole_sentences() -> None:
    nothing: dict[tuple[str, int], list[int]] = {(config.norm, config.seed): [] for config in PAIRS}
    assert pages.findings(erring(nothing))[0] == "None of the 4 runs misclassified a test image."
    found = pages.findings(erring(nothing | {("bn", 1): [4]}))
    assert found[0].endswith("1 are misclassified by at least one of the 4 runs, and none by all 4.")
    assert found[1].endswith("GN none; BN 1 (at most 1 of its 2 seeds agree on one).")
    assert "errors_common" not in errors.errors_figures(erring(nothing | {("bn", 1): [4]}))


def test_a_group_whose_lowest_seed_diverged_has_no_grid_and_the_others_have() -> None:
    def accuracy(config: TrainConfig) -> float | None:
        return None if (config.norm, config.seed) == ("gn", 0) else 0.99

    figures = errors.errors_figures(made(PAIRS, accuracy, wrong=lambda config: [7, 3520]))
    assert {"misclassified_bn", "errors_common"} <= set(figures)
    assert "misclassified_gn" not in figures
    assert list(errors.errors_figures(made(PAIRS, lambda config: None))) == ["shared_statistics"]


def test_class_counts_and_label_errors_are_of_mnists_test_labels() -> None:
    content = dict(unpacked("mnist", archives("mnist")))["t10k-labels-idx1-ubyte"]
    labels = pd.Series(np.frombuffer(content, np.uint8, offset=8))
    assert labels.value_counts().sort_index().to_dict() == errors.CLASS_COUNTS
    given = [8, 0, 9, 4, 2, 5, 6, 6, 5, 5, 0, 1, 4, 6, 5]  # as Northcutt et al. list them
    assert labels[sorted(errors.LABEL_ERRORS)].tolist() == given


# the seeds differ far more than the groups do: only the pairs show by how much GN errs less, each time
LN = [40, 60, 45, 80, 52, 71, 58, 66]


def with_errors(**counts: list[int]) -> ErrorTables:
    """A run for each of these numbers of errors by norm; image i is wrong where i < errors."""
    configs = [TrainConfig(norm=norm, seed=seed) for norm in counts for seed in range(len(counts[norm]))]

    def wrong(config: TrainConfig) -> list[int]:
        return list(range(counts[config.norm][config.seed]))

    return made(configs, lambda config: 1 - len(wrong(config)) / 10_000, wrong=wrong)


def test_seeds_are_compared_in_pairs() -> None:
    gn = [*(count - 20 for count in LN[:-1]), 36]
    tables = with_errors(gn=gn, ln=LN)
    [pair] = comparisons(tables)
    assert (pair.winner, pair.n) == ("GN", 8)
    low, high = mean_interval(np.subtract(LN, gn) / 10_000)
    assert [pair.low, pair.high] == pytest.approx([low, high])
    measured = f"GN minus LN +0.213 points ({100 * low:+.3f} to {100 * high:+.3f}; n = 8 pairs; difference p < 0.001; "
    assert f"\n- {measured}equivalence p > 0.999): **GN is better** (smallest margin" in answer(tables)


def test_too_few_seeds_are_called_so() -> None:
    text = answer(with_errors(gn=[10, 20], ln=[90, 95]))
    assert "**inconclusive**.\n- 2 seeds are too few for a verdict, which needs 3.\n" in text


def test_groups_with_other_seeds_are_not_tested() -> None:
    tables = with_errors(gn=[40, 50, 54], ln=[60])
    assert comparisons(tables) == []
    text = answer(tables)
    assert text.count("Not tested: the groups were not trained with the same seeds.") == 1
    assert "| LN | 1 | 7,522 | 99.40 % (99.23 to 99.53) |" in text  # Wilson's interval
    assert "(Student's t), that of a single run of the sampling of images (Wilson)." in text


def test_single_runs_are_compared_by_the_images_that_one_alone_gets_wrong_corrected_for_their_number() -> None:
    # of each pair the one's errors are among the other's: 8, 9 and 17 images that one alone gets wrong
    tables = with_errors(gn=[10], ln=[18], bn=[27])
    found = {(test["a"], test["b"]): test["p"] for test in p_values(tables)}
    single = {("GN", "LN"): 2 / 2**8, ("GN", "BN"): 2 / 2**17, ("LN", "BN"): 2 / 2**9}
    steps = {("GN", "LN"): 1, ("GN", "BN"): 3, ("LN", "BN"): 2}
    assert found == {pair: pytest.approx(steps[pair] * p) for pair, p in single.items()}
    text = answer(tables)
    assert text.startswith("**GN 99.90 %, LN 99.82 %, BN 99.73 %**: 0.17 points from first to last. ")
    assert "0 images misclassified by GN only, 8 by LN only" in text
    assert "(exact McNemar test, corrected for 3 " in text
