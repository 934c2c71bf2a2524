"""What the experiments that turn one knob say, from tables made by hand."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_answers import made, measured, trials

from normstudy import sweeps
from normstudy.config import TrainConfig
from normstudy.tables import Tables

LAMBDAS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def at(config: TrainConfig) -> tuple[str, float]:
    return config.norm, config.l1


def penalised(
    cells: Mapping[tuple[str, float], float | None],
    gains: Mapping[float, float] | None = None,
    *,
    only: int | None = None,
) -> Tables:
    """0.98 at each lambda and norm but these; None diverges, of all seeds or of the seed `only`. `gains` by lambda:
    what statistics of the test images add."""

    def accuracy(config: TrainConfig) -> float | None:
        found = cells.get(at(config), 0.98)
        return 0.98 if found is None and only not in (None, config.seed) else found

    def kinds(config: TrainConfig) -> list[dict[str, object]]:
        trained = accuracy(config) or 0.0
        rows = [("as trained", trained), ("re-estimated", trained + (gains or {}).get(config.l1, 0.0))]
        return [
            {"statistics": kind, "corruption": "none", "severity": 0, "accuracy": value, "loss": 0.1}
            for kind, value in (rows if config.norm == "bn" else rows[:1])
        ]

    tables = made(trials("penalty"), accuracy)
    zeros = measured(tables, lambda config: [{"zero_share": 0.25 if config.norm == "bn" else 0.5}])
    return replace(tables, weights=zeros, statistics=measured(tables, kinds))


def test_the_grid_of_lambdas_is_the_one_that_these_tests_speak_of() -> None:
    assert {config.l1 for config in trials("penalty")} == set(LAMBDAS)


def test_penalty_is_borne_up_to_the_first_lambda_that_costs_more_than_a_tenth_of_a_point() -> None:
    # GN loses exactly 0.1 points, LN gains, and BN comes back at 1e-4, after a gap
    cells = {("gn", 1e-6): 0.979, ("gn", 3e-6): 0.9789, ("ln", 1e-2): 0.99, ("bn", 3e-5): 0.9}
    assert sweeps.penalty(penalised(cells))[0] == (
        "Against no L1, mean accuracy falls by no more than 0.1 points: BN up to 1e-05, GN up to 1e-06, LN up to 0.01."
    )
    nowhere = sweeps.penalty(penalised({("gn", 1e-6): 0.9}))[0]
    assert "GN at no lambda above 0," in nowhere


def test_what_a_norm_bears_stands_beside_the_noise_of_its_seeds() -> None:
    # GN's seeds lie 0.04 points apart without L1, BN's 0.25; those of other lambdas don't count
    apart = {("gn", 0.0): 0.0004, ("bn", 0.0): 0.0025, ("ln", 1e-2): 0.5}
    tables = made(trials("penalty"), lambda config: 0.98 - config.seed * apart.get(at(config), 0.0))
    zeros = measured(tables, lambda config: [{"zero_share": 0.5}])
    tables = replace(tables, weights=zeros, statistics=penalised({}).statistics)
    assert sweeps.penalty(tables)[0].endswith("; without L1, seeds of one norm lie up to 0.25 points apart.")


def test_a_lambda_at_which_one_seed_diverges_is_not_borne_however_the_other_does() -> None:
    found = sweeps.penalty(penalised({("gn", 1e-3): None, ("gn", 1e-2): None, ("ln", 0.0): None}, only=1))
    assert "GN up to 0.0003, LN diverged without L1." in found[0]
    assert found[1] == (
        "At lambda 0.01: BN 98.00 % with 25 % of its weights at zero, GN diverged, LN 98.00 % with 50 % of its weights "
        "at zero (closer to it than 0.001)."
    )


def test_collapsed_are_exactly_the_cells_from_72_to_95_percent() -> None:
    cells = {
        ("bn", 1e-4): 0.95, ("bn", 3e-4): 0.9501, ("bn", 1e-3): 0.72, ("bn", 3e-3): 0.7199, ("gn", 1e-2): 0.8,
        ("ln", 1e-2): None,
    }  # fmt: skip
    assert sweeps.penalty(penalised(cells))[2] == (
        "The 72 to 95 % that others report show at: BN at 0.0001 (95.00 %), BN at 0.001 (72.00 %), GN at 0.01 "
        "(80.00 %)."
    )
    assert sweeps.penalty(penalised({}))[2].endswith("show at: no lambda of this grid.")


def test_running_averages_are_judged_at_the_lambda_where_new_statistics_gain_most() -> None:
    cells = {("bn", 3e-4): 0.9, ("bn", 1e-3): 0.7}
    found = sweeps.penalty(penalised(cells, {1e-4: -0.3, 3e-4: 0.08, 1e-3: 0.02}))[3]
    assert found.endswith("these gain most at lambda 0.0003, 98.00 % instead of 90.00 %.")
    losing = sweeps.penalty(penalised(cells, {l1: -0.01 if l1 == 1e-4 else -0.02 for l1 in LAMBDAS}))[3]
    assert losing.endswith("these gain at no lambda; they come closest at lambda 0.0001, 97.00 % instead of 98.00 %.")
    without = sweeps.penalty(penalised(dict.fromkeys([("bn", l1) for l1 in LAMBDAS])))[3]
    assert without == "BatchNorm's running averages: every lambda had a seed that diverged."


def test_a_diverged_run_has_both_kinds_of_statistics_without_a_number() -> None:
    rows = sweeps.statistics(penalised({("bn", 1e-2): None}, only=0))
    last = rows[rows["l1"] == 1e-2]
    assert last["diverged"].tolist() == [True, True, False, False]
    assert last["statistics"].tolist() == ["as trained", "re-estimated"] * 2
    assert last["accuracy"].isna().tolist() == [True, True, False, False]


RATES = (0.01, 0.02, 0.04)
CELLS = [
    TrainConfig(norm=norm, batch_size=size, lr=lr, seed=seed, epochs=2, train_size=1_000, val_size=100)
    for size in (2, 64, 256) for norm in ("bn", "gn") for lr in RATES for seed in (0, 1)
]  # fmt: skip


def tuned_from(losses: Mapping[tuple[str, int, float], tuple[float | None, float | None]]) -> Tables:
    """Held-out losses of the two seeds, 0.05 but these, None where a run diverges; accuracies tell the rates apart."""

    def loss(config: TrainConfig) -> float | None:
        return losses.get((config.norm, config.batch_size, config.lr), (0.05, 0.05))[config.seed]

    return made(
        CELLS,
        lambda config: None if loss(config) is None else 0.99 - config.lr,
        val_loss=lambda config: loss(config) or 0.0,
    )


def chosen(tables: Tables) -> dict[tuple[str, int], list[float]]:
    rows = sweeps.tuned(tables)
    return {(str(norm), int(size)): list(cell["lr"]) for (norm, size), cell in rows.groupby(["norm", "batch_size"])}


def test_tuned_takes_the_rate_with_the_lowest_mean_held_out_loss() -> None:
    # at 0.04 one seed has the lowest loss of all, the mean of the two is higher; BN and GN, and sizes, choose apart
    losses = {("bn", 2, 0.02): (0.04, 0.04), ("bn", 2, 0.04): (0.01, 0.08), ("gn", 2, 0.04): (0.03, 0.03)}
    found = chosen(tuned_from(losses))
    assert found[("bn", 2)] == [0.02, 0.02]
    assert found[("gn", 2)] == [0.04, 0.04]
    assert found[("bn", 64)] == [0.01, 0.01]  # of equals the lowest rate


def test_tuned_never_takes_a_rate_of_which_a_seed_diverged() -> None:
    found = chosen(tuned_from({("bn", 2, 0.01): (0.001, None), ("bn", 2, 0.04): (0.03, 0.04)}))
    assert found[("bn", 2)] == [0.04, 0.04]


def test_a_cell_of_which_every_rate_diverged_stays_as_diverged() -> None:
    tables = tuned_from({("bn", 2, lr): (None, 0.01) for lr in RATES})
    rows = sweeps.tuned(tables)
    cell = rows[(rows["norm"] == "bn") & (rows["batch_size"] == 2)]
    assert cell["diverged"].tolist() == [True] * 3
    assert cell["test_accuracy"].isna().all()
    assert sweeps.batch_size(tables)[0] == (
        "BN: test error diverged at batches of 2, 2.00 % at batches of 64, 2.00 % at batches of 256."
    )


def test_batch_size_gives_the_error_at_the_smallest_as_a_multiple_of_that_at_64() -> None:
    def accuracy(config: TrainConfig) -> float:
        return {2: 0.954, 64: 0.98, 256: 0.97}[config.batch_size] if config.norm == "bn" else 0.98

    assert sweeps.batch_size(made(CELLS, accuracy)) == [
        "BN: test error 4.60 % at batches of 2, 2.00 % at batches of 64, 3.00 % at batches of 256; at 2 it is 2.3 "
        "times that at 64.",
        "GN: test error 2.00 % at batches of 2, 2.00 % at batches of 64, 2.00 % at batches of 256; at 2 it is 1.0 "
        "times that at 64.",
        "Batch size with the lowest test error: BN 64, GN 2.",
    ]


HISTORIES: dict[float, list[float]] = {
    0.003: [0.5, 0.979], 0.01: [0.9, 0.98], 0.03: [0.991, 0.992], 0.1: [0.98, 0.99], 0.3: [0.9, 0.97], 1.0: [0.5],
}  # fmt: skip


def swept(histories: Mapping[float, list[float]], diverged: tuple[float, ...] = ()) -> Tables:
    configs = [TrainConfig(norm="bn", lr=lr, epochs=2) for lr in histories]
    return made(
        configs,
        lambda config: None if config.lr in diverged else histories[config.lr][-1],
        history=lambda config: histories[config.lr],
    )


def test_epochs_to_the_goal_are_counted_to_the_first_that_reaches_it_and_missing_where_none_does() -> None:
    rows = sweeps.with_goal(swept(HISTORIES, (1.0,))).set_index("lr")["epochs_to_goal"]
    assert rows.dropna().to_dict() == {0.03: 1, 0.1: 2}
    assert len(rows) == 6


def test_a_norm_trains_in_a_range_of_rates() -> None:
    assert sweeps.learning_rate(swept(HISTORIES, (1.0,))) == [
        "BN trains to 98 % or more from 0.01 to 0.1, best at 0.03 (99.20 %); 99 % after 1 epoch at the earliest; "
        "diverged at 1."
    ]


@pytest.mark.parametrize(
    ("histories", "diverged", "said"),
    [
        (
            {0.01: [0.98], 0.03: [0.97], 0.1: [0.989]}, (),
            "at 0.01 alone and at 0.1 alone, best at 0.1 (98.90 %); 99 % not reached",
        ),
        ({0.01: [0.5, 0.96], 0.03: [0.5], 0.1: [0.1]}, (0.03, 0.1),
         "nowhere, best at 0.01 (96.00 %); diverged at 0.03, 0.1"),
        ({0.01: [0.5], 0.03: [0.5]}, (0.01, 0.03), "nowhere; diverged at 0.01, 0.03"),
        ({0.01: [0.985], 0.03: [0.995]}, (0.03,), "at 0.01 alone, best at 0.01 (98.50 %); 99 % not reached; "
                                                  "diverged at 0.03"),
    ],
)  # fmt: skip
def test_a_norm_that_trains_nowhere_or_with_gaps_or_diverges_is_told_so(
    histories: dict[float, list[float]], diverged: tuple[float, ...], said: str
) -> None:
    assert sweeps.learning_rate(swept(histories, diverged)) == [f"BN trains to 98 % or more {said}."]


def test_a_rate_trains_when_every_seed_does_and_is_named_once_where_several_diverge() -> None:
    configs = [TrainConfig(lr=lr, seed=seed, epochs=1) for lr in (0.01, 0.03, 0.1) for seed in (0, 1)]
    accuracy = {(0.01, 1): 0.97, (0.1, 0): None, (0.1, 1): None}
    tables = made(configs, lambda config: accuracy.get((config.lr, config.seed), 0.985))
    assert sweeps.learning_rate(tables) == [
        "GN trains to 98 % or more at 0.03 alone, best at 0.03 (98.50 %); 99 % not reached; diverged at 0.1."
    ]


def test_means_of_cells_count_no_cell_of_which_a_seed_has_no_number() -> None:
    rows = pd.DataFrame(
        {"l1": [0.1, 0.1, 0.0, 0.0], "group": ["B", "B", "A", "A"], "test_accuracy": [0.9, np.nan, 0.8, 0.6]}
    )
    found = sweeps.cell_means(rows, "l1")
    assert found.columns.tolist() == ["B", "A"]
    assert found.index.tolist() == [0.0, 0.1]
    assert found.loc[0.0, "A"] == pytest.approx(0.7)
    assert np.isnan(found.loc[0.1, "B"])


def test_sweeps_draw_a_mark_and_no_point_for_a_run_that_diverged() -> None:
    for figures in (
        sweeps.penalty_figures(penalised({("bn", 1e-2): None})),
        sweeps.batch_size_figures(tuned_from({("bn", 2, lr): (None, None) for lr in RATES})),
        sweeps.learning_rate_figures(swept(HISTORIES, (1.0,))),
    ):
        for name, figure in figures.items():
            assert "diverged (seeds)" in {text.get_text() for text in figure.legends[0].get_texts()}, name
