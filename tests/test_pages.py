"""The experiments' pages, from tables made by hand: complete, no number for what is none, the same every time."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from helpers.project import PROJECT
from helpers.tables import made, measured, of_kind, said, trials

from normstudy.config import L1, VARIANTS, TrainConfig
from normstudy.experiment import About, Kind, load_experiment
from normstudy.figures import Picture
from normstudy.report import pages, sweeps
from normstudy.report.tables import ErrorTables, Tables
from normstudy.report.text import TEMPLATES
from normstudy.robustness import CORRUPTIONS

NAMES = sorted(path.stem for path in (PROJECT / "experiments").glob("*.py"))
ACCURACIES = {"bn": 0.985, "gn": 0.984, "ln": 0.9835, "in": 0.98, "none": 0.97}
DIVERGE = ("penalty", "collapse", "batch_size", "learning_rate")
NOT_A_NUMBER = re.compile(r"\b(nan|inf|None|NaT)\b")


def accuracy(config: TrainConfig) -> float:
    return ACCURACIES[config.norm] - 3 * config.l1 - 0.0002 * (config.seed * 7 % 5)


def wrong(config: TrainConfig) -> list[int]:
    """Images that all get wrong, those of a norm alone, and those of a seed."""
    return [7, 3520, *range(100, 105), *(200 + 20 * "bgli".index(config.norm[0]) + i for i in range(12 - config.seed))]


def experiment_tables(name: str, *, seeds: int = 0, diverging: bool = False) -> Tables:
    """All tables of an experiment of ours; `diverging` takes a whole cell of BN, and one run of GN."""
    experiment = load_experiment(PROJECT / "experiments" / f"{name}.py", {}, seeds=seeds)
    setting = {"penalty": "l1", "collapse": "l1", "batch_size": "batch_size", "learning_rate": "lr"}.get(name, "lr")
    highest = max(getattr(config, setting) for config in experiment.configs)
    last = [config for config in experiment.configs if config.norm == "gn"][-1:]

    def found(config: TrainConfig) -> float | None:
        lost = getattr(config, setting) == highest and config.norm == "bn"
        return None if diverging and (lost or config in last) else accuracy(config)

    tables = made(experiment.configs, found, wrong=wrong if name == "main" else None, about=experiment.about)
    kind = pages.KINDS[experiment.report].tables
    return of_kind(kind, tables, **{measure: measured(tables, ROWS[measure]) for measure in kind.measures()})


def shift_rows(config: TrainConfig) -> list[dict[str, Any]]:
    kinds = ["as trained", "re-estimated"] if config.norm == "bn" else ["as trained"]
    shifts = [("none", 0), *((name, severity) for name in CORRUPTIONS for severity in (1, 5))]
    return [
        {
            "statistics": kind,
            "corruption": name,
            "severity": level,
            "accuracy": accuracy(config) - level / 10,
            "loss": 1.0,
        }
        for kind in kinds
        for name, level in shifts
    ]


ROWS: dict[str, Any] = {
    "weights": lambda config: [{"zero_share": 0.01 + 5 * config.l1}],
    "statistics": lambda config: [row for row in shift_rows(config) if row["severity"] == 0],
    "shift": shift_rows,
    "calibration": lambda config: [
        {"temperature": 1.1 + 0.01 * config.seed, "nll": 0.04, "nll_scaled": 0.03, "ece": 0.004, "ece_scaled": 0.002}
    ],
    "reliability": lambda config: [
        {"scaled": scaled, "bin": place, "count": 5_000, "confidence": (place + 0.5) / 15, "accuracy": place / 15}
        for scaled in (0, 1)
        for place in (3, 14)
    ],
}


def sections(page: str) -> str:
    """The text without links and code, whose words are no numbers."""
    return re.sub(r"```.*?```", "", page, flags=re.DOTALL)


def page_of(name: str, tables: Tables) -> str:
    return pages.page(name, tables, pages.kind_of(tables).figures(tables))


def test_every_kind_that_an_experiment_may_name_has_a_row_and_a_template() -> None:
    assert set(pages.KINDS) == set(get_args(Kind))
    assert {f"{kind}.md" for kind in pages.KINDS} <= set(TEMPLATES.list_templates())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_question_prediction_method_command_n_and_each_figure_once(name: str) -> None:
    tables = experiment_tables(name, seeds=1)
    figures = {"means": Picture("Means of groups", "n = 1."), "test_loss": Picture("Test loss", "One seed.")}
    page, parts = pages.page(name, tables, figures), tables.about.parts
    assert page.startswith(f"# {parts['Question']}\n")
    shown = [part for part in parts if part not in ("Question", "Command")]
    assert len(shown) > 1
    assert [part for part in shown if f"**{part}.** " not in page] == []
    for command in parts["Command"].split(", then "):
        assert page.count(f"\n{command}\n") == 1
    assert re.search(r"\bn = \d+|\| n \|", sections(page))
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert [file for _, file in pictures] == [f"{figure}.png" for figure in figures]
    assert [text for text, _ in pictures] == [figure.title for figure in figures.values()]
    assert [page.count(f"\n\n{figure.caption}\n\n") for figure in figures.values()] == [1, 1]


@pytest.mark.parametrize("diverging", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_single_seeds_and_runs_that_diverged_are_no_number_and_tables_once_saved_give_the_same_page(
    name: str, diverging: bool, tmp_path: Path
) -> None:
    if diverging and name not in DIVERGE:
        return
    tables = experiment_tables(name, seeds=1 + diverging, diverging=diverging)
    kind = pages.kind_of(tables)
    figures = kind.figures(tables)
    page = pages.page(name, tables, figures)
    assert not NOT_A_NUMBER.search(sections(page)), page
    tables.save(tmp_path)
    assert pages.page(name, type(tables).load(tmp_path), figures) == page
    failed = int(tables.results["diverged_at"].notna().sum())
    assert ("| diverged |" in page, f"{len(tables.results)} runs, of which {failed} diverged. " in page) == (
        diverging,
        diverging,
    )


def test_an_experiment_of_yours_with_a_run_that_diverged_has_a_page() -> None:
    configs = [TrainConfig(norm=norm, seed=seed, epochs=2) for norm in ("gn", "bn", "ln") for seed in (0, 1)]
    lost = {("gn", 0), ("bn", 0), ("bn", 1)}
    tables = made(configs, lambda c: None if (c.norm, c.seed) in lost else 0.98 + 0.001 * c.seed, wrong=wrong)
    page = page_of("mine", tables)
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


def choice(name: str, losses: dict[str, list[float]], configs: list[TrainConfig] | None = None) -> Tables:
    """Held-out losses by norm, in the order of the experiment's runs."""
    configs = configs or trials(name)
    left = {norm: iter(values) for norm, values in losses.items()}
    by_key = {config.trial_key: next(left[config.norm]) for config in configs}
    size = {"small": 3890, "narrow": 3906, "narrowplain": 3378}
    return made(
        configs,
        lambda config: 0.98,
        val_loss=lambda config: by_key[config.trial_key],
        parameters=lambda config: size.get(config.network, 7522),
    )


