"""The two threads beside the training: outages, refusals and heartbeats."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fake_server import FakeServer, away
from helpers.leases import BEGIN, KEY, finish

from normstudy.errors import Refused, ResultWaits
from normstudy.launch.registry import deliver
from normstudy.tracking import Tag, uploader
from normstudy.tracking.event_log import Event, EventLog
from normstudy.tracking.upload import Upload
from normstudy.tracking.uploader import Uploader

pytest_plugins = ["helpers.leases"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def log(state: Path) -> EventLog:
    log = EventLog.create(KEY, BEGIN)
    log.append(Event(status="RUNNING"))
    return log


def finish_beside(log: EventLog, server: FakeServer) -> None:
    """What a process does whose run ends while its uploader runs."""
    with Uploader() as working:
        working.uploads.append(Upload(log, server))
        finish(log)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(uploader, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(uploader, "LAST_TRIES_SECONDS", 0.05)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_outage_is_said_once_and_so_is_its_end(
    server: FakeServer, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    server.before = away
    with Uploader() as working:
        working.uploads.append(Upload(log, server))
        until(lambda: len(server.requests) > 4)
        server.before = lambda _: None
        until(lambda: bool(server.stored))
        finish(log)
    told = capsys.readouterr().err.splitlines()
    assert ["waits on this machine" in told[0], "is back" in told[1], len(told)] == [True, True, 2]
    assert not log.folder.exists()


def test_a_result_that_a_server_has_not_got_is_an_error_of_its_own(server: FakeServer, log: EventLog) -> None:
    server.before = away
    with pytest.raises(ResultWaits, match=r"GN, seed 0 waits in .*: `python -m normstudy sync` sends it") as error:
        finish_beside(log, server)
    assert error.value.exit_status == 3
    assert log.has_result


def test_a_run_whose_files_are_refused_fails_and_one_beside_it_goes_on(server: FakeServer, log: EventLog) -> None:
    other = EventLog.create("f" * 16, BEGIN.model_copy(update={"name": "LN, seed 0"}))
    other.append(Event(status="RUNNING"))
    finish(log)

    def full(request: str) -> None:
        if request == "upload":
            raise Refused("No space left on device")

    def both() -> None:
        with Uploader() as working:
            working.uploads += [Upload(log, server), Upload(other, server)]
            until(lambda: working.uploads[0].stopped is not None)
            other.append(Event(status="FINISHED"))

    server.before = full
    with pytest.raises(Refused, match=r"GN, seed 0: not all of it could be stored: No space left on device; "):
        both()
    statuses = {run.tags[Tag.NAME]: run.status for run in server.stored.values()}
    assert statuses == {"GN, seed 0": "FAILED", "LN, seed 0": "FINISHED"}
    server.before = lambda _: None
    assert deliver(log, server, "KILLED", "?").done  # once there is room
    assert {(run.status, Tag.FAILURE in run.tags) for run in server.stored.values()} == {("FINISHED", False)}


def test_the_heartbeat_goes_on_while_a_long_upload_keeps_the_other_thread(server: FakeServer, log: EventLog) -> None:
    finish(log)
    released = threading.Event()
    server.before = lambda request: released.wait() if request == "upload" else None
    with Uploader() as working:
        working.uploads.append(upload := Upload(log, server))
        beats: set[str] = set()
        until(lambda: upload.run is not None)

        def has_beaten() -> bool:
            beats.add(server.stored[upload.run_id].tags[Tag.HEARTBEAT])
            return len(beats) > 3

        until(has_beaten)
        released.set()


def test_the_end_of_a_run_whose_disk_is_full_reaches_the_server_all_the_same(server: FakeServer, log: EventLog) -> None:
    with Uploader() as working:
        working.uploads.append(upload := Upload(log, server))
        upload.unwritten_end = Event(status="FAILED", tags={Tag.FAILURE: "disk full"})
    [run] = server.stored.values()
    assert (run.status, run.tags[Tag.FAILURE]) == ("FAILED", "disk full")
