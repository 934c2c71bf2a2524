"""Which trials are left to train, and leave to train them: asked of the server, or, without one, of this machine."""

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import mlflow

from normstudy.courier import deliver, say
from normstudy.errors import StorageError, Superseded, TrackingError
from normstudy.spool import Spool, is_locked, state_root
from normstudy.tracking import Tag, chosen_experiment, connect, experiment_name, first_line, where
from normstudy.trials import (
    HOST,
    Claim,
    Driver,
    Found,
    State,
    claim_again,
    claim_new,
    decisive,
    end_run,
    find_all,
    get,
    log_tags,
    states,
)

PATIENCE_SECONDS = 60.0  # that a new trial waits for a server that is away
GONE = "its process ended without a word"
Answer = TypeVar("Answer")


@runtime_checkable
class Ledger(Protocol):
    """Who decides, as the only one, what a process of normstudy trains."""

    uri: str | None  # tracking URI; None where no server is asked
    store: str | None  # the same without a password, which names the folder of its records

    def __enter__(self) -> "Ledger": ...
    def __exit__(self, *error: object) -> None: ...
    def states(self, keys: Sequence[str], key_tag: Tag) -> dict[str, tuple[State, str]]:
        """The state of each key, and the run or folder that it is read from."""

    def claim(
        self, key: str, key_tag: Tag, tags: Mapping[str, str], parent: Claim | None, *, force: bool
    ) -> Claim | None:
        """Leave to train a trial that is new or unfinished; None when another process has it."""

    def point_to(self, key: str, tags: Mapping[str, str]) -> None:
        """Say in the run that `mlflow run` made for this process, if it made one, which run has its trial."""

    def settle(self, claim: Claim) -> tuple[State, str]:
        """State of a trial whose process is gone, ended if that left it running, and the reason if it failed."""


class ServerLedger:
    """The runs of one experiment."""

    def __init__(self) -> None:
        self.uri: str | None = connect()
        self.store: str | None = where()
        self.waiting = os.environ.pop("MLFLOW_RUN_ID", None)  # a run that `mlflow run` has made for this process
        self.experiment = mlflow.get_run(self.waiting).info.experiment_id if self.waiting else chosen_experiment()
        self.driver = Driver(self.store)
        self.found: dict[str, Found | None] = {}

    def __enter__(self) -> "ServerLedger":
        self.driver.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.__exit__()

    def states(self, keys: Sequence[str], key_tag: Tag) -> dict[str, tuple[State, str]]:
        runs = find_all(self.experiment, key_tag, keys)
        found = {key: self._complete(decisive(runs.get(key, []))) for key in keys}
        self.found |= found
        return {key: (state, describe(found[key])) for key, state in states(found).items()}

    def claim(
        self, key: str, key_tag: Tag, tags: Mapping[str, str], parent: Claim | None, *, force: bool
    ) -> Claim | None:
        attempt, token = uuid.uuid4().hex, self.driver.token
        found = None if force else self.found.get(key)
        tags = {**tags, Tag.PARENT: str(parent.run_id)} if parent else dict(tags)
        if found is not None:
            self.point_to(key, tags)
            return self._patiently(lambda again: claim_again(self.experiment, found, key, token, tags))
        claim = self._patiently(
            lambda again: claim_new(
                self.experiment, key_tag, key, token, tags,
                attempt=attempt, again=again, waiting=self.waiting, force=force,
            )
        )  # fmt: skip
        if claim is not None:
            self.waiting = None
        return claim

    def point_to(self, key: str, tags: Mapping[str, str]) -> None:
        if self.waiting and (found := self.found.get(key)):
            log_tags(self.waiting, pointer(tags, found))
            self.waiting = None

    def settle(self, claim: Claim) -> tuple[State, str]:
        assert claim.run_id
        run_id, folder = claim.run_id, claim.folder(self.store)
        found = get(run_id)
        if found.status == "RUNNING":
            if (folder / "events.jsonl").is_file():
                deliver(folder, "KILLED", GONE)
            else:
                end_run(run_id, "KILLED", {Tag.FAILURE: GONE})
            found = get(run_id)
        return states({"": found})[""], describe(found)

    def _complete(self, found: Found | None) -> Found | None:
        """The run, once the server has its end: a process that was killed when all was recorded has sent a part."""
        if found is None or found.status == "FINISHED":
            return found
        folder = found.folder(self.store)
        if not (folder / "events.jsonl").is_file() or local_state(folder)[0] != State.FINISHED:
            return found
        with suppress(StorageError, Superseded):  # its process lives, or another one has taken it over
            deliver(folder, "KILLED", GONE)
        return get(found.run_id)

    def _patiently(self, ask: Callable[[bool], Answer]) -> Answer:
        """A server that restarts is asked again (True), for a minute."""
        deadline, told = time.monotonic() + PATIENCE_SECONDS, False
        while True:
            try:
                return ask(told)
            except Exception as error:  # whatever the way to a server raises
                if time.monotonic() > deadline:
                    raise TrackingError(f"tracking server {self.store} is away: {first_line(error)}") from error
                if not told:
                    say(f"tracking server {self.store} is away, a new trial waits for it: {first_line(error)}")
                told = True
                time.sleep(2)


