"""All experiments together: pooled differences, and the claims of others."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.project import PROJECT
from helpers.tables import made

from normstudy.config import VARIANTS, TrainConfig
from normstudy.experiment import About
from normstudy.report import load_all, overview, overview_files
from normstudy.report.tables import Tables

EXPORTED = load_all(PROJECT / "results")


def full(title: str, *, seeds: int = 4, shift: float = 0.0, **settings: object) -> Tables:
    """An experiment of the three variants, of which GN is better by `shift`."""
    configs = [TrainConfig(**variant, seed=seed, **settings) for seed in range(seeds) for variant in VARIANTS]
    noise = np.random.default_rng(len(title)).normal(0, 0.0005, size=len(configs))
    found = {config: 0.995 + shift * (config.norm == "gn") + one for config, one in zip(configs, noise, strict=True)}
    return made(configs, found.__getitem__, about=About(title=title))


def test_only_full_size_experiments_of_the_three_variants_are_pooled_and_no_run_twice() -> None:
    every = {
        "ten": full("ten", seeds=10),
        "part": full("part", seeds=3),  # the first three seeds of the same trials
        "again": full("again", seeds=10),  # all of them
        "other": full("other", network="small"),
        "short": full("short", network="deep", epochs=4),
        "few": full("few", network="deep", seeds=2),
        "fewer images": full("fewer images", network="deep", train_size=20_000),
    }
    assert set(overview.replicates(every)) == {"ten", "other"}


def test_pooled_difference_is_the_mean_weighted_by_the_inverse_variance() -> None:
    accuracies = overview.replicates({"a": full("a", network="deep"), "bcd": full("bcd", seeds=10)})
    [gn_ln, *_] = overview.pooled(accuracies)
    differences = [table["GN"] - table["LN"] for table in accuracies.values()]
    weights = np.array([len(one) / one.var() for one in differences])
    mean = (weights * [one.mean() for one in differences]).sum() / weights.sum()
    assert (gn_ln.a, gn_ln.b, gn_ln.pairs) == ("GN", "LN", 14)
    assert gn_ln.fixed == pytest.approx(
        (mean, mean - 1.96 / weights.sum() ** 0.5, mean + 1.96 / weights.sum() ** 0.5), rel=1e-3
    )
    assert gn_ln.random[2] - gn_ln.random[1] > gn_ln.fixed[2] - gn_ln.fixed[1]


def test_interval_of_the_random_effects_holds_the_mean_in_95_percent_of_simulations() -> None:
    generator, held, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        true = 0.0002 + generator.normal(0, 0.0004, size=4)  # a difference that varies between experiments
        tables = {
            str(place): pd.DataFrame({"a": mean + generator.normal(0, 0.0006, size=10), "b": np.zeros(10)})
            for place, mean in enumerate(true)
        }
        [pair] = overview.pooled(tables)
        held += pair.random[1] <= 0.0002 <= pair.random[2]
    assert held / runs > 0.93


def test_a_study_of_single_runs_is_every_choice_of_a_seed_for_each_group() -> None:
    tables = full("three", seeds=3, shift=0.0002)
    values = tables.results.groupby("group", sort=False)["test_accuracy"].apply(list)
    choices = list(itertools.product(*values))
    found = overview.one_run_each(tables)
    wins = [sum(choice[place] == max(choice) for choice in choices) for place in range(3)]
    assert list(found["first"].values()) == pytest.approx([count / len(choices) for count in wins])
    assert found["apart"] == pytest.approx(np.median([max(choice) - min(choice) for choice in choices]))


def test_claims_are_answered_from_the_tables() -> None:
    rows = overview.reported(EXPORTED)
    assert [len(row) for row in rows] == [3] * len(rows)
    assert all(all(row) for row in rows)
    means = EXPORTED["thirty_seeds"].results.groupby("group")["test_accuracy"].mean()
    assert all(f"{name} {100 * mean:.2f} %" in rows[-1][1] for name, mean in means.items())
    assert overview.reported({name: one for name, one in EXPORTED.items() if name != "penalty"}) == []


def test_page_that_is_committed_is_what_the_export_gives() -> None:
    folder = PROJECT / "docs" / "experiments" / overview.NAME
    files = overview_files(EXPORTED)
    assert {path.name for path in folder.iterdir()} >= {"index.md", "pooled.png"}
    assert files["index.md"] == (folder / "index.md").read_bytes()


def test_nothing_is_written_of_an_export_that_has_nothing_to_pool(tmp_path: Path) -> None:
    assert overview_files({"one": full("one")}) == {}
