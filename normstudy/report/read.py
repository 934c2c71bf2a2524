"""The finished runs of a study, read from the tracking server; trusts nothing that it reads."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import ValidationError
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from normstudy.config import TrainConfig, group_labels, in_one_line
from normstudy.errors import ConfigError, ReportError, TrackingError, one_line
from normstudy.experiment import Experiment, Settings
from normstudy.figures import ten_worst
from normstudy.report.tables import TEST_IMAGES
from normstudy.report.validation import COLUMNS, checked, logged_image, logged_measure, logged_table, unfinished
from normstudy.tracking import Artifact, Measure, Metric, Tag, unpacked_tags
from normstudy.tracking.mlflow_private import READERS, first_bytes, histories
from normstudy.tracking.store import RUNS_A_PAGE, artifact_location, connect, pages, ten_name, where

HELD_OUT = (Metric.VAL_LOSS, Metric.VAL_ACCURACY)  # of runs that hold images out
CURVES = tuple(metric for metric in Metric if metric not in HELD_OUT)
LARGEST = 2**23  # bytes of an artifact; a table of all 10,000 test images has a tenth of that
Points = Mapping[tuple[str, str], pd.Series]  # of (run id, metric): values by step, ascending


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished run, as the server has it."""

    run_id: str
    group: str  # label shared by the reported trials that are the same but for the seed
    config: TrainConfig
    parameters: int
    side_by_side: int  # processes that shared the machine
    stack: int  # seeds trained together in its process
    cores: int
    tags: Mapping[str, str]  # any text
    epochs: pd.DataFrame  # a column a metric, indexed by epoch from 1
    misclassified: pd.DataFrame  # columns as in evaluate.misclassified
    diverged_at: int | None  # the step; then `epochs` ends early and `misclassified` is empty
    measures: Mapping[Measure, pd.DataFrame]  # those asked for
    ten: list[np.ndarray] | None  # 28 x 28, in the order of figures.ten_worst; None but for a group's lowest seed


def planned_in(parent_id: str) -> Experiment:
    """What a study's parent run set out to train.

    Raises `ReportError` when the server has no such run, or it is no study.
    """
    checked("a run id", parent_id, "parent")
    connect(make=False)
    try:
        run = mlflow.get_run(parent_id)
    except (mlflow.MlflowException, OSError) as error:
        raise ReportError(f"parent={parent_id}: not the run of a study on {where()}") from error
    return read_artifact(run, Artifact.STUDY, _plan)


def _plan(content: bytes) -> Experiment:
    try:
        plan, known = json.loads(content.decode()), TrainConfig.model_fields
        name, trials = str(plan["study"]), [{k: trial[k] for k in known if k in trial} for trial in plan["trials"]]
        question, may_diverge = str(plan.get("question", name)), plan.get("may_diverge") is True
    except (ValueError, RecursionError, LookupError, TypeError):
        raise ValueError("it is no study with a list of trials") from None
    if not trials:
        raise ValueError("it is a study without trials")
    said = {name: plan[name] for name in ("measures", *Settings.__dataclass_fields__) if name in plan}
    try:
        return Experiment(
            name=one_line(name),
            question="\n".join(map(one_line, question.splitlines())),
            configs=tuple(TrainConfig.of(**trial) for trial in trials),
            may_diverge=may_diverge,
            command_of_part=one_line(str(plan.get("command_of_part", ""))),
            **said,
        )
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None


def finished_trials(
    configs: Sequence[TrainConfig],
    parent_id: str | None,
    *,
    may_diverge: bool = False,
    measures: Sequence[Measure] = (),
) -> list[TrialRecord]:
    """The newest finished run of each configuration, of all that the server has, or of a study's experiment: a run of
    the study itself where there is one, else that of another study which shares the trial.

    With `may_diverge` a run that failed because its loss was not finite is a result, too, one without numbers. Of each
    run that finished the tables of `measures` are read.

    Raises `Unfinished` where a run is missing, failed, killed or running, `ReportError` for one not as trials log it.
    """
    trials, found = _found(configs, parent_id, may_diverge=may_diverge)
    lowest: dict[str, int] = {}
    for config, group in trials.values():
        lowest[group] = min(config.seed, lowest.get(group, config.seed))
    plan = [(found[key], group, config.seed == lowest[group]) for key, (config, group) in trials.items()]
    points: dict[tuple[str, str], pd.Series] = {}
    for metric in Metric:
        ids = [found[key].info.run_id for key, (config, _) in trials.items() if metric in _metrics(config)]
        for run_id, rows in histories(ids, metric).groupby("run_id"):
            points[str(run_id), metric] = rows.set_index("step")["value"]
    read = partial(_record, points=points, measures=measures)
    with ThreadPoolExecutor(READERS) as pool:
        records = pool.map(read, *zip(*plan, strict=True))
        return list(tqdm(records, total=len(plan), desc="reading", unit="run", disable=None, leave=False))