def pointer(tags: Mapping[str, str], found: Found) -> dict[str, str]:
    """Tags of a run that was made for a trial which another run has."""
    return {
        Tag.NAME: f"launch of {tags[Tag.NAME]}",
        Tag.NOTE: f"Nothing was logged here: {tags[Tag.NAME]} is run `{found.run_id}`.",
    }


def describe(found: Found | None) -> str:
    """A run by its id, with the reason where it failed."""
    if found is None:
        return ""
    reason = found.tags.get(Tag.FAILURE)
    return f"run {found.run_id}" + (f": {reason}" if reason and found.status != "FINISHED" else "")


class LocalLedger:
    """The records of this machine that were begun without a server."""

    uri: str | None = None
    store: str | None = None

    def __enter__(self) -> "LocalLedger":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def states(self, keys: Sequence[str], key_tag: Tag) -> dict[str, tuple[State, str]]:
        return {key: local_state(newest_record(key)) for key in keys}

    def claim(
        self, key: str, key_tag: Tag, tags: Mapping[str, str], parent: Claim | None, *, force: bool
    ) -> Claim | None:
        folder = None if force else newest_record(key)
        attempt = folder.name.partition(".")[2] if folder else uuid.uuid4().hex
        return Claim(
            key=key, attempt=attempt, experiment=experiment_name(), run_id=None, token=None,
            parent=parent.attempt if parent else None, tags={**tags, key_tag: key},
        )  # fmt: skip

    def point_to(self, key: str, tags: Mapping[str, str]) -> None:
        pass

    def settle(self, claim: Claim) -> tuple[State, str]:
        spool = Spool(claim.folder(None))
        spool.own(patience=0.0)
        if (events := spool.events()) and events[-1]["kind"] != "end":
            spool.append("end", status="KILLED", tags={Tag.FAILURE: GONE})
        spool.lock.release()
        return local_state(spool.folder)


def newest_record(key: str) -> Path | None:
    """Of a trial's records without a server, the newest."""
    records = state_root(None).glob(f"{key}.*")
    return max(records, key=lambda folder: folder.stat().st_mtime, default=None)


def local_state(folder: Path | None) -> tuple[State, str]:
    """What a record says of its trial."""
    if folder is None:
        return State.NEW, ""
    if is_locked(folder / "lock"):
        return State.RUNNING, str(folder)
    last = (Spool(folder).events() or [{"kind": "none"}])[-1]
    if last["kind"] != "end":
        return State.UNFINISHED, str(folder)
    reason = f"{folder}: {last['tags'].get(Tag.FAILURE, '')}".removesuffix(": ")
    if last["status"] == "FINISHED":
        return State.FINISHED, reason
    return (State.DIVERGED if Tag.FAILURE_STEP in last["tags"] else State.UNFINISHED), reason


def sync() -> int:
    """Send what waits on this machine for the server in use; the number of events sent. A living process sends its own.

    Raises `TrackingError` when the server is away.
    """
    connect()
    total = 0
    for folder in waiting_records():
        try:
            total += deliver(folder, "KILLED", GONE)
        except (StorageError, Superseded, TrackingError) as error:  # its process lives, or another run has its trial
            say(str(error) if str(folder) in str(error) else f"{folder}: {error}")
        except Exception as error:  # whatever the way to a server raises
            raise TrackingError(f"{folder}: not sent to {where()}: {first_line(error)}") from error
    return total


def waiting_records() -> list[Path]:
    """Records with events that the server in use doesn't have, in the order in which they were begun, so that a study
    comes before its trials."""
    logs = [log for root in (state_root(None), state_root(where())) for log in root.glob("*/events.jsonl")]
    logs = [log for log in logs if Spool(log.parent).sent() < len(Spool(log.parent).events())]
    return [log.parent for log in sorted(logs, key=lambda log: json.loads(log.read_text().partition("\n")[0])["time"])]


def reap() -> list[str]:
    """End the runs on the server in use whose process is gone; what was done, a line each. Takes seconds where a heart
    must be watched."""
    connect()
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    found: dict[str, Found | None] = {}
    for key_tag in (Tag.TRIAL_KEY, Tag.STUDY_KEY):
        for experiment in experiments:
            for runs in find_all(experiment, key_tag, None).values():
                found |= {run.run_id: run for run in runs if run.status == "RUNNING"}
    ended = []
    for run_id, state in states(found).items():
        run = found[run_id]
        if state != State.UNFINISHED or run is None:
            continue
        beat = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.heartbeat)) + " UTC" if run.heartbeat else "never"
        reason = f"its process is gone (last heartbeat: {beat})"
        folder = run.folder(where())
        if (folder / "events.jsonl").is_file() and run.tags.get(Tag.HOST) == HOST:
            deliver(folder, "FAILED", reason)
        if get(run_id).status == "RUNNING":
            end_run(run_id, "FAILED", {Tag.FAILURE: reason})
        ended.append(f"{run.tags.get(Tag.NAME, '')} (run {run_id}) is {get(run_id).status}: {reason}")
    return ended
