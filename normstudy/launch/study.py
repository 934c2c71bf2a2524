"""One trial, or the many of a study: which are left to train, who trains them, and how each ended."""

import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from statistics import fmean
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from tqdm import tqdm

from normstudy.config import TrainConfig, group_labels
from normstudy.errors import ConfigError, Interrupted, NormstudyError, ResultWaits, TrackingError, say
from normstudy.experiment import Experiment
from normstudy.files import require_archives
from normstudy.launch import Executor, Task
from normstudy.launch.local import LocalExecutor, default_workers, preload
from normstudy.launch.registry import GONE, Registry, Trial
from normstudy.launch.state import FINAL, LEFT, Outcome, TrialState
from normstudy.launch.worker import gpus_of, grouped_in_stacks, run_trials, train_leased
from normstudy.provenance import git_state
from normstudy.tracking import Artifact, Tag
from normstudy.tracking.client import Server, canonical, is_result
from normstudy.tracking.event_log import Event, logs
from normstudy.tracking.result import write_json
from normstudy.tracking.run import Lease
from normstudy.tracking.store import (
    STATE,
    chosen_experiment,
    connect,
    experiment_name,
    first_line,
    has_store,
    identity,
    local_folder,
    state_root,
    where,
)
from normstudy.tracking.ui import link
from normstudy.tracking.uploader import Uploader
from normstudy.train import StopCheck, build_model, pick_device


def single(
    config: TrainConfig, *, force: bool = False, offline: bool = False, stop_signal: StopCheck = lambda: None
) -> None:
    """Train one configuration as one run; one that has finished is left alone, an unfinished one goes on.

    Raises `ConfigError` before any run exists, `NormstudyError` for a trial that diverged before or runs elsewhere,
    `ResultWaits` when the server has not got the result.
    """
    check([config])
    registry, name = open_registry(offline=offline), identity(config)[Tag.NAME]
    try:
        refused = train_leased(registry, (config,), force=force, stop_signal=stop_signal)
    except Interrupted as error:
        raise Interrupted(error.signal_number, left_by_a_stop(registry, config)) from None
    if config.trial_key in refused:
        state, what = refused[config.trial_key]
        if state != TrialState.FINISHED:
            raise NormstudyError(f"{name}: {outcome_in_words(state, what)}")
        print(f"{name} has finished already: {what}; --force trains it again")
    with suppress(TrackingError):  # the server may have gone away after it had got all
        if config.trial_key not in refused:
            print(f"{name}: test accuracy {100 * registry.accuracies([config.trial_key])[config.trial_key][1]:.2f} %")
        if run := canonical(registry.runs(Tag.TRIAL_KEY, config.trial_key)):
            print(f"run {run.run_id} on {where()}\n{link(run.experiment_id, run.run_id)}")
    if registry.server is None:
        print(f"it waits in {state_root()}; `normstudy sync` sends it to a tracking server")


def left_by_a_stop(registry: Registry, config: TrainConfig) -> str:
    """What a stop left of a trial, and how to go on."""
    epochs = max((epoch for log in logs(config.trial_key) for epoch in log.epochs), default=0)
    what = f"after epoch {epochs}" if epochs else "before the end of the first epoch"
    run = None
    with suppress(NormstudyError):  # the server may be away
        run = canonical(registry.runs(Tag.TRIAL_KEY, config.trial_key))
    return f"Stopped {what}; the same command resumes {f'run {run.run_id}' if run else 'it'}"


def tell_results(registry: Registry, configs: Sequence[TrainConfig], run: str | None) -> None:
    """What a study came to, and where it is; nothing where the server went away after it had got all."""
    with suppress(TrackingError):
        found = registry.accuracies([config.trial_key for config in configs])
        print(accuracies_in_words(configs, {key: accuracy for key, (_, accuracy) in found.items()}))
        if registry.server and run:
            print(f"study {run} on {where()}\n{link(registry.server.experiment(registry.experiment))}")


def accuracies_in_words(configs: Sequence[TrainConfig], known: Mapping[str, float]) -> str:
    """A line for each group of trials that differ in nothing but their seed; of the `known` test accuracies by key."""
    groups: dict[str, list[float]] = {}
    for config, group in zip(configs, group_labels(configs), strict=True):
        percents = groups.setdefault(group, [])
        percents += [100 * known[config.trial_key]] if config.trial_key in known else []
    width = max(map(len, groups))
    lines = [f"{'':{width}}   n  test accuracy, mean (lowest to highest)"]
    for group, percents in groups.items():
        mean = f"{fmean(percents):.2f} %" if percents else "no result"
        mean += f" ({min(percents):.2f} to {max(percents):.2f})" if len(percents) > 1 else ""
        lines.append(f"{group:{width}} {len(percents):3d}  {mean}")
    return "\n".join(lines)