def without_measure(
    configs: Sequence[TrainConfig], measure: Measure, *, may_diverge: bool
) -> list[tuple[TrainConfig, str]]:
    """The finished runs of these configurations, by their ids, that have no table of this measure yet.

    Raises `ReportError` naming every configuration whose run hasn't finished.
    """
    trials, found = _found(configs, None, may_diverge=may_diverge)
    finished = [(config, found[key]) for key, (config, _) in trials.items() if _is_finished(found[key])]
    with ThreadPoolExecutor(READERS) as pool:
        has = pool.map(lambda trial: _has(trial[1], measure), finished)
        return [(config, run.info.run_id) for (config, run), there in zip(finished, has, strict=True) if not there]


def _has(run: Run, measure: Measure) -> bool:
    artifacts = get_artifact_repository(artifact_location(run))
    return any(file.path == measure.path for file in artifacts.list_artifacts(str(PurePosixPath(measure.path).parent)))


def _found(
    configs: Sequence[TrainConfig], parent_id: str | None, *, may_diverge: bool
) -> tuple[dict[str, tuple[TrainConfig, str]], dict[str, Run]]:
    connect(make=False)
    trials = {config.trial_key: (config, group) for config, group in zip(configs, group_labels(configs), strict=True)}
    sizes = Counter(group for _, group in trials.values())
    found = _newest(set(trials), parent_id)
    problems: dict[int, list[str]] = {}  # by seed
    for key, (config, group) in trials.items():
        name = group if sizes[group] == 1 else f"{group}, seed {config.seed}"
        if problem := _problem(key, found.get(key), may_diverge=may_diverge):
            problems.setdefault(config.seed, []).append(f"{name} is {problem}")
    if problems:
        raise unfinished([config.seed for config, _ in trials.values()], problems, where())
    return trials, found


def _newest(keys: set[str], parent_id: str | None) -> dict[str, Run]:
    """Of each trial key that the server has, the newest finished run, or the newest where none is finished."""
    client = mlflow.MlflowClient()
    if parent_id:
        experiments = [client.get_run(parent_id).info.experiment_id]
    else:
        experiments = [experiment.experiment_id for experiment in pages(client.search_experiments, max_results=1_000)]
    newest: dict[str, Run] = {}
    for run in pages(
        client.search_runs,
        experiment_ids=experiments,
        filter_string=f"tags.`{Tag.TRIAL_KEY}` LIKE '%'",
        order_by=["attributes.start_time DESC"],
        max_results=RUNS_A_PAGE,
    ):
        key = run.data.tags.get(Tag.TRIAL_KEY)
        if key in keys and (key not in newest or _rank(run, parent_id) > _rank(newest[key], parent_id)):
            checked("a run id", run.info.run_id, "run")
            newest[key] = run
    return newest


def _rank(run: Run, parent_id: str | None) -> tuple[bool, bool, bool]:
    counts = Tag.SUPERSEDED_BY not in run.data.tags  # a process that was taken over may have ended its run all the same
    return counts, _is_finished(run), run.data.tags.get(Tag.PARENT) == parent_id


def _is_finished(run: Run) -> bool:
    return run.info.status == "FINISHED"


def _problem(key: str, run: Run | None, *, may_diverge: bool) -> str | None:
    if run is None:
        return f"missing (no run with trial key {key})"
    if _is_finished(run) or (may_diverge and _diverged_at(run) is not None):
        return None
    state = "still running" if run.info.status == "RUNNING" else one_line(str(run.info.status))
    reason = run.data.tags.get(Tag.FAILURE)
    return f"{state} (run {run.info.run_id}{': ' + one_line(reason) if reason else ''})"


def _metrics(config: TrainConfig) -> tuple[Metric, ...]:
    return (*CURVES, *(HELD_OUT if config.val_size else ()))


