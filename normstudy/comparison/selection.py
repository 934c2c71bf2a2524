"""What is compared: which runs make a group, which one seed, by which metric; what is left out, and why."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from normstudy.comparison.runs import LoggedRuns
from normstudy.errors import ConfigError, one_line

SEED = re.compile(r"(^|[^a-z])(random_state|random_seed|seed|fold|replicate|repeat)($|[^a-z])", re.IGNORECASE)
LOWER = re.compile(
    r"loss|error|err($|[^a-z])|mae|mse|rmse|nll|perplexity|time|seconds|duration|latency|wer($|[^a-z])", re.IGNORECASE
)
MISSING = "(none)"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to compare. `at` is "last", a step, or "best:METRIC", the step at which that metric is best.

    A margin of 0 asks for no equivalence. Empty where it is still to be proposed; `pair_by` "none" pairs nothing.
    """

    group_by: tuple[str, ...] = ()
    pair_by: str = ""
    metric: str = ""
    at: str = "last"
    higher_is_better: bool | None = None
    margin: float = 0.0
    baseline: str = ""

    def options(self) -> str:
        """The same as options of the command line."""
        words = ["--group-by", ",".join(self.group_by), "--pair-by", self.pair_by, "--metric", self.metric]
        words += ["--at", self.at] + ([] if self.higher_is_better else ["--lower-is-better"])
        words += ["--margin", f"{self.margin:g}"] if self.margin else []
        words += ["--baseline", self.baseline] if self.baseline else []
        return shlex.join(map(one_line, words))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """`values` has a row a run that counts, with group, seed, value, and the run's id and name; `left_out` a row a run
    that doesn't, with its name and why. `notes` say what a reader must know of the choice."""

    choice: Choice
    values: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...]


def select(logged: LoggedRuns, choice: Choice) -> Selection:
    """The chosen runs, and the choice with its open parts proposed.

    Raises `ConfigError` for a setting, metric, step or baseline that no run has, and where nothing is left.
    """
    runs = logged.runs
    why = pd.Series("", index=runs.index)
    why[runs.index.isin(runs["parent"])] = "parent of other runs"
    why[runs["status"] != "FINISHED"] = "not finished: " + runs["status"].str.lower()
    why[runs["deleted"]] = "deleted"
    metric = choice.metric or _metric(logged.metrics[why == ""])
    if metric not in logged.metrics:
        raise _unknown("metric", metric, logged.metrics.columns)
    why[(why == "") & logged.metrics[metric].isna()] = f"no metric {metric}"
    ended = why.index[why == ""]
    if not len(ended):
        raise ConfigError(f"metric={one_line(metric)}: no finished run has it; {_counts(why)}")
    if choice.higher_is_better is None:
        choice = replace(choice, higher_is_better=not LOWER.search(metric))
    choice = replace(choice, metric=metric)
    value, notes = _values(logged, choice, list(ended))
    why[ended] = np.where(value.isna(), f"no {metric} at {choice.at}", np.where(np.isinf(value), "not finite", ""))
    ended = why.index[why == ""]
    if not len(ended):
        raise ConfigError(f"metric={one_line(metric)}: no run has a finite value; {_counts(why)}")
    settings = resolved(logged, (*choice.group_by, *([choice.pair_by] if _named(choice.pair_by) else []))).loc[ended]
    pair_by = choice.pair_by or _seed(settings)
    group_by = choice.group_by or propose_groups(settings[list(logged.settings)], pair_by)
    choice = replace(choice, pair_by=pair_by, group_by=group_by)
    chosen = pd.DataFrame(
        {"run_id": ended, "name": runs.loc[ended, "name"].to_numpy(), "value": value[ended].to_numpy()}
    )
    chosen["group"] = _labels(settings[list(group_by)])
    chosen["seed"] = settings[pair_by].fillna(MISSING).to_numpy() if _named(pair_by) else ""
    if _named(pair_by):  # newest first
        twice = chosen.duplicated(["group", "seed"])
        why[chosen.loc[twice, "run_id"]] = "an older run of the same group and seed"
        chosen = chosen[~twice]
    else:
        chosen["seed"] = chosen.groupby("group").cumcount().astype(str)
        notes = (*notes, "no param is named like a seed: runs are not paired (Welch)")
    if choice.baseline and choice.baseline not in set(chosen["group"]):
        raise _unknown("baseline", choice.baseline, chosen["group"].unique())
    order = sorted(chosen["group"].unique(), key=_natural)
    chosen = chosen.sort_values(["group", "seed"], key=lambda column: column.map(_natural), ignore_index=True)
    chosen["group"] = pd.Categorical(chosen["group"], order, ordered=True)
    left_out = pd.DataFrame({"run_id": runs.index, "name": runs["name"], "why": why}).reset_index(drop=True)
    return Selection(choice=choice, values=chosen, left_out=left_out[left_out["why"] != ""], notes=notes)


def _named(pair_by: str) -> bool:
    return pair_by not in ("", "none")


def _counts(why: pd.Series) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in why[why != ""].value_counts().items()) or "there are none"


