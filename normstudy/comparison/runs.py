"""The runs of any MLflow experiment, whoever logged them, as tables; or those of an export of this project."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Experiment, Run, ViewType

from normstudy.errors import ConfigError, one_line
from normstudy.report.tables import Tables
from normstudy.tracking.mlflow_private import finite_or_infinite, histories
from normstudy.tracking.store import RUNS_A_PAGE, connect, pages, where

COMPARISON = "normstudy.comparison"  # tag of a run that keeps a comparison, and is none of the compared
History = Callable[[Sequence[str], str], pd.DataFrame]  # of runs and a metric: columns run_id, step, value


@dataclass(frozen=True, kw_only=True)
class LoggedRuns:
    """Runs as they were logged; every table has a row a run, by its id, newest first.

    `runs` has name, experiment, status, start (ms since 1970), parent (a run id or "") and deleted; `settings` the
    params, tags and experiment, as text; `metrics` the last values, infinity for all that are not finite. `kinds` says
    of each column of `settings` whether it is a param or a tag.
    """

    runs: pd.DataFrame
    settings: pd.DataFrame
    metrics: pd.DataFrame
    kinds: dict[str, str]
    history: History


def from_server(names: Sequence[str], filter_string: str = "") -> tuple[LoggedRuns, list[Experiment]]:
    """The runs of these experiments, by name or id, that the filter of MLflow's search lets through, deleted ones too.

    Raises `ConfigError` for an experiment that isn't there and a filter that MLflow refuses, and `TrackingError` where
    the server can't be used.
    """
    connect(make=False)
    client = mlflow.MlflowClient()
    experiments = [_experiment(client, name) for name in names]
    query: dict[str, Any] = {
        "experiment_ids": [one.experiment_id for one in experiments],
        "filter_string": filter_string,
        "run_view_type": ViewType.ALL,
        "max_results": RUNS_A_PAGE,
    }
    try:
        found = list(pages(client.search_runs, **query))
    except mlflow.MlflowException as error:
        if filter_string and error.get_http_status_code() == 400:
            raise ConfigError(f"filter={one_line(filter_string)}: {one_line(str(error))}") from None
        raise
    kept = [run for run in found if COMPARISON not in run.data.tags]
    return _tables(kept, {one.experiment_id: one.name for one in experiments}), experiments


def _experiment(client: mlflow.MlflowClient, name: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None and name.isdecimal():
        try:
            found = client.get_experiment(name)
        except mlflow.MlflowException:
            found = None
    if found is None:
        every = [one.name for one in pages(client.search_experiments, view_type=ViewType.ACTIVE_ONLY)]
        near = get_close_matches(name, every, n=5, cutoff=0.5) or every[:10]
        choices = ", ".join(map(one_line, near)) or "(none)"
        raise ConfigError(f"experiment={one_line(name)}: not on {where()}; choose from {choices}")
    return found


def _tables(found: Sequence[Run], experiments: dict[str, str]) -> LoggedRuns:
    rows, settings, metrics, kinds = [], [], [], dict[str, str]()
    for run in found:
        tags = {name: text for name, text in run.data.tags.items() if not name.startswith(("mlflow.", "normstudy."))}
        experiment = experiments.get(run.info.experiment_id, run.info.experiment_id)
        rows.append(
            {
                "run_id": run.info.run_id,
                "name": run.info.run_name or run.info.run_id,
                "experiment": experiment,
                "status": run.info.status,
                "start": run.info.start_time or 0,
                "parent": run.data.tags.get("mlflow.parentRunId", ""),
                "deleted": run.info.lifecycle_stage == "deleted",
            }
        )
        kinds |= dict.fromkeys(tags, "tags") | dict.fromkeys(run.data.params, "params")
        settings.append({"experiment": experiment} | tags | run.data.params)
        metrics.append({name: finite_or_infinite(value) for name, value in run.data.metrics.items()})
    columns = ["run_id", "name", "experiment", "status", "start", "parent", "deleted"]
    runs = pd.DataFrame(rows, columns=columns).set_index("run_id").sort_values("start", ascending=False, kind="stable")
    ids = pd.Index([row["run_id"] for row in rows], name="run_id")
    return LoggedRuns(
        runs=runs,
        settings=pd.DataFrame(settings, index=ids, dtype=object).map(spelled_once).reindex(runs.index),
        metrics=pd.DataFrame(metrics, index=ids, dtype=float).reindex(runs.index),
        kinds={"experiment": "params", **kinds},
        history=histories,
    )


def spelled_once(value: Any) -> Any:
    """One spelling for each number, so that 0.1, 0.10 and 1e-1 are one setting; other text as it is."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.12g}" if math.isfinite(number) and "_" not in value else value


def from_export(folder: Path) -> LoggedRuns:
    """The runs of one experiment's export, such as `results/main`. Raises `ReportError` for what is none."""
    tables = Tables.load(folder)
    results = tables.results.set_index("run_id")
    named = [config.model_dump() for config in tables.configs()]
    settings = pd.DataFrame(named, index=results.index).map(lambda value: spelled_once(str(value)))
    epochs = tables.epochs
    names = [column for column in epochs if "/" in column]
    last = epochs.sort_values("epoch").groupby("run_id")[names].last().reindex(results.index)

    def history(run_ids: Sequence[str], metric: str) -> pd.DataFrame:
        some = epochs[epochs["run_id"].isin(run_ids)].rename(columns={"epoch": "step", metric: "value"})
        return some[["run_id", "step", "value"]].dropna(ignore_index=True)

    return LoggedRuns(
        runs=pd.DataFrame(
            {
                "name": results["group"].astype(str) + ", seed " + results["seed"].astype(str),
                "experiment": folder.name,
                "status": ["FINISHED" if at != at else "FAILED" for at in results["diverged_at"]],
                "start": 0,
                "parent": "",
                "deleted": False,
            }
        ),
        settings=settings.assign(experiment=folder.name),
        metrics=last,
        kinds=dict.fromkeys([*settings, "experiment"], "params"),
        history=history,
    )
