"""The experiments' pages, from tables made by hand: complete, no number for what is none, the same every time."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from helpers.project import PROJECT
from helpers.tables import made, measured, of_kind, said, trials

from normstudy.config import VARIANTS, TrainConfig
from normstudy.experiment import About, Kind
from normstudy.report import load_all, measures, pages, sweeps
from normstudy.report.tables import CollapseTables, ErrorTables, Tables
from normstudy.report.text import TEMPLATES

EXPORTED = load_all(PROJECT / "results")
NAMES = {tables.about.report: name for name, tables in EXPORTED.items()}.values()  # one experiment of each kind
DIVERGE = {"penalty": "l1", "collapse": "l1", "batch_size": "batch_size", "learning_rate": "lr"}
NUMBERS = ["test_accuracy", "test_loss", "train_accuracy", "val_accuracy", "val_loss", "errors"]
NOT_A_NUMBER = re.compile(r"\b(nan|inf|None|NaT)\b")


def part_of(name: str, *, seeds: int, diverging: str = "") -> Tables:
    """The lowest seeds of an export, of which BN at the highest value of the setting `diverging`, and a run of GN, have
    diverged after an epoch."""
    tables = EXPORTED[name]
    results = tables.results[tables.results["seed"] < tables.results["seed"].min() + seeds].copy()
    lost = pd.Series(bool(diverging), results.index)
    if diverging:
        lost &= (results["norm"] == "bn") & (results[diverging] == results[diverging].max())
        lost[results.index[results["norm"] == "gn"][-1]] = True
    results.loc[lost, "diverged_at"], results.loc[lost, NUMBERS] = 7, np.nan
    ended = results.loc[~lost, "run_id"]
    frames = {name: rows[rows["run_id"].isin(ended)] for name, rows in tables.frames().items() if "run_id" in rows}
    epochs = tables.epochs[tables.epochs["run_id"].isin(results.loc[lost, "run_id"]) & (tables.epochs["epoch"] == 1)]
    kept = tables.provenance[tables.provenance["run_id"].isin(results["run_id"])]
    together = pd.concat([frames["epochs"], epochs], ignore_index=True)
    return replace(tables, **{**frames, "results": results, "epochs": together, "provenance": kept})


def test_every_kind_that_an_experiment_may_name_has_a_row_and_a_template() -> None:
    assert set(pages.KINDS) == set(get_args(Kind))
    assert {f"{kind}.md" for kind in pages.KINDS} <= set(TEMPLATES.list_templates())


@pytest.mark.parametrize(("name", "setting"), [*((name, "") for name in NAMES), *DIVERGE.items()])
def test_single_seeds_and_runs_that_diverged_are_no_number_and_tables_once_saved_give_the_same_page(
    name: str, setting: str, tmp_path: Path
) -> None:
    tables = part_of(name, seeds=1 + bool(setting), diverging=setting)
    kind = pages.kind_of(tables)
    figures = kind.figures(tables)
    page = pages.page(name, tables, figures)
    assert not NOT_A_NUMBER.search(re.sub(r"```.*?```", "", page, flags=re.DOTALL)), page  # but for code
    tables.save(tmp_path)
    assert pages.page(name, type(tables).load(tmp_path), figures) == page
    failed = int(tables.results["diverged_at"].notna().sum())
    assert failed or not setting
    assert (
        ("| diverged |" in page)
        == (f"{len(tables.results)} runs, of which {failed} diverged. " in page)
        == (failed > 0)
    )


def test_an_experiment_of_yours_with_a_run_that_diverged_has_a_page() -> None:
    configs = [TrainConfig(norm=norm, seed=seed, epochs=2) for norm in ("gn", "bn", "ln") for seed in (0, 1)]
    lost = {("gn", 0), ("bn", 0), ("bn", 1)}
    tables = made(
        configs, lambda c: None if (c.norm, c.seed) in lost else 0.98 + 0.001 * c.seed, wrong=lambda config: [7, 3520]
    )
    page = pages.page("mine", tables, pages.kind_of(tables).figures(tables))
    rows = re.findall(r"^\| (?:GN|BN|LN) .*$", page, re.MULTILINE)
    assert rows[:2] == ["| GN | 2 | 98.10 %, 1 of 2 diverged |  | 0.0981 |", "| BN | 2 | diverged |  |  |"]
    assert rows[2].startswith("| LN | 2 | 98.05 % (97.41 to 98.69")
    assert not NOT_A_NUMBER.search(page)
    block = pages.answer_block(tables, figures_at=Path("report"))
    assert rows[0] in block
    shown = re.findall(r"\]\(report/(\w+)\.png\)", block)
    assert shown == ["test_loss", "test_accuracy", "misclassified_ln"]
    assert set(shown) <= set(pages.kind_of(tables).figures(tables))


def test_cells_of_a_sweep_are_means_and_tell_how_many_diverged() -> None:
    values = {("gn", 0): 0.98, ("gn", 1): 0.97, ("bn", 0): None, ("bn", 1): 0.96, ("ln", 0): None, ("ln", 1): None}
    configs = [TrainConfig(norm=norm, lr=0.1, seed=seed) for norm, seed in values]
    tables = made([*configs, TrainConfig(norm="gn", lr=0.5)], lambda c: values[c.norm, c.seed] if c.lr < 0.5 else 0.9)
    assert sweeps.sweep_table(tables, "lr").splitlines()[:4] == [
        "| learning rate | GN | BN | LN |",
        "|---|---|---|---|",
        "| 0.1 | 97.50 % | 96.00 %, 1 of 2 diverged | diverged |",
        "| 0.5 | 90.00 % |  |  |",  # nothing ran there, so nothing diverged
    ]


def test_text_that_looks_like_a_number_is_text_after_loading(tmp_path: Path) -> None:
    tables = EXPORTED["shift"]
    black = pd.DataFrame({"index": [3, 4], "pixels": ["00" * 784, "1e" + "05" * 783]})
    numbered = {run_id: f"{place:032}" for place, run_id in enumerate(tables.results["run_id"])}
    named = {name: table for name, table in tables.frames().items() if "run_id" in table}
    digits = {name: table.assign(run_id=table["run_id"].map(numbered)) for name, table in named.items()}
    of_kind(ErrorTables, replace(tables, **digits), images=black).save(tmp_path)
    loaded = ErrorTables.load(tmp_path)
    assert loaded.images["pixels"].tolist() == black["pixels"].tolist()
    assert loaded.results["run_id"].tolist() == [*numbered.values()]
    assert loaded.results["group"].tolist() == tables.results["group"].tolist()
    assert "NONE" in set(loaded.results["group"])
    assert "none" in set(loaded.results["norm"])
    assert loaded.configs() == tables.configs()
    assert loaded.results["diverged_at"].isna().all()


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (About(parts={"Status": "confirmatory."}), "**Status.** Confirmatory."),
        (About(parts={"Scale-down": "to 4 epochs."}), "Exploratory, and short training: p-values"),
        (About(), "Exploratory: p-values"),
    ],
)
def test_page_says_whether_its_comparisons_were_planned(about: About, said: str) -> None:
    configs = [TrainConfig(**variant, seed=seed) for seed in range(3) for variant in VARIANTS]
    assert said in pages.page("mine", made(configs, lambda config: 0.99 + config.seed / 1_000, about=about), {})


def test_each_norms_own_best_recipe_stands_beside_the_first_one_tried() -> None:
    tables = made(
        trials("tuning"), lambda config: 0.99, val_loss=lambda config: 0.05 + config.lr * (config.norm != "gn")
    )
    found = [text for text in said("held_out", tables) if "own lowest" in text]
    assert len(found) == 3
    assert found[2].startswith("BN's own lowest held-out loss: batch_size 16, lr 0.00")
    assert (
        "with the recipe that was tried first 0.0800 nats. What is best of one seed changes the loss of the" in found[2]
    )
    assert "others by -29.2 % and -29.2 % against the recipe that was tried first." in found[2]
    assert "tried first 0.0500 nats" in found[0]


def test_collapse_is_told_by_each_way_to_penalise_under_each_schedule() -> None:
    configs = trials("collapse", seeds=1)
    kinds = [{"statistics": kind, "accuracy": 0.9} for kind in ("as trained", "re-estimated")]
    tables = made(configs, lambda config: 0.97 if config.l1_method == "proximal" else 0.99 - 10 * config.l1)
    told = of_kind(
        CollapseTables,
        tables,
        statistics=measured(tables, lambda config: kinds if config.norm == "bn" else kinds[:1]),
    )
    [first] = [text for text in said("collapse", told) if text.startswith("BN with L1 on all weights")]
    assert "89.00 % (rate ends at 0), 89.00 % (rate ends at its peak)." in first
    table = measures.collapse_table(told).splitlines()
    for ends in ("rate ends at 0", "rate ends at its peak"):
        [proximal] = [row for row in table if f"BN | weights by proximal steps, {ends} |" in row]
        assert proximal.endswith("| 97.00 % | 97.00 % |  |")  # of one seed nothing is compared
        for summed in ("weights", "convolutions", "linear layer"):
            [usual] = [row for row in table if row.startswith(f"| BN | {summed}, {ends} |")]
            assert usual.split(" | ")[5] == "89.00 %"
    assert not any("differ significantly" in text for text in said("collapse", told))
    assert len([row for row in table if row.startswith("|")]) == 2 + 22
    assert set(measures.collapse_figures(told)) == {"error_rate"}


def test_ways_to_penalise_are_compared_with_the_usual_one_under_the_same_schedule() -> None:
    configs = [config for config in trials("collapse", seeds=5) if config.l1 in (0.0, 0.01)]
    kinds = [{"statistics": kind, "accuracy": 0.9} for kind in ("as trained", "re-estimated")]

    def accuracy(config: TrainConfig) -> float | None:
        if config.norm == "gn" and config.l1_on == "all":
            return None
        plain = config.l1_method == "proximal" or not config.l1
        return 0.96 if plain else 0.86 + 0.001 * (config.seed % 2)

    tables = made(configs, accuracy)
    told = of_kind(
        CollapseTables, tables, statistics=measured(tables, lambda config: kinds[: 1 + (config.norm == "bn")])
    )
    [differing] = [text for text in said("collapse", told) if "differ significantly" in text]
    assert "BN, weights by proximal steps, rate ends at its peak +10.0 points" in differing
    table = measures.collapse_table(told)
    assert (
        "| BN | weights by proximal steps, rate ends at its peak | 96.00 % | 96.00 % | +10.0 (+9.8 to +10.1; p" in table
    )
    assert "| GN | linear layer, rate ends at 0 | 96.00 % | 86.04 % | 0.0 (" in table
    assert "GN, linear layer" not in differing
    [diverged] = [row for row in table.splitlines() if "GN | all parameters, rate ends at 0" in row]
    assert diverged.endswith("|  |")  # and not compared
    facts = measures.collapse_facts(told)["smallest"]["GN"]
    assert np.isnan(facts["weights by proximal steps, rate ends at 0"])
    assert facts["all parameters, rate ends at 0"] == 0.01  # a seed diverged
