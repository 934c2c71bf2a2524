"""What the store knows of each trial, who may train it, and whether the process of a run still lives.

One trial, that is one key, is one run. A process that wants to train it takes a claim: a parameter of the run, because
a parameter is the one thing that MLflow lets only the first of several writers set.
"""

import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow.entities import Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags

from normstudy.spool import is_locked, state_root, writing
from normstudy.tracking import RUNS_A_PAGE, Tag, pages, where

CLAIM = "normstudy.claim."  # name of a claim's parameter, before its number
HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # a heart that was silent for so long is watched
WATCH_SECONDS = 25.0  # two heartbeats and the time that a request may take
HOST = socket.gethostname()


class State(StrEnum):
    """Of a trial, as people read it."""

    NEW = "new"
    FINISHED = "finished"
    DIVERGED = "diverged"
    RUNNING = "running elsewhere"
    UNFINISHED = "unfinished"
    UNSENT = "not on the server"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trial's run, or a study's."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]

    @property
    def attempt(self) -> str:
        """Names its record on the machine that trains it."""
        return self.tags.get(Tag.ATTEMPT, self.run_id)

    @property
    def claims(self) -> list[str]:
        """Who claimed it, in turn."""
        numbered = {int(name.removeprefix(CLAIM)): by for name, by in self.params.items() if name.startswith(CLAIM)}
        return [by for _, by in sorted(numbered.items())]

    def folder(self, store: str | None) -> Path:
        """Its record, on the machine that trains it."""
        key = self.tags.get(Tag.TRIAL_KEY) or self.tags.get(Tag.STUDY_KEY, "")
        return record_folder(store, key, self.attempt)

    @property
    def heartbeat(self) -> float:
        """When its process last gave a sign of life, in seconds since the epoch."""
        return int(self.tags.get(Tag.HEARTBEAT, 0)) / 1000


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Leave to log to a run: what its process needs to know. `run_id` is None for a run that no server has yet."""

    key: str
    attempt: str
    experiment: str  # id; the name where no server was asked
    run_id: str | None
    token: str | None
    parent: str | None = None  # attempt of a study that no server has yet
    tags: dict[str, str] = field(default_factory=dict)

    def folder(self, store: str | None) -> Path:
        """Its record on this machine."""
        return record_folder(store, self.key, self.attempt)


def record_folder(store: str | None, key: str, attempt: str) -> Path:
    """Where this machine keeps the record of an attempt at a trial."""
    return state_root(store) / f"{key}.{attempt}"


class Driver:
    """A process that decides what to train: its token names it in claims, its lock file says that it lives."""

    def __init__(self, store: str | None) -> None:
        self.token = f"{HOST}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.lock = FileLock(_driver_lock(store, self.token), thread_local=False)

    def __enter__(self) -> "Driver":
        with writing(Path(self.lock.lock_file)):
            Path(self.lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)


def _driver_lock(store: str | None, token: str) -> Path:
    return state_root(store) / "drivers" / f"{token.rpartition(':')[2]}.lock"


def find_all(experiment_id: str, key_tag: Tag, keys: Collection[str] | None) -> dict[str, list[Found]]:
    """The runs of each of these keys, or (None) of all, in an experiment, newest first."""
    if keys is not None and not keys:
        return {}
    only = next(iter(keys)) if keys is not None and len(keys) == 1 else None
    query = f"tags.`{key_tag}` = '{only}'" if only else f"tags.`{key_tag}` LIKE '%'"
    found: dict[str, list[Found]] = {}
    for run in pages(
        mlflow.MlflowClient().search_runs,
        experiment_ids=[experiment_id],
        filter_string=query,
        order_by=["attributes.start_time DESC"],
        max_results=RUNS_A_PAGE,
    ):
        if keys is None or run.data.tags[key_tag] in keys:
            found.setdefault(run.data.tags[key_tag], []).append(_found(run))
    return found


def _found(run: Run) -> Found:
    return Found(run_id=run.info.run_id, status=run.info.status, tags=run.data.tags, params=run.data.params)


def get(run_id: str) -> Found:
    """A run by its id."""
    return _found(mlflow.get_run(run_id))


def decisive(runs: Iterable[Found]) -> Found | None:
    """Of a trial's runs, newest first, the one that counts: the newest finished, else the newest that was claimed, else
    one whose process died before it claimed it."""
    runs = list(runs)
    finished = [run for run in runs if run.status == "FINISHED"]
    claimed = [run for run in runs if run.claims]
    orphaned = [run for run in runs if not run.claims and (run.status != "RUNNING" or is_living(run) is False)]
    return next(iter([*finished, *claimed, *orphaned]), None)


def states(found: Mapping[str, Found | None]) -> dict[str, State]:
    """The state of each trial, given its decisive run. Takes seconds where a heart must be watched."""
    doubtful = [run for run in found.values() if run and run.status == "RUNNING" and is_living(run) is None]
    dead = {run.run_id for run in silent(doubtful)}
    return {key: _state(run, dead) for key, run in found.items()}


def _state(run: Found | None, dead: Collection[str]) -> State:
    if run is None:
        return State.NEW
    if run.status == "FINISHED":
        return State.FINISHED
    if run.status == "FAILED" and Tag.FAILURE_STEP in run.tags:
        return State.DIVERGED
    if run.status == "RUNNING" and run.run_id not in dead and is_living(run) is not False:
        return State.RUNNING
    return State.UNFINISHED


def is_living(run: Found) -> bool | None:
    """Whether a process still works for a RUNNING run; None where only watching its heart can tell.

    On the machine where it trains, by locks, which the kernel frees at a process's death; elsewhere by its heartbeat.
    """
    store, token = where(), (run.claims or [run.tags.get(Tag.MADE_BY, "")])[-1]
    host = run.tags.get(Tag.HOST) or token.partition(":")[0]
    if host == HOST:
        locks = [run.folder(store) / "lock", _driver_lock(store, token)]
        if present := [lock for lock in locks if lock.is_file()]:
            return any(is_locked(lock) for lock in present)
    return True if time.time() - run.heartbeat < SILENT_SECONDS else None


def silent(runs: Collection[Found]) -> list[Found]:
    """Those whose heart doesn't beat while it is watched: clocks of two machines may differ, so age alone proves
    nothing."""
    if not runs:
        return []
    time.sleep(WATCH_SECONDS)
    return [run for run in runs if get(run.run_id).heartbeat == run.heartbeat]


def create_run(experiment_id: str, tags: Mapping[str, str]) -> str:
    """A new run, RUNNING, with these tags and MLflow's own on user and source; its id."""
    return str(mlflow.MlflowClient().create_run(experiment_id, tags=resolve_tags(dict(tags))).info.run_id)


