"""Which runs of the tracking server a report is made of; with reading.py the only reader of results."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import mlflow
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import ValidationError

from normstudy.config import TrainConfig, group_labels, in_one_line
from normstudy.errors import ReportError, one_line
from normstudy.experiment import Experiment, Settings
from normstudy.report.read import READERS, Planned, TrialRecord, diverged_at, read_all, read_artifact, read_config
from normstudy.report.validation import checked
from normstudy.tracking import Artifact, Measure, Tag
from normstudy.tracking.store import RUNS_A_PAGE, artifact_location, connect, pages, where


def planned_in(parent_id: str) -> Experiment:
    """What a study's parent run set out to train.

    Raises `ReportError` when the server has no such run, or it is no study.
    """
    checked("a run id", parent_id, "parent")
    connect()
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
    configs = tuple(TrainConfig.of(**trial) for trial in trials)
    said = {name: plan[name] for name in ("measures", *Settings.__dataclass_fields__) if name in plan}
    try:
        return Experiment(
            name=one_line(name),
            question="\n".join(map(one_line, question.splitlines())),
            configs=configs,
            may_diverge=may_diverge,
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
    the study itself where there is one, else, as a trial that two studies share is one run, the other study's.

    With `may_diverge` a run that failed because its loss was not finite is a result, too, one without numbers. Of each
    run that finished the tables of `measures` are read.

    Raises `ReportError` naming every configuration whose run is missing, failed, killed or still running.
    """
    trials, found = _found(configs, parent_id, may_diverge=may_diverge)
    lowest: dict[str, int] = {}
    for config, group in trials.values():
        lowest[group] = min(config.seed, lowest.get(group, config.seed))
    plan = [
        Planned(run=run, config=read_config(run), group=group, draw=config.seed == lowest[group])
        for (config, group), run in ((trial, found[key]) for key, trial in trials.items())
    ]
    return read_all(plan, measures)


def without_measure(
    configs: Sequence[TrainConfig], measure: Measure, *, may_diverge: bool
) -> list[tuple[TrainConfig, str]]:
    """The finished runs of these configurations, by their ids, that have no table of this measure yet.

    Raises `ReportError` naming every configuration whose run hasn't finished.
    """
    trials, found = _found(configs, None, may_diverge=may_diverge)
    finished = [(config, found[key].info.run_id) for key, (config, _) in trials.items() if _is_finished(found[key])]
    with ThreadPoolExecutor(READERS) as pool:
        has = pool.map(lambda trial: _has(trial[1], measure), finished)
        return [trial for trial, there in zip(finished, has, strict=True) if not there]


def _has(run_id: str, measure: Measure) -> bool:
    folder = str(PurePosixPath(measure.path).parent)
    artifacts = get_artifact_repository(artifact_location(mlflow.get_run(run_id)))
    return any(file.path == measure.path for file in artifacts.list_artifacts(folder))


def _found(
    configs: Sequence[TrainConfig], parent_id: str | None, *, may_diverge: bool
) -> tuple[dict[str, tuple[TrainConfig, str]], dict[str, Run]]:
    connect()
    trials = {config.trial_key: (config, group) for config, group in zip(configs, group_labels(configs), strict=True)}
    sizes = Counter(group for _, group in trials.values())
    found = _newest(set(trials), parent_id)
    problems = []
    for key, (config, group) in trials.items():
        name = group if sizes[group] == 1 else f"{group}, seed {config.seed}"
        if problem := _problem(key, found.get(key), may_diverge=may_diverge):
            problems.append(f"{name} is {problem}")
    if problems:
        raise ReportError(f"not every trial has a finished run: {'; '.join(problems)} (on {where()})")
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
    if _is_finished(run) or (may_diverge and diverged_at(run) is not None):
        return None
    state = "still running" if run.info.status == "RUNNING" else one_line(str(run.info.status))
    reason = run.data.tags.get(Tag.FAILURE)
    return f"{state} (run {run.info.run_id}{': ' + one_line(reason) if reason else ''})"
