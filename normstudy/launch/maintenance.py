"""For runs whose process is gone: send what waits on this machine, end what nobody works for any more."""

import time
from itertools import product

from normstudy.errors import ServerAway, StorageError, one_line, say
from normstudy.launch.registry import GONE, Registry, deliver, end_for_another
from normstudy.tracking import Tag
from normstudy.tracking.client import Server, StoredRun
from normstudy.tracking.event_log import EventLog, TrialLock, logs
from normstudy.tracking.store import connect, first_line, where


def sync() -> tuple[int, int]:
    """Send the records on this machine that are for the server in use; how many it has now, and how many can't be sent,
    each of which is named. Studies come before their trials. A living process sends its own.

    Raises `ServerAway` when the server doesn't answer any more.
    """
    connect()
    server, sent, problems = Server(), 0, 0
    for log in sorted(logs(), key=_is_trial):  # which keeps the order in which they began
        try:
            sent += _send(log, server)
        except Exception as error:  # whatever a record holds, the others are sent
            if isinstance(error, ServerAway):
                server.experiments()  # raises where it is not this record alone that waits
            say(f"{log.folder}: not sent: {first_line(error)}; to drop it, remove that folder")
            problems += 1
    return sent, problems


def _is_trial(log: EventLog) -> bool:
    try:
        return log.begin.key_tag == Tag.TRIAL_KEY
    except StorageError:
        return True


def _send(log: EventLog, server: Server) -> bool:
    """Whether the server has all that is here."""
    begin, lock = log.begin, TrialLock(log.key)
    is_for_another = begin.store not in (None, where())
    if is_for_another and not server.runs(server.experiment(begin.experiment), Tag.RECORD, log.id):
        say(f"{log.folder}: is for {one_line(str(begin.store))}")
        return False
    if not lock.take():
        return False
    try:
        upload = deliver(log, server, "KILLED", GONE)
    finally:
        lock.release()
    if not upload.done:
        say(f"{begin.name}: sent as far as it is here; the process on {one_line(begin.host)} has not ended it")
    return True


def reap() -> tuple[list[str], int]:
    """End the runs on the server in use whose process is gone: what was done, a line each, and how many runs could not
    be ended, each of which is named. Takes `registry.STALE_SECONDS` where the heartbeat of another machine is watched.
    """
    connect()
    server = Server()
    registry = Registry(server=server, experiment="")
    pairs = product(server.experiments(), (Tag.TRIAL_KEY, Tag.STUDY_KEY))
    found = [run for pair in pairs for run in server.runs(*pair) if run.status == "RUNNING"]
    registry.watch(found)
    ended, problems = [], 0
    for run in found:
        try:
            if line := _end(run, registry, server):
                ended.append(line)
        except Exception as error:  # whatever a run or its record holds, the others are ended
            say(f"run {one_line(run.run_id)}: {first_line(error)}; to drop it, delete that run")
            problems += 1
    return ended, problems


def _end(run: StoredRun, registry: Registry, server: Server) -> str | None:
    key = run.tags.get(Tag.TRIAL_KEY) or run.tags.get(Tag.STUDY_KEY, "")
    if registry.is_living(run) or (run.tags.get(Tag.MACHINE) and TrialLock(key).is_held()):
        return None
    heartbeat = run.tags.get(Tag.HEARTBEAT, "")
    seconds = int(heartbeat) / 1000 if heartbeat.isdecimal() and len(heartbeat) == 13 else None
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "unknown"
    reason = f"its process is gone (last heartbeat: {when})"
    end_for_another(run, server, "FAILED", reason)
    now = server.get(run.run_id)
    return one_line(f"{run.tags.get(Tag.NAME, '')} (run {run.run_id}) is {now.status if now else 'gone'}: {reason}")
