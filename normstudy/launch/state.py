"""The state of a trial, as its run on a server or its record on this machine tells it."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from normstudy.errors import StorageError, one_line, say
from normstudy.tracking import Tag
from normstudy.tracking.client import StoredRun, is_result
from normstudy.tracking.event_log import EventLog


class TrialState(StrEnum):
    """Of a trial, as people read it."""

    NEW = "new"
    FINISHED = "finished"
    DIVERGED = "diverged"
    RUNNING = "running elsewhere"
    UNFINISHED = "unfinished"
    UNSENT = "not on the server"


Outcome = tuple[TrialState, str]  # and the run or record that it is read from, with the reason where it failed
FINAL = (TrialState.FINISHED, TrialState.DIVERGED)
LEFT = (TrialState.NEW, TrialState.UNFINISHED, TrialState.UNSENT)  # there is something to do


def outcome_of(run: StoredRun | None) -> Outcome:
    """Of a trial by its run, where that has a result; else it is another process's."""
    if run and is_result(run):
        return (TrialState.FINISHED if run.status == "FINISHED" else TrialState.DIVERGED), run_in_words(run)
    return TrialState.RUNNING, run_in_words(run)


def outcome_in(log: EventLog) -> Outcome:
    """Of a trial by its record, with a result or without one."""
    end = log.end
    reason = end.tags.get(Tag.FAILURE) if end else None
    what = one_line(f"{log.folder}: {reason}" if reason else str(log.folder))
    if end and end.status == "FINISHED":
        return TrialState.FINISHED, what
    return (TrialState.DIVERGED if end and end.diverged else TrialState.UNFINISHED), what


def run_in_words(run: StoredRun | None) -> str:
    """A run by its id, with the reason where it failed."""
    if run is None:
        return ""
    reason = run.tags.get(Tag.FAILURE) if run.status != "FINISHED" else None
    return one_line(f"run {run.run_id}: {reason}" if reason else f"run {run.run_id}")


def usable_logs(
    found: Iterable[EventLog], store: str | None, runs: Sequence[StoredRun] = ()
) -> dict[str, list[EventLog]]:
    """The whole logs for this store, or of these runs, by their trial, oldest first; a damaged one is named."""
    usable: dict[str, list[EventLog]] = {}
    records = {run.tags.get(Tag.RECORD) for run in runs}  # a server may be called localhost and 127.0.0.1
    for log in found:
        try:
            log.events()
            if log.begin.store in (None, store) or log.id in records:
                usable.setdefault(log.key, []).append(log)
        except StorageError as error:
            say(f"{error}: it is not used")
    return usable