def take(run: Found, token: str) -> bool:
    """Set the run's next claim; False when another process was first. Taking it twice is taking it once."""
    if run.claims and run.claims[-1] == token:
        return True
    try:
        mlflow.MlflowClient().log_param(run.run_id, f"{CLAIM}{len(run.claims) + 1}", token)
    except mlflow.MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return False
    return True


def is_deleted(run_id: str) -> bool:
    """Whether somebody has deleted the run; MLflow refuses its parameters with the code of one that is set."""
    return bool(mlflow.get_run(run_id).info.lifecycle_stage == "deleted")


def claim_new(
    experiment_id: str,
    key_tag: Tag,
    key: str,
    token: str,
    tags: Mapping[str, str],
    *,
    attempt: str,
    again: bool,
    waiting: str | None,
    force: bool,
) -> Claim | None:
    """A run for a trial that has none, claimed; None when another process was first, and then nothing of it is left.

    Any two processes that make a run each see at least one of the two, the later one both, so they meet at its claim;
    they take claims in the order of run ids, so somebody wins. `waiting` is a run to use, which was made for this
    process; else `attempt` names the one that is made, which is looked for when the server is asked `again`: the answer
    may have been lost on its way. With `force` other runs of the trial don't count.
    """
    attempt = waiting or attempt
    marks = {**tags, key_tag: key, Tag.ATTEMPT: attempt, Tag.MADE_BY: token, Tag.HEARTBEAT: now_milliseconds()}
    if waiting:
        log_tags(waiting, marks)
        mine = waiting
    else:
        known = find_all(experiment_id, Tag.ATTEMPT, [attempt]).get(attempt) if again else None
        mine = known[0].run_id if known else create_run(experiment_id, marks)
    runs = [get(mine)] if force else find_all(experiment_id, key_tag, [key])[key]
    free = not any(run.status == "FINISHED" or set(run.claims) - {token} for run in runs)
    # a run that is deleted by now is of a process that gave up: it stands in nobody's way
    ordered = sorted(runs, key=lambda run: run.run_id)
    if free and all(take(run, token) or (run.run_id != mine and is_deleted(run.run_id)) for run in ordered):
        return Claim(key=key, attempt=attempt, experiment=experiment_id, run_id=mine, token=token, tags=dict(tags))
    if waiting:
        mlflow.MlflowClient().delete_tag(waiting, key_tag)
    else:
        mlflow.MlflowClient().delete_run(mine)
    return None


def claim_again(experiment_id: str, run: Found, key: str, token: str, tags: Mapping[str, str]) -> Claim | None:
    """The unfinished run of a trial, claimed to go on with it; None when another process was first."""
    if not take(run, token):
        return None
    log_tags(run.run_id, {Tag.HEARTBEAT: now_milliseconds()})
    mlflow.MlflowClient().update_run(run.run_id, status="RUNNING")
    return Claim(
        key=key, attempt=run.attempt, experiment=experiment_id, run_id=run.run_id, token=token, tags=dict(tags)
    )


def now_milliseconds() -> str:
    """The time as a heartbeat."""
    return str(int(1000 * time.time()))


def log_tags(run_id: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> None:
    """Tags and parameters of a run, in one request."""
    mlflow.MlflowClient().log_batch(
        run_id,
        tags=[RunTag(name, value) for name, value in tags.items()],
        params=[Param(name, value) for name, value in (params or {}).items()],
    )


def end_run(run_id: str, status: str, tags: Mapping[str, str]) -> None:
    """End a run, with tags that say why."""
    if tags:
        log_tags(run_id, tags)
    mlflow.MlflowClient().set_terminated(run_id, status)
