"""From the log to the server: what lacks is sent, once, and nothing is written to a run that is another's."""

import errno
import shutil
from pathlib import Path

import mlflow
import pytest
import requests
from helpers.fake_server import FakeServer
from helpers.leases import BEGIN, KEY, finish

from normstudy.errors import RunDeleted, StorageError, Superseded
from normstudy.launch.registry import deliver
from normstudy.tracking import Tag
from normstudy.tracking.event_log import Event, EventLog
from normstudy.tracking.mlflow_private import is_refusal
from normstudy.tracking.upload import Upload

pytest_plugins = ["helpers.leases"]
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def log() -> EventLog:
    log = EventLog.create(KEY, BEGIN)
    log.append(Event(status="RUNNING", tags={"note": "begun"}, params={"epochs": "3"}, datasets=({"name": "MNIST"},)))
    return log


def train(log: EventLog, *epochs: int) -> None:
    for step in epochs:
        log.append(Event(step=step, metrics={"loss": 1 / step, "accuracy": step / 10}))


def epochs(server: FakeServer, run_id: str) -> list[int]:
    return [step for step, _ in server.stored[run_id].history("loss")]


def test_a_run_gets_all_that_its_log_has_and_is_then_finished(server: FakeServer, log: EventLog) -> None:
    upload = Upload(log, server)
    upload.push()
    train(log, 1, 2, 3)
    finish(log)
    upload.push()
    [(run_id, run)] = server.stored.items()
    assert epochs(server, run_id) == [1, 2, 3]
    assert (run.status, run.tags["note"], run.params, run.datasets) == (
        "FINISHED",
        "finished",
        {"epochs": "3"},
        [{"name": "MNIST"}],
    )
    assert run.files == {"misclassified/table.json": b"{}"}
    assert upload.done


def test_a_copy_that_is_sent_again_when_it_has_grown_loses_no_epoch(
    server: FakeServer, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for more in ((1, 2), (3, 4)):
        train(log, *more)
        shutil.copytree(log.folder, home / "records" / log.folder.name, dirs_exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setenv("NORMSTUDY_STATE", str(home))
            deliver(EventLog(home / "records" / log.folder.name), server, "KILLED", "gone")
    [(run_id, run)] = server.stored.items()
    assert epochs(server, run_id) == [1, 2, 3, 4]
    assert run.status == "RUNNING"  # its process on the other machine may train on


def test_a_server_restored_from_a_backup_gets_what_it_has_lost_before_the_run_ends(
    server: FakeServer, log: EventLog
) -> None:
    upload = Upload(log, server)
    train(log, 1)
    upload.push()
    backup = server.backup()
    train(log, 2, 3)
    upload.push()
    server.stored = backup
    finish(log)
    upload.push()
    [run_id] = server.stored
    assert epochs(server, run_id) == [1, 2, 3]
    assert server.stored[run_id].status == "FINISHED"


def test_a_deleted_run_stays_deleted(server: FakeServer, log: EventLog) -> None:
    upload = Upload(log, server)
    upload.push()
    server.stored[upload.run_id].deleted = True
    train(log, 1)
    for one in (upload, Upload(log, server)):
        with pytest.raises(RunDeleted, match=r"GN, seed 0: run [0-9a-f]{32} was deleted"):
            one.push()
    assert len(server.stored) == 1
    assert epochs(server, upload.run_id) == []


@pytest.mark.parametrize("how", ["pointer", "finished elsewhere"])
def test_nothing_is_written_to_a_run_once_another_counts(server: FakeServer, log: EventLog, how: str) -> None:
    upload = Upload(log, server)
    upload.push()
    if how == "pointer":
        server.stored[upload.run_id].tags[Tag.SUPERSEDED_BY] = "f" * 32
    else:
        server.stored["f" * 32] = other = server.backup()[upload.run_id]
        other.status, other.tags = "FINISHED", {Tag.TRIAL_KEY: KEY}
    train(log, 1, 2)
    finish(log)
    with pytest.raises(Superseded, match=r"run f{32}"):
        upload.push()
    assert epochs(server, upload.run_id) == []
    assert server.stored[upload.run_id].status != "FINISHED"
    assert server.stored[upload.run_id].tags[Tag.SUPERSEDED_BY] == "f" * 32


def test_a_process_that_is_stopped_right_before_its_end_and_taken_over_does_not_count(
    server: FakeServer, log: EventLog
) -> None:
    upload = Upload(log, server)
    train(log, 1)
    finish(log)

    def taken_over(request: str) -> None:
        if request == "set_status":  # all checks are made, the request is on its way
            server.before = lambda _: None
            server.stored[upload.run_id].tags[Tag.SUPERSEDED_BY] = "f" * 32

    server.before = taken_over
    with pytest.raises(Superseded):
        upload.push()
    assert server.stored[upload.run_id].status == "KILLED"


def test_copies_of_one_record_that_are_sent_at_once_make_one_run(server: FakeServer, log: EventLog) -> None:
    train(log, 1)

    def meanwhile(request: str) -> None:
        if request == "create":
            server.before = lambda _: None
            Upload(log, server).push()

    server.before = meanwhile
    upload = Upload(log, server)
    upload.push()
    [run_id] = [run_id for run_id, run in server.stored.items() if not run.deleted]
    assert upload.run_id == run_id
    assert epochs(server, run_id) == [1]


@pytest.mark.parametrize("damage", ["missing", "changed", "link"])
def test_a_run_is_never_finished_without_a_file_that_it_has_logged(
    server: FakeServer, log: EventLog, damage: str, tmp_path: Path
) -> None:
    finish(log)
    table = log.files / "result" / "misclassified" / "table.json"
    table.unlink()
    if damage == "changed":
        table.write_text("[]")
    if damage == "link":
        (tmp_path / "same").write_text("{}")
        table.symlink_to(tmp_path / "same")
    with pytest.raises(StorageError, match=r"missing or damaged|no file of this record"):
        Upload(log, server).push()
    assert [run.status for run in server.stored.values()] == ["RUNNING"]
    assert [run.files for run in server.stored.values()] == [{}]


def test_why_an_earlier_process_ended_is_no_more_said_of_a_run_that_goes_on(server: FakeServer, log: EventLog) -> None:
    log.append(Event(status="KILLED", tags={Tag.FAILURE: "stopped"}))
    Upload(log, server).push()
    [run] = server.stored.values()
    assert (run.status, run.tags[Tag.FAILURE]) == ("KILLED", "stopped")
    log.append(Event(status="RUNNING"))
    Upload(log, server).push()
    assert run.status == "RUNNING"
    assert Tag.FAILURE not in run.tags


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("?", response=response)


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (mlflow.MlflowException("?", error_code=1000), True),  # INVALID_PARAMETER_VALUE
        (mlflow.MlflowException("?"), False),  # INTERNAL_ERROR, as of a server that can't be reached
        (OSError(errno.ENOSPC, "?"), True),
        (OSError(errno.EROFS, "?"), True),
        (OSError(errno.ECONNREFUSED, "?"), False),
        (http_error(403), True),
        (http_error(507), False),
        (http_error(429), False),
        (ConnectionError("?"), False),
    ],
)
def test_a_server_that_refuses_is_not_one_that_is_away(error: Exception, refuses: bool) -> None:
    assert is_refusal(error) is refuses