RECIPES = [
    TrainConfig(norm=norm, l1=1e-5 if norm == "bn" and other != {"l1": 1e-6} else 0.0, val_size=500, **other)
    if "l1" not in other
    else TrainConfig(norm=norm, val_size=500, **other)
    for other in ({}, {"lr": 0.5, "rotation": 7.0}, {"l1": 1e-6})
    for norm in ("gn", "ln", "bn")
]


def test_held_out_choice_is_by_the_mean_of_the_norms_and_lambda_by_bn_alone() -> None:
    # means: 0.04, 0.03, and 0.02 with the other lambda, which has no say on the recipe
    tables = choice("recipe", {"gn": [0.03, 0.03, 0.01], "ln": [0.04, 0.03, 0.01], "bn": [0.05, 0.03, 0.04]}, RECIPES)
    lr, rotation = TrainConfig().lr, TrainConfig().rotation
    assert said("held_out", tables) == [
        f"Lowest held-out loss, mean of GN, LN, BN: lr 0.5, rotation 7 (0.0300 nats), before lr {lr:g}, rotation "
        f"{rotation:g} (0.0400 nats).",
        "Lambda, by BN's own held-out loss: 1e-06 (0.0400 nats), before 1e-05 (0.0500 nats).",
        "Configurations tried, by norm: GN 3, LN 3, BN 3. The test set was not used.",
    ]
    lines = sweeps.held_out_table(tables).splitlines()
    assert lines[0] == "| tried | parameters | GN | LN | BN | mean loss |"
    assert lines[2] == (
        f"| lr {lr:g}, rotation {rotation:g}, l1 1e-06 | 7,522 | 97.80 % / 0.0100 | 97.80 % / 0.0100 | "
        "97.80 % / 0.0400 | 0.0200 |"
    )
    assert lines[4].endswith("| 0.0400 |")
    assert lines[-1].startswith("Accuracy / loss (nats) on 500 held-out training images, last epoch, n = 1 run each,")


