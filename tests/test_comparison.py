"""Groups of any experiment's runs: what is proposed, what is left out and why, and what is said of a pair."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from normstudy.comparison import Choice, Compared, compared
from normstudy.comparison.output import rendered, save
from normstudy.comparison.runs import LoggedRuns, spelled_once
from normstudy.comparison.selection import select
from normstudy.errors import ConfigError


def logged(*runs: Mapping[str, Any], curves: Mapping[str, Sequence[float]] | None = None) -> LoggedRuns:
    """Runs newest first, each of settings and metrics; `status`, `parent` and `deleted` may be given. `curves` are the
    points of every metric of all runs."""
    names = [f"run{number}" for number in range(len(runs))]
    of_run = {"status": "FINISHED", "parent": "", "deleted": False}
    rows = [
        {"name": name, "experiment": "e", "start": 0, **of_run, **run} for name, run in zip(names, runs, strict=True)
    ]
    index = pd.Index(names, name="run_id")
    table = pd.DataFrame(rows, index=index)
    own = ["name", "experiment", "status", "start", "parent", "deleted"]
    others = table.drop(columns=own)
    numbers = others.select_dtypes("number")
    settings = others.drop(columns=numbers.columns).map(spelled_once)

    def history(run_ids: Sequence[str], metric: str) -> pd.DataFrame:
        points = [
            (run_id, step, value) for run_id in run_ids for step, value in enumerate((curves or {}).get(metric, []))
        ]
        return pd.DataFrame(points, columns=["run_id", "step", "value"])

    kinds = dict.fromkeys(settings, "params")
    return LoggedRuns(runs=table[own], settings=settings, metrics=numbers.astype(float), kinds=kinds, history=history)


def runs_of(**values: Sequence[float]) -> list[dict[str, Any]]:
    """A run for each model and seed, with this accuracy."""
    return [
        {"model": model, "seed": str(seed), "accuracy": value}
        for model, row in values.items()
        for seed, value in enumerate(row)
    ]


APART = runs_of(a=[0.91, 0.92, 0.93, 0.92], b=[0.81, 0.83, 0.82, 0.82])


def why_left_out(found: LoggedRuns, choice: Choice | None = None) -> dict[str, str]:
    """Run to reason."""
    left_out = select(found, choice or Choice()).left_out
    return dict(zip(left_out["run_id"], left_out["why"], strict=True))


def test_what_varies_makes_groups_and_what_is_named_like_a_seed_pairs() -> None:
    runs = [
        {**run, "family": run["model"], "data": "digits", "output": f"/x/{number}"} for number, run in enumerate(APART)
    ]
    choice = compared(logged(*runs), Choice()).choice
    assert (choice.group_by, choice.pair_by, choice.metric) == (("model",), "seed", "accuracy")
    assert choice.higher_is_better


def test_two_settings_that_vary_independently_make_groups_together() -> None:
    runs = [{**run, "rate": rate} for rate in ("0.1", "0.01") for run in APART]
    found = compared(logged(*runs), Choice())
    assert found.choice.group_by == ("model", "rate")
    assert list(found.groups["n"]) == [4, 4, 4, 4]


@pytest.mark.parametrize("spelling", ["0.10", "1e-1", " 0.1", "0.1"])
def test_spelling_of_a_number_makes_no_group(spelling: str) -> None:
    runs = [{**run, "rate": spelling if run["seed"] == "0" else "0.1"} for run in APART]
    assert compared(logged(*runs), Choice()).choice.group_by == ("model",)


@pytest.mark.parametrize(
    ("metric", "higher"), [("val_loss", False), ("rmse", False), ("f1", True), ("test/accuracy", True)]
)
def test_direction_follows_from_the_metrics_name_and_can_be_said(metric: str, higher: bool) -> None:
    runs = [{**run, metric: run["accuracy"]} for run in APART]
    found = compared(logged(*runs), Choice(metric=metric))
    assert found.comparisons[0].winner == ("a" if higher else "b")
    said = compared(logged(*runs), Choice(metric=metric, higher_is_better=not higher))
    assert said.comparisons[0].winner == ("b" if higher else "a")


def test_metric_that_most_runs_have_is_compared_and_of_several_a_test_accuracy() -> None:
    runs = [{**run, "system/cpu": 1.0, "train_loss": 0.1, "test_loss": 0.2, "test_acc": 0.9} for run in APART]
    assert select(logged(*runs), Choice()).choice.metric == "test_acc"
    assert select(logged(*runs, {"model": "a", "seed": "9", "train_loss": 0.1}), Choice()).choice.metric == "train_loss"


@pytest.mark.parametrize(
    ("names", "metric"),
    [
        (["accuracy", "loss", "val_accuracy", "val_loss"], "val_accuracy"),  # as Keras logs
        (["epoch", "eval_loss", "eval_runtime", "grad_norm", "loss"], "eval_loss"),  # as transformers does
        (["epoch", "grad_norm", "learning_rate", "loss"], "loss"),
    ],
)
def test_of_the_metrics_that_libraries_log_by_themselves_a_result_is_compared(names: list[str], metric: str) -> None:
    runs = [{"model": run["model"], "seed": run["seed"], **dict.fromkeys(names, run["accuracy"])} for run in APART]
    assert select(logged(*runs), Choice()).choice.metric == metric


def test_runs_that_do_not_count_are_named_with_the_reason() -> None:
    parent = {"model": "a", "seed": "0", "accuracy": 0.5, "name": "study"}
    found = logged(
        *APART[:-1],
        {**APART[-1], "parent": "run8"},
        parent,
        {**APART[0], "status": "RUNNING"},
        {**APART[0], "status": "FAILED", "deleted": True},
        {**APART[0], "accuracy": math.inf},
        {"model": "a", "seed": "0", "other": 1.0},
        APART[0],
    )
    found.runs.loc["run7", "parent"] = "run8"
    assert why_left_out(found, Choice(metric="accuracy")) == {
        "run8": "parent of other runs",
        "run9": "not finished: running",
        "run10": "deleted",
        "run11": "not finite",
        "run12": "no metric accuracy",
        "run13": "an older run of the same group and seed",
    }


def test_metric_is_taken_at_the_step_that_is_asked_for() -> None:
    found = logged(*APART, curves={"accuracy": [0.1, 0.5, 0.4]})
    assert set(select(found, Choice(at="1")).values["value"]) == {0.5}
    with pytest.raises(ConfigError, match=r"metric=accuracy: no run has a finite value; 8 no accuracy at 7"):
        select(found, Choice(at="7"))
    with pytest.raises(ConfigError, match="at=first: expected last, a step, or best:METRIC"):
        select(found, Choice(at="first"))


def test_step_can_be_that_at_which_another_metric_is_best() -> None:
    curves = {"accuracy": [0.1, 0.5, 0.4], "val_loss": [3.0, 2.0, 1.0], "val_f1": [0.1, 0.9, 0.8]}
    found = logged(*({**run, "val_loss": 0.3, "val_f1": 0.3} for run in APART), curves=curves)
    for criterion, value in (("val_loss", 0.4), ("val_f1", 0.5)):
        best = select(found, Choice(metric="accuracy", at=f"best:{criterion}"))
        assert set(best.values["value"]) == {value}
        assert best.notes == ()
    [note] = select(found, Choice(metric="accuracy", at="best:accuracy")).notes
    assert "means are too good" in note


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(metric="acc"), "metric=acc: no run that counts has it; choose from accuracy"),
        (Choice(group_by=("modle",)), "group-by=modle: no run that counts has it; choose from accuracy, model, seed"),
        (Choice(group_by=("tags.model",)), "group-by=tags.model: no run"),
        (Choice(baseline="c"), "baseline=c: no run that counts has it; choose from a, b"),
    ],
)
def test_what_no_run_has_is_refused_with_the_choices(choice: Choice, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        compared(logged(*APART), choice)


def test_runs_that_differ_in_nothing_make_no_groups() -> None:
    with pytest.raises(ConfigError, match=r"no setting makes groups of runs \(varying: none\)"):
        select(logged(*APART[:4]), Choice())


def test_seeds_that_one_group_lacks_are_not_compared_and_the_note_says_so() -> None:
    found = compared(logged(*APART[:-1]), Choice())
    assert (found.comparisons[0].n, found.comparisons[0].paired) == (3, True)
    assert "the groups have different seeds" in rendered(found, "text", command="")


def test_runs_without_a_seed_are_compared_unpaired_and_the_note_says_so() -> None:
    found = compared(
        logged(*({name: value for name, value in run.items() if name != "seed"} for run in APART)), Choice()
    )
    assert (found.choice.pair_by, found.comparisons[0].paired) == ("none", False)
    assert list(found.groups["n"]) == [4, 4]
    assert "not paired (Welch)" in rendered(found, "text", command="")


def test_two_seeds_give_no_verdict() -> None:
    found = compared(logged(*runs_of(a=[0.9, 0.91], b=[0.1, 0.11])), Choice())
    assert "inconclusive: fewer than 3 seeds" in rendered(found, "text", command="")


def test_baseline_is_compared_with_each_other_group_alone() -> None:
    found = compared(logged(*APART, *runs_of(c=[0.5, 0.52, 0.51, 0.5])), Choice(baseline="b"))
    assert [(pair.a, pair.b) for pair in found.comparisons] == [("a", "b"), ("c", "b")]


def test_command_that_is_printed_makes_the_same_choice() -> None:
    found = compared(logged(*APART), Choice(margin=0.01))
    expected = "--group-by model --pair-by seed --metric accuracy --at last --margin 0.01"
    assert found.choice.options() == expected
    assert compared(logged(*APART), found.choice).choice == found.choice


def hostile() -> Compared:
    """Groups whose names are Markdown, HTML, terminal codes and a formula."""
    names = ["<b>|[x](http://y)", "\x1b[31mred", "=1+1", "[bold]$x^2$"]
    values = {
        name: [0.1 * number + 0.01 * seed * number for seed in range(1, 5)] for number, name in enumerate(names, 1)
    }
    return compared(logged(*runs_of(**values)), Choice(margin=0.5))


def test_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    found = hostile()
    markdown, text = rendered(found, "markdown", command="x"), rendered(found, "text", command="x")
    assert "<b>" not in markdown
    assert "[x](" not in markdown
    assert "\x1b" not in text + markdown
    assert "[bold]" in text
    save(found, tmp_path, command="x")
    cells = pd.read_csv(tmp_path / "groups.csv")["group"]
    assert "'=1+1" in set(cells)


def test_comparison_is_saved_as_tables_markdown_and_figures(tmp_path: Path) -> None:
    found = compared(logged(*APART, curves={"accuracy": [0.1, 0.5, 0.4]}), Choice())
    names = save(found, tmp_path, command="x")
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert {"groups.csv", "pairs.csv", "comparison.md", "means.png", "differences.svg", "curves.png"} <= set(names)
    assert pd.read_csv(tmp_path / "pairs.csv")["difference"][0] == pytest.approx(0.1)


def test_json_has_every_number_and_null_for_none() -> None:
    said = json.loads(
        rendered(compared(logged(*runs_of(a=[0.9], b=[0.1])), Choice(group_by=("model",))), "json", command="x")
    )
    assert said["groups"][0] | {"mean": 0.9, "low": None, "sd": None} == said["groups"][0]
    assert said["pairs"][0]["verdict"] == "inconclusive"


def test_power_needs_a_margin() -> None:
    with pytest.raises(ConfigError, match="margin=0: expected the difference that is to be shown"):
        compared(logged(*APART), Choice()).power()
    assert compared(logged(*APART), Choice(margin=0.01)).power()["n_for_margin"][0] >= 3
