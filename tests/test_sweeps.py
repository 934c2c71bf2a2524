"""What the experiments that turn one knob say, from tables made by hand."""

from collections.abc import Mapping

import pytest
from helpers.tables import made, penalised, said

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.report import measures, sweeps
from normstudy.report.tables import Tables

RATES = (0.01, 0.02, 0.04)
CELLS = [
    TrainConfig(norm=norm, batch_size=size, lr=lr, seed=seed, epochs=2, train_size=1_000, val_size=100)
    for size in (2, 64, 256)
    for norm in ("bn", "gn")
    for lr in RATES
    for seed in (0, 1)
]


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
    assert said("batch_size", tables)[0] == (
        "BN: test error diverged at batches of 2, 2.00 % at batches of 64, 2.00 % at batches of 256."
    )


def test_batch_size_gives_the_error_at_the_smallest_as_a_multiple_of_that_at_64() -> None:
    def accuracy(config: TrainConfig) -> float:
        return {2: 0.954, 64: 0.98, 256: 0.97}[config.batch_size] if config.norm == "bn" else 0.98

    assert said("batch_size", made(CELLS, accuracy)) == [
        "BN: test error 4.60 % at batches of 2, 2.00 % at batches of 64, 3.00 % at batches of 256; at 2 it is 2.3 "
        "times that at 64.",
        "GN: test error 2.00 % at batches of 2, 2.00 % at batches of 64, 2.00 % at batches of 256; at 2 it is 1.0 "
        "times that at 64.",
        "The chosen learning rate is at an end of the range that was tried in 6 of 6 cells.",
        "Batch size with the lowest test error: BN 64, GN 2.",
    ]


HISTORIES: dict[float, list[float]] = {
    0.003: [0.5, 0.979],
    0.01: [0.9, 0.98],
    0.03: [0.991, 0.992],
    0.1: [0.98, 0.99],
    0.3: [0.9, 0.97],
    1.0: [0.5],
}


def swept(histories: Mapping[float, list[float]], diverged: tuple[float, ...] = ()) -> Tables:
    configs = [TrainConfig(norm="bn", lr=lr, epochs=2) for lr in histories]
    return made(
        configs,
        lambda config: None if config.lr in diverged else histories[config.lr][-1],
        history=lambda config: histories[config.lr],
    )


def test_epochs_to_the_goal_are_drawn_only_where_they_differ() -> None:
    assert set(sweeps.learning_rate_figures(swept(HISTORIES))) == {"error_rate", "epochs_to_goal"}
    assert set(sweeps.learning_rate_figures(swept({0.01: [0.9, 0.99], 0.03: [0.5, 0.992]}))) == {"error_rate"}


def test_a_norm_trains_in_a_range_of_rates() -> None:
    assert said("learning_rate", swept(HISTORIES, (1.0,))) == [
        "BN trains to 98 % or more from 0.01 to 0.1, best at 0.03 (99.20 %); 99 % after 1 epoch at the earliest; "
        "diverged at 1."
    ]


@pytest.mark.parametrize(
    ("histories", "diverged", "expected"),
    [
        (
            {0.01: [0.98], 0.03: [0.97], 0.1: [0.989]},
            (),
            "at 0.01 alone and at 0.1 alone, best at 0.1 (98.90 %); 99 % not reached",
        ),
        (
            {0.01: [0.5, 0.96], 0.03: [0.5], 0.1: [0.1]},
            (0.03, 0.1),
            "nowhere, best at 0.01 (96.00 %); diverged at 0.03, 0.1",
        ),
        ({0.01: [0.5], 0.03: [0.5]}, (0.01, 0.03), "nowhere; diverged at 0.01, 0.03"),
        (
            {0.01: [0.985], 0.03: [0.995]},
            (0.03,),
            "at 0.01 alone, best at 0.01 (98.50 %); 99 % not reached; diverged at 0.03",
        ),
    ],
)
def test_a_norm_that_trains_nowhere_or_with_gaps_or_diverges_is_told_so(
    histories: dict[float, list[float]], diverged: tuple[float, ...], expected: str
) -> None:
    assert said("learning_rate", swept(histories, diverged)) == [f"BN trains to 98 % or more {expected}."]


def test_a_rate_at_which_some_seeds_diverge_is_named_with_their_number() -> None:
    configs = [TrainConfig(lr=lr, seed=seed, epochs=1) for lr in (0.03, 0.1) for seed in (0, 1)]
    tables = made(configs, lambda config: None if (config.lr, config.seed) == (0.1, 1) else 0.985)
    assert said("learning_rate", tables) == [
        "GN trains to 98 % or more at 0.03 alone, best at 0.03 (98.50 %); 99 % not reached; "
        "diverged at 0.1 (1 of 2 runs)."
    ]


def test_sweeps_draw_a_mark_and_no_point_for_a_run_that_diverged() -> None:
    for figures in (
        measures.penalty_figures(penalised({("bn", 1e-2): None})),
        sweeps.batch_size_figures(tuned_from({("bn", 2, lr): (None, None) for lr in RATES})),
        sweeps.learning_rate_figures(swept(HISTORIES, (1.0,))),
    ):
        for name, figure in figures.items():
            assert "diverged (seeds)" in {text.get_text() for text in figure.legends[0].get_texts()}, name


def test_a_sweep_of_any_number_names_each_norms_best_value_and_where_it_diverged() -> None:
    configs = [TrainConfig(norm="bn", momentum=momentum, seed=seed) for momentum in (0.0, 0.5, 0.99) for seed in (0, 1)]
    accuracy = {0.0: 0.97, 0.5: 0.98}
    tables = made(configs, lambda config: accuracy.get(config.momentum, None if config.seed else 0.99))
    assert said("sweep", tables) == ["BN, by momentum: best at 0.5 (98.00 %); diverged at 0.99 (1 of 2 runs)."]
    assert set(sweeps.sweep_figures(tables)) == {"error_rate"}
    for others, named in (([], "no setting"), ([TrainConfig(lr=0.1, epochs=3)], "epochs, lr")):
        with pytest.raises(ReportError, match=f"report=sweep: {named} varies; expected one that is a number"):
            said("sweep", made([TrainConfig(), *others], lambda config: 0.98))