def _record(run: Run, group: str, draw: bool, *, points: Points, measures: Sequence[Measure]) -> TrialRecord:
    """A run, with its ten images where they are to be drawn."""
    config, run_id, stopped, tags = _config(run), run.info.run_id, _diverged_at(run), unpacked_tags(run.data.tags)
    last = config.epochs if stopped is None else (stopped - 1) // (config.training_images // config.batch_size)
    curves = {str(metric): _history(run_id, metric, last, points) for metric in _metrics(config)}
    epochs = pd.DataFrame(curves, index=pd.RangeIndex(1, last + 1, name="epoch"))
    table = pd.DataFrame(columns=[*COLUMNS])
    if stopped is None:
        table = read_artifact(run, Artifact.MISCLASSIFIED, logged_table)
        expected = round((1 - epochs[Metric.TEST_ACCURACY].iloc[-1]) * TEST_IMAGES)
        if len(table) != expected:
            raise ReportError(f"run {run_id}: {len(table)} misclassified images, its accuracy says {expected}")
    counts = {"parameters": run.data.params.get("parameters"), "cores": tags.get(Tag.CORES)}
    counts |= {"side_by_side": tags.get(Tag.SIDE_BY_SIDE, "1"), "stack": tags.get(Tag.STACK, "1")}
    draw = draw and stopped is None
    names = [ten_name(row) for row in ten_worst(table).itertuples()] if draw else []
    wanted = measures if stopped is None else ()
    return TrialRecord(
        run_id=run_id,
        group=group,
        config=config,
        **{name: int(checked("a whole number", text, f"run {run_id}: {name}")) for name, text in counts.items()},
        tags=tags,
        epochs=epochs,
        misclassified=table,
        ten=[read_artifact(run, f"{Artifact.TEN}/{name}", logged_image) for name in names] if draw else None,
        diverged_at=stopped,
        measures={measure: read_artifact(run, measure.path, logged_measure(measure)) for measure in wanted},
    )


def _diverged_at(run: Run) -> int | None:
    """The step at which the run failed because its loss was not finite; None for any other run."""
    step = run.data.tags.get(Tag.FAILURE_STEP)
    if run.info.status != "FAILED" or step is None:
        return None
    return int(checked("a whole number", step, f"run {run.info.run_id}: {Tag.FAILURE_STEP}"))


def _config(run: Run) -> TrainConfig:
    """The configuration that the run logged as parameters, which `mlflow run` logs as they were typed."""
    run_id, key = run.info.run_id, run.data.tags[Tag.TRIAL_KEY]
    # the process that holds a run says so in parameters named `normstudy. ...`
    settings = {k: text for k, text in run.data.params.items() if not k.startswith(("parameters", "normstudy."))}
    try:
        config = TrainConfig.of(**settings)
    except (ConfigError, TypeError) as error:  # TypeError: of a parameter named `cls`
        raise ReportError(f"run {run_id}: its parameters are no configuration: {one_line(str(error))}") from error
    if config.trial_key != key:
        raise ReportError(f"run {run_id}: its parameters have the trial key {config.trial_key}, its tag says {key}")
    return config


def _history(run_id: str, metric: Metric, epochs: int, points: Points) -> pd.Series:
    """All values of a metric by epoch, `epochs` of them."""
    known = points.get((run_id, metric), pd.Series(dtype=float))
    missing = (epoch for epoch in range(1, epochs + 1) if epoch not in known.index)
    if holes := list(islice(missing, 5)):  # of how many epochs, others decide
        raise ReportError(f"run {run_id}: {metric} has no value at epoch {', '.join(map(str, holes))}")
    values = known.loc[1:epochs]
    for epoch in values.index[~np.isfinite(values)]:
        raise ReportError(f"run {run_id}: {metric} is not finite at epoch {epoch}")
    return values


def read_artifact(run: Run | str, path: str, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of an artifact; its `ValueError` says what is wrong with it. The artifact is asked for by its
    own name: no listing of a server's is followed. `run` may be its id."""
    run = mlflow.get_run(run) if isinstance(run, str) else run
    what = f"run {one_line(run.info.run_id)}: artifact {path}"
    try:
        content = first_bytes(artifact_location(run), path, LARGEST + 1)
    except TrackingError as error:
        raise ReportError(str(error)) from error
    except (mlflow.MlflowException, HTTPError, OSError, ValueError) as error:  # whose text may quote a signed address
        raise ReportError(f"{what} can't be read ({type(error).__name__})") from error
    try:
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        return parse(content)
    except ValueError as error:
        raise ReportError(f"{what}: {one_line(str(error))}") from error
