"""What the experiments about L1 say, from tables made by hand."""

from collections.abc import Callable

from helpers.tables import at, made, measured, of_kind, penalised, said, trials

from normstudy.config import TrainConfig
from normstudy.report import measures
from normstudy.report.tables import CollapseTables, PenaltyTables

LAMBDAS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)


def test_penalty_costs_accuracy_from_the_lambda_on_that_none_comes_back_from() -> None:
    # GN loses exactly 0.5 points, LN gains, and BN comes back after 3e-5
    cells = {("gn", 0.03): 0.975, ("gn", 0.1): 0.9, ("gn", 0.01): 0.9751, ("ln", 0.1): 0.99, ("bn", 3e-5): 0.9}
    assert said("penalty", penalised(cells))[0] == (
        "From which lambda on the mean accuracy is 0.5 points or more below that without L1: BN none of these, GN "
        "0.03, LN none of these (n = 2)."
    )


def test_what_l1_costs_stands_beside_the_noise_of_the_seeds() -> None:
    # GN's seeds lie 0.04 points apart without L1, BN's 0.25; those of other lambdas don't count
    apart = {("gn", 0.0): 0.0004, ("bn", 0.0): 0.0025, ("ln", 1e-2): 0.5}
    tables = made(trials("penalty"), lambda config: 0.98 - config.seed * apart.get(at(config), 0.0))
    zeros = measured(tables, lambda config: [{"zero_share": 0.5}])
    found = said("penalty", of_kind(PenaltyTables, tables, weights=zeros, statistics=penalised({}).statistics))
    assert "; without L1, seeds of one norm differ by up to 0.25 points, so" in found[0]


def test_a_lambda_at_which_one_seed_diverges_counts_as_a_loss_however_the_other_does() -> None:
    found = said("penalty", penalised({("gn", 1e-3): None, ("gn", 0.1): None, ("ln", 0.0): None}, only=1))
    assert "GN 0.1, LN diverged without L1 (" in found[0]
    assert found[1] == (
        "At lambda 0.1: BN 98.00 % with 25 % of its weights at zero, GN diverged, LN 98.00 % with 50 % of its weights "
        "at zero (closer to it than 0.001)."
    )


def test_collapsed_are_exactly_the_cells_from_72_to_95_percent() -> None:
    cells = {
        ("bn", 1e-4): 0.95,
        ("bn", 3e-4): 0.9501,
        ("bn", 1e-3): 0.72,
        ("bn", 3e-3): 0.7199,
        ("gn", 1e-2): 0.8,
        ("ln", 1e-2): None,
    }
    assert said("penalty", penalised(cells))[2] == (
        "The 72 to 95 % that others report show at: BN at 0.0001 (95.00 %), BN at 0.001 (72.00 %), GN at 0.01 "
        "(80.00 %)."
    )
    assert said("penalty", penalised({}))[2].endswith("show at: no lambda of this grid.")


def test_running_averages_are_judged_at_the_lambda_where_new_statistics_gain_most() -> None:
    cells = {("bn", 3e-4): 0.9, ("bn", 1e-3): 0.7}
    found = said("penalty", penalised(cells, {1e-4: -0.3, 3e-4: 0.08, 1e-3: 0.02}))[3]
    assert found.endswith("these gain most at lambda 0.0003, 98.00 % instead of 90.00 %.")
    losing = said("penalty", penalised(cells, {l1: -0.01 if l1 == 1e-4 else -0.02 for l1 in LAMBDAS}))[3]
    assert losing.endswith("these gain at no lambda; they come closest at lambda 0.0001, 97.00 % instead of 98.00 %.")
    without = said("penalty", penalised(dict.fromkeys([("bn", l1) for l1 in LAMBDAS])))[3]
    assert without == "BatchNorm's running averages: every lambda had a seed that diverged."


def test_a_diverged_run_has_both_kinds_of_statistics_without_a_number() -> None:
    rows = measures.statistics_rows(penalised({("bn", 1e-2): None}, only=0))
    last = rows[rows["l1"] == 1e-2]
    assert last["diverged"].tolist() == [True, True, False, False]
    assert last["statistics"].tolist() == ["as trained", "re-estimated"] * 2
    assert last["accuracy"].isna().tolist() == [True, True, False, False]


def accused(norm: str, suspect: Callable[[TrainConfig], float | None]) -> CollapseTables:
    """The trials of collapse.py at 0.98, those of a norm with a penalty as `suspect` says; a third of what is lost
    comes back with other statistics."""

    def accuracy(config: TrainConfig) -> float | None:
        return suspect(config) if config.norm == norm and config.l1 else 0.98

    def kinds(config: TrainConfig) -> list[dict[str, object]]:
        value = accuracy(config) or 0.0
        rows = [("as trained", value), ("re-estimated", value + (0.98 - value) / 3)]
        return [{"statistics": kind, "accuracy": number} for kind, number in rows]

    tables = made(trials("collapse"), accuracy)
    return of_kind(CollapseTables, tables, statistics=measured(tables, kinds))


def test_a_collapse_is_laid_to_the_suspect_under_which_it_shows() -> None:
    found = said(
        "collapse", accused("bn", lambda c: 0.8 if c.l1_on == "all" and c.warmup > 0.9 and c.l1 > 1e-3 else 0.98)
    )
    assert found == [
        "BN at lambda 0.01, which others report on: 98.00 % (weights, rate ends at 0), 98.00 % (all parameters, rate "
        "ends at 0), 98.00 % (weights, rate ends at its peak), 80.00 % (all parameters, rate ends at its peak).",
        "GN at lambda 0.01, which others report on: 98.00 % (weights, rate ends at 0), 98.00 % (all parameters, rate "
        "ends at 0), 98.00 % (weights, rate ends at its peak), 98.00 % (all parameters, rate ends at its peak).",
        "BN, smallest lambda with 95 % or less: none (weights, rate ends at 0), none (all parameters, rate ends at 0), "
        "none (weights, rate ends at its peak), 0.003 (all parameters, rate ends at its peak).",
        "GN, smallest lambda with 95 % or less: none (weights, rate ends at 0), none (all parameters, rate ends at 0), "
        "none (weights, rate ends at its peak), none (all parameters, rate ends at its peak).",
        "Statistics of the test images in place of BatchNorm's running averages, the lambda where these gain most or "
        "lose least: (weights, rate ends at 0) 0, 98.00 % instead of 98.00 %; (all parameters, rate ends at 0) 0, "
        "98.00 % instead of 98.00 %; (weights, rate ends at its peak) 0, 98.00 % instead of 98.00 %; (all parameters, "
        "rate ends at its peak) 0.003, 86.00 % instead of 80.00 %.",
    ]
