"""The log says of each bet what the exported tables say of it, and quotes what they say."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from helpers.project import PROJECT

from normstudy.config import TrainConfig
from normstudy.report import compare as answers
from normstudy.report import exported_in, penalties, sweeps
from normstudy.report import robustness as behaviour
from normstudy.report.pages import PAGES, tried
from normstudy.report.text import comparisons
from normstudy.stats import MARGIN

LOG = (PROJECT / "experiments" / "LOG.md").read_text()
ENTRIES = dict(re.findall(r"^## [\d-]+: (\w+)\.py\n(.*?)(?=^## |\Z)", LOG, re.MULTILINE | re.DOTALL))


EXPORTED = [folder.name for folder in exported_in(PROJECT / "results")]


def tables_of(name: str) -> Any:
    return PAGES[name].tables.load(PROJECT / "results" / name)


def means(name: str) -> dict[str, float]:
    return tables_of(name).results.groupby("group", sort=False)["test_accuracy"].mean().to_dict()


LOW = 0.95


def losses(name: str, column: str) -> dict[object, float]:
    return tables_of(name).results.groupby(column)["val_loss"].mean().to_dict()


def beats_the_recipes(name: str, networks: tuple[str, ...], recipes: str) -> bool:
    loss = losses(name, "network")
    tries = tried(tables_of(recipes).results).groupby("tried")["val_loss"].mean()
    return min(loss[network] for network in networks) < tries.min()


def networks() -> list[bool]:
    loss = losses("networks", "network")
    return [min(loss["deep"], loss["late"]) < min(loss["plain"], loss["wide"])]


def recipe() -> list[bool]:
    tables = tables_of("recipe").results
    smaller = tables.loc[tables["batch_size"] == 32, "val_loss"].mean()
    return [smaller < tables.loc[tables["rotation"] == 7, "val_loss"].mean()]


def assignment() -> list[bool]:
    mean = means("assignment")
    close = all(abs(pair.difference) <= MARGIN for pair in comparisons(tables_of("assignment")))
    return [close, min(mean["LN"], mean["GN"]) > mean["BN + L1"]]


def small_recipe() -> list[bool]:
    tables = tables_of("small_recipe").results
    return [bool(tables.groupby("rotation")["val_loss"].mean().idxmin() < TrainConfig().rotation)]


def small_networks() -> list[bool]:
    return [beats_the_recipes("small_networks", ("fine", "finer", "finewide"), "small_recipe")]


def small() -> list[bool]:
    return [next(iter(means("small").values())) >= 0.9945]


def fine_networks() -> list[bool]:
    return [beats_the_recipes("fine_networks", ("finelarge", "finelast", "finedeep"), "recipe")]


def fine() -> list[bool]:
    mean = means("fine").values()
    close = all(abs(pair.difference) <= MARGIN for pair in comparisons(tables_of("fine")))
    return [close, min(mean) >= answers.EVERY, max(mean) >= answers.BEST]


def factorial() -> list[bool]:
    tables, mean = tables_of("factorial"), means("factorial")
    penalty = comparisons(tables, answers.factorial_pairs(tables))[:5]
    norms = [mean[norm] for norm in ("BN", "GN", "LN", "IN")]
    return [
        all(abs(pair.difference) <= MARGIN for pair in penalty),
        min(norms) - mean["NONE"] > max(norms) - min(norms),
    ]


def penalty() -> list[bool]:
    tables = tables_of("penalty")
    mean = sweeps.by_norm(tables).pivot_table(index="l1", columns="group", values="test_accuracy")
    lost = mean.loc[0.0] - mean
    both = penalties.statistics(tables).pivot_table(index="l1", columns="statistics", values="accuracy")
    return [
        bool((lost.loc[:1e-5] <= MARGIN).all().all()),
        bool((lost.loc[1e-3] > MARGIN).all() and (lost.loc[1e-2, "BN"] > lost.loc[1e-2, ["GN", "LN"]]).all()),
        bool(both.loc[1e-2, "re-estimated"] - both.loc[1e-2, "as trained"] > 0.1),
    ]


def collapse() -> list[bool]:
    tables = tables_of("collapse")
    rows = penalties.suspects(tables)
    rows = rows[rows["norm"] == "bn"]
    mean = rows.pivot_table(index="l1", columns="group", values="test_accuracy")
    ended, rising = (mean[f"all parameters, rate ends at {end}"] for end in ("0", "its peak"))
    both = penalties.statistics(tables, rows[rows["group"] == rising.name])
    kinds = both.pivot_table(index="l1", columns="statistics", values="accuracy")[rising < LOW]
    lost = rising[0.0] - kinds["as trained"]
    return [
        bool((ended[:1e-3] < LOW).any()),
        bool((rising < ended).all()),
        bool(len(lost) and ((kinds["re-estimated"] - kinds["as trained"]) > lost / 2).all()),
    ]


def batch_size() -> list[bool]:
    errors = 1 - sweeps.tuned(tables_of("batch_size")).pivot_table(
        index="batch_size", columns="group", values="test_accuracy"
    )
    times = errors.loc[2] / errors.loc[64]
    return [times["BN"] >= 2, bool((times[["GN", "LN"]] < 2).all())]


def learning_rate() -> list[bool]:
    rows = sweeps.by_norm(tables_of("learning_rate"))
    highest = rows[rows["test_accuracy"] >= sweeps.TRAINS].groupby("group")["lr"].max()
    norms = highest.drop("NONE")
    return [bool((norms > highest["NONE"]).all()), norms["BN"] == norms.max() and (norms == norms.max()).sum() == 1]


def groups() -> list[bool]:
    tables, mean = tables_of("groups"), means("groups")
    numbers = [value for group, value in mean.items() if group != "IN"]
    worse = [pair for pair in comparisons(tables, answers.groups_pairs(tables)) if "IN" in (pair.a, pair.b)]
    return [max(numbers) - min(numbers) <= MARGIN, [pair.winner for pair in worse] == ["LN"]]


def shift() -> list[bool]:
    mean = behaviour.shifted_means(tables_of("shift")).mean()
    return [mean.idxmin() == "BN", mean.idxmax() == "BN, re-estimated"]


def calibration() -> list[bool]:
    table = tables_of("calibration").calibration
    assert table is not None
    mean = table.groupby("group").mean(numeric_only=True)
    return [bool((mean["temperature"] > 1).all()), bool((mean["nll_scaled"] < mean["nll"]).all())]


def fashion() -> list[bool]:
    digits, clothes = means("assignment"), means("fashion")
    return [sorted(digits, key=lambda group: digits[group]) != sorted(clothes, key=lambda group: clothes[group])]


BETS: dict[str, Callable[[], list[bool]]] = {
    bet.__name__: bet
    for bet in (
        networks,
        recipe,
        assignment,
        small_recipe,
        small_networks,
        small,
        fine_networks,
        fine,
        factorial,
        penalty,
        collapse,
        batch_size,
        learning_rate,
        groups,
        shift,
        calibration,
        fashion,
    )
}


def test_every_experiment_has_a_bet_and_an_entry_or_is_said_to_have_no_results_yet() -> None:
    pending = set(re.findall(r"(\w+)\.py", LOG.partition("## Not run yet")[2].partition("\n## ")[0]))
    assert set(BETS) == set(PAGES)
    assert set(ENTRIES) == set(EXPORTED) == set(PAGES) - pending


@pytest.mark.parametrize("name", EXPORTED)
def test_bet_is_called_won_or_lost_as_the_tables_say(name: str) -> None:
    parts = BETS[name]()
    word = "won" if all(parts) else "lost" if not any(parts) else "won in part"
    assert re.findall(r"^\*\*Bet (won|lost|won in part)\.\*\*", ENTRIES[name], re.MULTILINE) == [word], parts


@pytest.mark.parametrize("name", EXPORTED)
def test_log_quotes_what_the_tables_say(name: str) -> None:
    quotes = [" ".join(text.split()) for text in re.findall(r"^> (.*(?:\n> .*)*)", ENTRIES[name], re.MULTILINE)]
    quotes = [re.sub(r" > ", " ", quote) for quote in quotes]
    assert quotes
    said = " ".join([*PAGES[name].findings(tables_of(name)), PAGES[name].table(tables_of(name))])
    assert [quote for quote in quotes if quote not in " ".join(said.split())] == []