def test_networks_are_chosen_among_those_of_their_size() -> None:
    configs = [
        TrainConfig(norm=norm, network=network, val_size=500, l1=L1 if norm == "bn" else 0)
        for network in ("plain", "small", "late", "narrow")
        for norm in ("gn", "bn")
    ]
    losses = [0.03, 0.05, 0.02, 0.04]
    assert said("held_out", choice("networks", {"gn": losses, "bn": losses}, configs))[:2] == [
        "Under 4,000 parameters, lowest held-out loss, mean of GN, BN: network narrow (0.0400 nats), before network "
        "small (0.0500 nats).",
        "Under 8,000 parameters, lowest held-out loss, mean of GN, BN: network late (0.0200 nats), before network "
        "plain (0.0300 nats).",
    ]


def test_hours_are_epochs_times_seconds_shared_by_what_ran_at_once() -> None:
    configs = [TrainConfig(norm=norm, epochs=20, seed=seed) for norm in ("gn", "bn") for seed in (0, 1)]
    tables = made(configs, lambda config: None if config.norm == "bn" and config.seed else 0.98)
    # 3 runs of 20 epochs and one that ended after 1, 18 s an epoch, 2 processes: 61 * 18 / 2 s
    assert pages.hours(tables) == pytest.approx(61 * 9 / 3600)
    took = "4 runs, of which 1 diverged. Their epochs took 9.2 minutes, 2 processes at once, with 2 CPU cores to use."
    assert f"\n{took}\n" in pages.page("mine", tables, {})
    stacked = replace(tables, results=tables.results.assign(stack=3, side_by_side=1, cores=1, seconds_per_epoch=3600.0))
    assert pages.hours(stacked) == pytest.approx(61 / 3)
    assert "took 20.3 hours, one process at a time, with 1 CPU core to use.\n" in pages.page("mine", stacked, {})
    first = replace(tables, results=tables.results[:1])
    assert pages.effort([tables, first]) == pages.effort([first, tables]) == pytest.approx((4, 61 * 9 / 3600))


def test_text_that_looks_like_a_number_is_text_after_loading(tmp_path: Path) -> None:
    tables = experiment_tables("shift")
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
        (About(parts={"Scale-down": "to 4 epochs."}), "Exploratory, and short training: its comparisons"),
        (About(), "Exploratory: its comparisons"),
    ],
)
def test_page_says_whether_its_comparisons_were_planned(about: About, said: str) -> None:
    configs = [TrainConfig(**variant, seed=seed) for seed in range(3) for variant in VARIANTS]
    assert said in pages.page("mine", made(configs, lambda config: 0.99 + config.seed / 1_000, about=about), {})