def study(
    experiment: Experiment,
    *,
    executor: Executor | None = None,
    workers: int = 0,
    stack: int = 0,
    force: bool = False,
    offline: bool = False,
    stop_signal: StopCheck = lambda: None,
) -> str:
    """Run every trial that has not finished, under one parent run; the parent's id, or its record without a server,
    and nothing where no trial was left.

    `stack` trials that differ only in their seed train together in one process (0: by `grouped_in_stacks`).
    `workers` processes run at once (0: by `default_workers`) on this machine, unless an `executor` is given.

    Raises `ConfigError` before any run exists, `NormstudyError` naming the trials that neither finished nor run
    elsewhere, `Interrupted` after a stop signal, once every process has ended its runs.
    """
    configs = experiment.configs
    check(configs)
    registry = open_registry(offline=offline)
    outcomes = registry.states([config.trial_key for config in configs])
    to_train = (*LEFT, *FINAL) if force else LEFT
    left = [config for config in configs if outcomes[config.trial_key][0] in to_train]
    if len(left) < len(configs):
        print(f"{len(configs) - len(left)} of {len(configs)} trials are left as they are", flush=True)
    if not left:
        require_finished(experiment, outcomes)
        if is_concluded(experiment, registry) or TrialState.RUNNING in [state for state, _ in outcomes.values()]:
            tell_results(registry, configs, None)
            return ""
    before = {key for key, (state, _) in outcomes.items() if state == TrialState.FINISHED and not force}
    if left and git_state()[1] == "true":
        say("the working tree has uncommitted changes; these runs are marked as such")
    stacks = grouped_in_stacks(left, stack)
    tags: dict[str, str] = {Tag.STUDY: experiment.name, Tag.LAUNCHER: uuid.uuid4().hex}
    executor = executor or (local_executor(stacks, workers, tags) if left else None)
    with open_parent(experiment, registry, tags, before) as (record, run):
        shared: dict[str, Any] = {
            "experiment": registry.experiment,
            "parent": record,
            "tags": {**tags, Tag.PARENT: run} if run else tags,
            "force": force,
            "tracking_uri": os.environ["MLFLOW_TRACKING_URI"] if registry.server else None,
            "stale": registry.stale,
            "state": os.environ.get(STATE) or (str(state_root()) if local_folder() else None),
        }
        tasks = [Task(configs=together, **shared) for together in stacks]
        with tqdm(total=sum(config.epochs for config in left), unit="epoch", disable=None) as bar:
            if tasks and executor:
                executor(tasks, partial(finalize, registry, outcomes), bar, stop_signal)
        if signal_number := stop_signal():
            done = sum(outcomes[config.trial_key][0] in FINAL for config in configs)
            text = f"Stopped after {done} of {len(configs)} trials; the same command resumes the study"
            raise Interrupted(signal_number, text)
        require_finished(experiment, outcomes)
    tell_results(registry, configs, run)
    return run or record


def local_executor(stacks: Sequence[tuple[TrainConfig, ...]], workers: int, tags: dict[str, str]) -> Executor:
    """`workers` processes of this machine (0: by `default_workers`), whose number goes to the tags of their runs."""
    preload()
    gpus = gpus_of(stacks)
    workers = workers or default_workers([together[0] for together in stacks], gpus)
    tags[Tag.SIDE_BY_SIDE] = str(workers)
    return LocalExecutor(workers, run_trials, gpus)


def finalize(registry: Registry, outcomes: dict[str, Outcome], task: Task) -> list[str]:
    """The process of a task is gone: each of its runs has ended, or is ended now. How each trial ended, a line each."""
    for config in task.configs:
        key = config.trial_key
        try:
            state, what = registry.finalize(key, task.tags[Tag.LAUNCHER], force=task.force)
            outcomes[key] = state, what or (GONE if state == TrialState.NEW else "")
        except Exception as error:  # whatever the way to a server raises
            reason = f"its record waits here for `python -m normstudy sync`: {first_line(error)}"
            outcomes[key] = TrialState.UNSENT, reason
    return [described(config, outcomes) for config in task.configs]


def described(config: TrainConfig, outcomes: Mapping[str, Outcome]) -> str:
    """A trial by its name, and how it ended."""
    return f"{identity(config)[Tag.NAME]} is {outcome_in_words(*outcomes[config.trial_key])}"


def outcome_in_words(state: TrialState, what: str) -> str:
    """A trial's state, and where something says more, that."""
    return f"{state} ({what})" if what else str(state)


def dry_run(experiment: Experiment, *, offline: bool = False) -> list[tuple[str, TrialState, str]]:
    """Name and state of each trial, and its run; nothing is trained or made."""
    check(experiment.configs)
    keys = [config.trial_key for config in experiment.configs]
    known: Mapping[str, Outcome] = dict.fromkeys(keys, (TrialState.NEW, ""))
    if offline or has_store():
        known = open_registry(offline=offline).states(keys)
    return [(identity(config)[Tag.NAME], *known[key]) for key, config in zip(keys, experiment.configs, strict=True)]


