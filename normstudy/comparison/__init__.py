"""Compares groups of runs of any MLflow experiment over seeds: means with intervals, differences with verdicts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from normstudy.comparison.runs import LoggedRuns, from_export, from_server
from normstudy.comparison.selection import Choice as Choice
from normstudy.comparison.selection import Selection, select
from normstudy.errors import ConfigError
from normstudy.stats import Comparison, compare_pairs, mean_interval, seeds_for_power, seeds_to_decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_GROUPS = 12  # beyond which all pairs are 66 and more: with a baseline each group has one


@dataclass(frozen=True, kw_only=True)
class Compared(Selection):
    """What a comparison found, beside what was chosen and left out.

    `groups` has a row a group: group, n, mean, low, high (95 % interval of the mean, Student's t), sd, lowest, highest.
    `pairs` has a row a pair, with the fields of `stats.Comparison`, and `seeds_to_decide`.
    """

    groups: pd.DataFrame
    pairs: pd.DataFrame
    comparisons: list[Comparison]
    logged: LoggedRuns

    def curves(self) -> dict[str, pd.DataFrame]:
        """The metric of the runs that count, keyed by group: a row a step, a column a seed."""
        points = self.logged.history(list(self.values["run_id"]), self.choice.metric)
        named = points.merge(self.values[["run_id", "group", "seed"]], on="run_id")
        by_group = named.groupby("group", sort=False, observed=True)
        return {str(group): rows.pivot(index="step", columns="seed", values="value") for group, rows in by_group}

    def figures(self) -> dict[str, "Figure"]:
        """The groups' seeds and means; the differences, where there are pairs; the curves, where a run has steps."""
        from normstudy.comparison.output import figures

        return figures(self)

    def power(self) -> pd.DataFrame:
        """For each pair: the standard deviation of its difference, and the n that shows a difference of the margin in
        80 % of studies. Raises `ConfigError` without a margin."""
        if not self.choice.margin:
            raise ConfigError("margin=0: expected the difference that is to be shown, such as --margin 0.001")
        rows = []
        for pair in self.comparisons:
            deviation = pair.error * pair.n**0.5
            several = {"comparisons": len(self.comparisons)}
            n = seeds_for_power(deviation, self.choice.margin, **several) if deviation > 0 else None
            rows.append({"a": pair.a, "b": pair.b, "sd_of_difference": deviation, "n_for_margin": n})
        return pd.DataFrame(rows, columns=["a", "b", "sd_of_difference", "n_for_margin"]).astype(
            {"n_for_margin": float}
        )


def compare(
    *experiments: str,
    group_by: Sequence[str] = (),
    pair_by: str = "",
    metric: str = "",
    at: str = "last",
    filter_string: str = "",
    higher_is_better: bool | None = None,
    margin: float = 0.0,
    baseline: str = "",
    export: Path | None = None,
) -> Compared:
    """Compare the runs of these experiments, by name or id, on the tracking server in use, or of an export.

    What is not given is proposed from the runs: the settings that vary make groups, the one that is named like a seed
    pairs, the metric that most runs have is compared. Raises `ConfigError` for what no run has, and `TrackingError`
    where the server can't be used.
    """
    if not (0 <= margin < float("inf")):
        raise ConfigError(f"margin={margin:g}: expected a difference of the metric, 0 or more")
    logged = from_export(export) if export else from_server(experiments, filter_string)[0]
    choice = Choice(
        group_by=tuple(group_by),
        pair_by=pair_by,
        metric=metric,
        at=at,
        higher_is_better=higher_is_better,
        margin=margin,
        baseline=baseline,
    )
    return compared(logged, choice)


def compared(logged: LoggedRuns, choice: Choice) -> Compared:
    """The same of runs that were read. Raises as `select` does."""
    selection = select(logged, choice)
    choice, values = selection.choice, selection.values
    table = values.pivot(index="seed", columns="group", values="value")
    names = [str(name) for name in values["group"].cat.categories]
    table.columns = pd.Index(names)
    if choice.baseline:
        pairs = [(name, choice.baseline) for name in names if name != choice.baseline]
    elif len(names) > MOST_GROUPS:
        raise ConfigError(
            f"group-by={','.join(choice.group_by)}: {len(names)} groups; expected {MOST_GROUPS} at most, fewer "
            "settings in --group-by, or a --baseline"
        )
    else:
        pairs = list(combinations(names, 2))
    found = compare_pairs(
        table,
        pairs,
        margin=choice.margin,
        higher_is_better=bool(choice.higher_is_better),
        paired=choice.pair_by != "none",
    )
    rows = [{**asdict(pair), "seeds_to_decide": seeds_to_decide(pair)} for pair in found]
    columns = [*Comparison.__dataclass_fields__, "seeds_to_decide"]
    return Compared(
        **vars(selection),
        groups=group_table(values),
        pairs=pd.DataFrame(rows, columns=columns),
        comparisons=found,
        logged=logged,
    )


def group_table(values: pd.DataFrame) -> pd.DataFrame:
    """A row a group: group, n, mean, low, high, sd, lowest, highest; of the columns group and value."""
    rows = []
    for group, runs in values.groupby("group", sort=False, observed=True)["value"]:
        low, high = mean_interval(runs.to_numpy()) if len(runs) > 1 else (float("nan"), float("nan"))
        rows.append(
            {
                "group": str(group),
                "n": len(runs),
                "mean": runs.mean(),
                "low": low,
                "high": high,
                "sd": runs.std(),
                "lowest": runs.min(),
                "highest": runs.max(),
            }
        )
    return pd.DataFrame(rows)
