"""What is compared with what, and adjusted together with what, from tables made by hand."""

from helpers.tables import made, measured, of_kind, said, trials

from normstudy.config import TrainConfig
from normstudy.experiment import About
from normstudy.report import choices, groups
from normstudy.report.groups import comparisons
from normstudy.report.pages import answer
from normstudy.report.tables import CollapseTables
from normstudy.report.validation import STATISTICS


def test_pairs_that_the_file_calls_confirmatory_are_a_family_of_their_own_at_each_margin() -> None:
    configs = [TrainConfig(norm=norm, seed=seed) for norm in ("gn", "ln", "bn") for seed in range(6)]
    about = About(confirmatory=(("GN", "LN"),), margins=(0.0005,))
    tables = made(configs, lambda config: 0.99 + 0.0001 * (config.seed * (config.norm == "gn")), about=about)
    first, *others = comparisons(tables)
    assert ((first.a, first.b), first.comparisons) == (("GN", "LN"), 1)
    assert [(pair.a, pair.b, pair.comparisons) for pair in others] == [("GN", "BN", 2), ("LN", "BN", 2)]
    facts = groups.summary_facts(tables)
    assert facts["confirmatory"] == [first]
    [[narrow]] = facts["margins"].values()
    assert (narrow.margin, narrow.comparisons) == (0.0005, 1)
    page = answer(tables)
    assert "Confirmatory: GN and LN" in page
    assert "**Within 0.05 points**" in page


def test_a_group_of_which_a_run_diverged_is_left_out_and_the_others_are_compared() -> None:
    configs = [TrainConfig(norm=norm, seed=seed) for norm in ("gn", "ln", "bn") for seed in range(4)]
    tables = made(configs, lambda config: None if (config.norm, config.seed) == ("ln", 2) else 0.99)
    assert [(pair.a, pair.b) for pair in comparisons(tables)] == [("GN", "BN")]
    assert comparisons(tables, []) == []
    assert "Not compared, as a run diverged: LN." in said("groups", tables)
    assert "Not compared, as a run diverged: LN." in said("baseline", tables)


def test_a_sweep_tests_each_norm_against_the_first_and_how_its_lead_changes() -> None:
    gains = {("gn", 1): -0.01, ("gn", 20): -0.001}
    configs = [
        TrainConfig(norm=norm, epochs=epochs, seed=seed)
        for epochs in (1, 20)
        for norm in ("bn", "gn", "ln")
        for seed in range(8)
    ]
    tables = made(
        configs,
        lambda config: (
            None
            if config.norm == "ln" and config.seed == 3 and config.epochs == 1
            else 0.99 + gains.get((config.norm, config.epochs), 0.0) + 1e-5 * (config.seed % 3) * (config.norm == "gn")
        ),
    )
    found = said("sweep", tables)
    assert any(text.startswith("Epochs 1: ") and "BN is better than GN." in text for text in found)
    [change] = [text for text in found if "the difference to BN changes" in text]
    assert "+0.90 points for GN" in change
    assert "LN" not in change  # a seed of it has no first epoch


def test_ghosts_are_told_with_the_statistics_of_the_test_images_too() -> None:
    configs = trials("ghost_batches", seeds=4)
    tables = made(configs, lambda config: 0.99 - 0.004 * (config.ghost_batch_size == 2))
    kinds = [{"statistics": kind, "corruption": "none", "severity": 0, "loss": 0.1} for kind in STATISTICS]
    rows = measured(
        tables,
        lambda config: [
            kind | {"accuracy": 0.99 - 0.001 * (config.ghost_batch_size == 2)}
            for kind in kinds[: 1 + (config.norm == "bn")]
        ],
    )
    found = said("ghost", of_kind(CollapseTables, tables, statistics=rows))
    assert any(text.startswith("With statistics of the test images in place of the running") for text in found)
    [pair] = [text for text in found if text.startswith("With these statistics, BN, ghost_batch_size 2 minus")]
    assert "-0.100 points" in pair
    assert any("BN, ghost_batch_size 2 minus BN, ghost_batch_size 0 -0.400 points" in text for text in found)


def test_a_recipe_of_which_a_seed_diverged_is_neither_chosen_nor_averaged_over_the_others() -> None:
    configs = [
        TrainConfig(norm=norm, lr=lr, seed=seed, val_size=500)
        for lr in (0.03, 0.1)
        for norm in ("gn", "ln")
        for seed in (1, 2)
    ]
    tables = made(
        configs,
        lambda config: None if config.lr == 0.1 and config.seed == 2 else 0.99,
        val_loss=lambda config: 0.03 if config.lr == 0.03 else 0.01,
    )
    assert said("held_out", tables)[0].startswith("Lowest held-out loss, mean of GN, LN: lr 0.03 (0.0300 nats)")
    assert "| lr 0.1 | 7,522 | diverged | diverged | diverged |" in choices.held_out_table(tables)