def check(configs: Sequence[TrainConfig]) -> None:
    """Raises `NormstudyError` for what no process could train."""
    different = {(one.dataset, one.device, one.norm, one.network, one.groups, one.kernels): one for one in configs}
    for config in different.values():  # a network of torch takes a millisecond to build, in each of 100,000 trials
        require_archives(config.dataset)
        pick_device(config.device, config.kernels)
        build_model(config)


def open_registry(*, offline: bool) -> Registry:
    """Who decides what is left to train. Raises `TrackingError` when the server can't be used, `ConfigError` where the
    environment names a run or an experiment that isn't there."""
    if offline:
        return Registry(server=None, experiment=experiment_name())
    connect()
    server, waiting = Server(), os.environ.pop("MLFLOW_RUN_ID", None)  # of `mlflow run`
    if not waiting:
        return Registry(server=server, experiment=chosen_experiment())
    run = server.get(waiting)
    if run is None or run.deleted:
        problem = "that run was deleted" if run else "there is no such run"
        raise ConfigError(f"MLFLOW_RUN_ID={waiting}: {problem} on {where()}")
    return Registry(server=server, experiment=chosen_experiment(run.experiment_id), waiting=waiting)


@contextmanager
def open_parent(
    experiment: Experiment, registry: Registry, tags: Mapping[str, str], before: Collection[str]
) -> Iterator[tuple[str, str | None]]:
    """The run of the study itself, over those of its trials: ids of its record and, where there is a server, its run.

    That of an earlier start on this machine goes on, unless it has finished; one whose process lives is shared. It ends
    as its block ends.
    """
    key = study_key(experiment)
    begun = registry.begin(Trial(key=key, name=f"study {experiment.name}", key_tag=Tag.STUDY_KEY))
    if not isinstance(begun, Lease):
        found = Retrying(retry=retry_if_result(lambda made: not made), stop=stop_after_delay(60), wait=wait_fixed(0.1))
        yield found(registry.studies, key)[-1]
        return
    with ExitStack() as stack:
        stack.callback(begun.lock.release)
        if begun.upload:
            stack.enter_context(Uploader()).add(begun.upload)
        try:
            begun.log.append(Event(status="RUNNING", tags={**tags, Tag.NOTE: experiment.description}))
            trials = [{"variant": config.variant, **config.model_dump()} for config in experiment.configs]
            plan: dict[str, Any] = {"study": experiment.name, "question": experiment.question, "trials": trials}
            plan |= {"command_of_part": experiment.command_of_part}
            plan |= {**experiment.settings, "may_diverge": experiment.may_diverge, "measures": experiment.measures}
            write_json(begun.log.files / "study" / Artifact.STUDY, plan)
            begun.log.add_files("study")
            begun.tell()
            yield begun.log.id, begun.upload.run_id if begun.upload else None
            from normstudy.launch.summary import conclude  # it loads pandas and scipy, which the start needs not

            conclude(begun.log, experiment, registry, before)
        except BaseException as error:
            begun.end(error)
            raise
        begun.end(None)


def study_key(experiment: Experiment) -> str:
    """Of the run of the study itself, as a trial has one."""
    keys = sorted(config.trial_key for config in experiment.configs)
    return sha256("+".join([experiment.name, *keys]).encode()).hexdigest()[:16]


def is_concluded(experiment: Experiment, registry: Registry) -> bool:
    """Whether the run of the study itself has finished, or waits here as one that has."""
    key = study_key(experiment)
    return any(is_result(run) for run in registry.runs(Tag.STUDY_KEY, key)) or any(log.has_result for log in logs(key))


def require_finished(experiment: Experiment, outcomes: Mapping[str, Outcome]) -> None:
    """Says which trials run elsewhere. Raises `NormstudyError` naming each other trial that has not finished, its
    state, its run and why, one that diverged only where the experiment doesn't expect it; `ResultWaits` where all that
    lacks is on this machine."""
    expected = {TrialState.FINISHED} | ({TrialState.DIVERGED} if experiment.may_diverge else set())
    lacking: dict[TrialState, list[str]] = {}
    for config in experiment.configs:
        if (state := outcomes[config.trial_key][0]) not in expected:
            lacking.setdefault(state, []).append(described(config, outcomes))
    for line in lacking.pop(TrialState.RUNNING, []):
        print(line, flush=True)
    if lacking:
        error = ResultWaits if set(lacking) == {TrialState.UNSENT} else NormstudyError
        raise error(f"study {experiment.name}: {'; '.join(line for lines in lacking.values() for line in lines)}")