def _unknown(what: str, value: str, choices: Iterable[str]) -> ConfigError:
    known = ", ".join(one_line(str(name), 60) for name in sorted(map(str, choices))[:20]) or "(none)"
    return ConfigError(f"{what}={one_line(value)}: no run that counts has it; choose from {known}")


def resolved(logged: LoggedRuns, names: Sequence[str]) -> pd.DataFrame:
    """The settings, with a column for each of these names: a param, else a tag, else a metric; `params.x`, `tags.x` and
    `metrics.x` say which."""
    settings = logged.settings.copy()
    for name in names:
        kind, _, bare = name.partition(".")
        kind, bare = (kind, bare) if kind in ("params", "tags", "metrics") and bare else ("", name)
        if name in settings and not kind:
            continue
        if bare in settings and kind in ("", logged.kinds.get(bare)):
            settings[name] = settings[bare]
        elif bare in logged.metrics and kind in ("", "metrics"):
            settings[name] = logged.metrics[bare].map("{:.12g}".format, na_action="ignore")
        else:
            raise _unknown("group-by", name, [*logged.settings, *logged.metrics])
    return settings


def _metric(metrics: pd.DataFrame) -> str:
    """The metric that most runs have; of several one of test, of validation, an accuracy, a loss."""
    counts = metrics.count()
    counts = counts[[not name.startswith("system/") for name in counts.index]]
    if counts.empty or not counts.max():
        raise ConfigError("metric=: no finished run has a metric")

    def rank(name: str) -> tuple[bool | str, ...]:
        kinds = ("test", "val", "acc|f1|auc", "loss")
        return *(not re.search(kind, name, re.IGNORECASE) for kind in kinds), name

    return min(counts.index[counts == counts.max()], key=rank)


def _seed(settings: pd.DataFrame) -> str:
    """The setting that is named like a seed and varies, the shortest name first; "none" where there is none."""
    found = [name for name in settings if SEED.search(str(name)) and settings[name].nunique() > 1]
    return min(found, key=lambda name: (len(name), name), default="none")


def propose_groups(settings: pd.DataFrame, pair_by: str) -> tuple[str, ...]:
    """The settings that vary and tell groups apart: not those that name each run, and none that adds nothing to those
    before it.

    Raises `ConfigError` where nothing varies but what differs from run to run.
    """
    filled = settings.drop(columns=[name for name in settings if SEED.search(str(name))]).fillna(MISSING)
    counts = filled.nunique()
    chosen, groups = list[str](), 1
    repeated = counts[(counts > 1) & (counts <= max(len(filled) // 2, 1))]
    # many values first: of settings that vary together, the one that tells all groups apart
    for name in sorted(repeated.index, key=lambda name: (-repeated[name], list(settings).index(name))):
        split = len(filled.drop_duplicates([*chosen, name]))
        if groups < split <= len(filled) // 2:
            chosen, groups = [*chosen, name], split
    if not chosen:
        varying = ", ".join(map(one_line, counts.index[counts > 1])) or "none"
        raise ConfigError(f"group-by=: no setting makes groups of runs (varying: {varying}); name one with --group-by")
    return tuple(sorted(chosen, key=list(settings).index))


def _labels(settings: pd.DataFrame) -> list[str]:
    """A group's label: its value where one setting makes the groups, else `name=value` of each."""
    filled = settings.fillna(MISSING)
    if len(filled.columns) == 1:
        return [one_line(str(value), 80) or MISSING for value in filled.iloc[:, 0]]
    named = [[f"{name}={value}" for name, value in zip(filled, row, strict=True)] for row in filled.to_numpy()]
    return [one_line(", ".join(row), 160) for row in named]


def _natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """A key by which 2 comes before 10."""
    parts = re.split(r"(\d+\.?\d*(?:e[+-]?\d+)?)", str(text))
    return tuple((0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts))


def _values(logged: LoggedRuns, choice: Choice, ended: list[str]) -> tuple[pd.Series, tuple[str, ...]]:
    """Each run's value of the metric, and what to note."""
    kind, _, other = choice.at.partition(":")
    if kind == "last" and not other:
        return logged.metrics.loc[ended, choice.metric], ()
    points = logged.history(ended, choice.metric)
    if not other and choice.at.isdecimal():
        return points[points["step"] == int(choice.at)].set_index("run_id")["value"].reindex(ended), ()
    if kind != "best" or not other:
        raise ConfigError(f"at={one_line(choice.at)}: expected last, a step, or best:METRIC")
    if other not in logged.metrics:
        raise _unknown("at=best", other, logged.metrics.columns)
    criterion = logged.history(ended, other)
    criterion = criterion[np.isfinite(criterion["value"])].sort_values("step")
    criterion["value"] *= 1 if LOWER.search(other) else -1
    best = criterion.loc[criterion.groupby("run_id")["value"].idxmin(), ["run_id", "step"]]
    value = best.merge(points, on=["run_id", "step"], how="left").set_index("run_id")["value"].reindex(ended)
    same = other == choice.metric or "test" in other.lower()
    note = (
        f"the step was chosen by {other}: where that is the metric compared, or of the same images, means are too good"
    )
    return value, (note,) if same else ()
