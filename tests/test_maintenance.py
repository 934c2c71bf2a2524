"""What waits on a machine is sent, what nobody works for is ended; nothing that lives is touched."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_server import FakeServer
from helpers.leases import TRIAL, leased, refused, run_of, train
from helpers.project import only_line

from normstudy.errors import Refused, ServerAway
from normstudy.launch import maintenance, registry
from normstudy.launch.registry import Trial
from normstudy.tracking import Tag
from normstudy.tracking.client import StoredRun
from normstudy.tracking.event_log import logs
from normstudy.tracking.run import Lease

pytest_plugins = ["helpers.leases"]
pytestmark = pytest.mark.usefixtures("clock")
STUDY, SECRET = "fedcba9876543210", "x/../../../home/precious"


@pytest.mark.parametrize(
    ("heartbeat", "when"),
    [
        ("1000000000000", "2001-09-09 01:46:40 UTC"),
        *((text, "unknown") for text in ("soon", "", "-1", "9" * 400, "1e999", "\x1b[2J")),
    ],
)
def test_a_heartbeat_of_any_text_is_only_compared_with_the_one_before(
    server: FakeServer, on: Callable[[str], None], heartbeat: str, when: str
) -> None:
    old = train(leased(server))
    server.stored[run_of(old)].tags[Tag.HEARTBEAT] = heartbeat
    on("b")
    line = f"GN, seed 0 (run {run_of(old)}) is FAILED: its process is gone (last heartbeat: {when})"
    assert maintenance.reap() == ([line], 0)
    assert server.stored[run_of(old)].status == "FAILED"


def test_a_trial_key_of_a_server_that_is_a_path_is_named_and_stops_nobody(
    server: FakeServer, capsys: pytest.CaptureFixture[str], on: Callable[[str], None]
) -> None:
    server.create("x", {Tag.TRIAL_KEY: SECRET, Tag.MACHINE: "m"})
    dead = train(leased(server))
    on("b")
    lines, problems = maintenance.reap()
    assert problems == 1
    assert "not a name of hexadecimal digits" in capsys.readouterr().err
    assert len(lines) == 1
    assert server.stored[run_of(dead)].status == "FAILED"


def study(server: FakeServer | None) -> Lease:
    return leased(server, trial=Trial(key=STUDY, name="study pair", key_tag=Tag.STUDY_KEY))


def test_studies_are_sent_before_their_trials_and_what_cannot_be_sent_is_named_and_stops_no_other(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parent = study(None)
    for number in range(3):
        train(
            leased(None, trial=Trial(key=f"{number:016x}", name=f"trial {number}", parent=parent.log.id)),
            1,
            status="FINISHED",
        )
    train(parent, status="FINISHED")
    log = logs(f"{1:016x}")[0]
    log.path.write_bytes(log.path.read_bytes()[:-3] + b"xx\n")
    assert maintenance.sync() == (3, 1)
    assert f"{log.folder}: not sent: {log.path}: line 4: damaged" in capsys.readouterr().err
    assert [run.tags[Tag.NAME] for run in server.stored.values()] == ["study pair", "trial 0", "trial 2"]
    [study_run] = [run_id for run_id, run in server.stored.items() if Tag.STUDY_KEY in run.tags]
    assert {run.tags.get(Tag.PARENT) for run in server.stored.values()} == {None, study_run}
    assert [one.id for one in logs()] == [log.id]


def test_sync_leaves_a_living_process_its_record_and_another_machine_its_run(
    server: FakeServer, on: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = leased(None)
    assert maintenance.sync() == (0, 0)
    assert not server.stored
    shutil.copytree(tmp_path / "a" / "records", tmp_path / "b" / "records")
    on("b")
    assert maintenance.sync() == (1, 0)
    assert "has not ended it" in capsys.readouterr().err
    assert [run.status for run in server.stored.values()] == ["RUNNING"]
    on("a")
    train(lease, 1, status="FINISHED")


def test_sync_ends_what_a_killed_process_of_this_machine_left(server: FakeServer) -> None:
    train(leased(None), 1)
    assert maintenance.sync() == (1, 0)
    [run] = server.stored.values()
    assert (run.status, run.tags[Tag.FAILURE]) == ("KILLED", registry.GONE)


def test_a_record_for_another_server_is_left_to_that(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    lease = train(leased(server), 1)
    server.stored = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maintenance, "where", lambda: "http://other:5000")
        assert maintenance.sync() == (0, 0)
    assert f"{lease.log.folder}: is for fake" in capsys.readouterr().err
    assert not server.stored


def test_sync_leaves_a_trial_alone_that_has_finished_elsewhere_and_names_the_record(
    server: FakeServer, on: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    offline = train(leased(None), 1, status="FINISHED")
    on("b")
    other = train(leased(server), 1, status="FINISHED")
    on("a")
    for _ in range(2):
        assert maintenance.sync() == (0, 1)
        said = f"{offline.log.folder}: not sent: GN, seed 0 has finished elsewhere, as run {run_of(other)}"
        assert said in capsys.readouterr().err
    assert len(server.stored) == 1


def test_a_run_that_cannot_be_ended_is_named_with_how_to_drop_it_and_the_others_are_ended(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (run_of(train(leased(server, trial=Trial(key=key * 16, name=key)), 1)) for key in "ef")
    end = registry.end_for_another

    def refusing(run: StoredRun, *arguments: Any) -> None:
        if run.run_id == first:
            raise Refused("no such run")
        end(run, *arguments)

    monkeypatch.setattr(maintenance, "end_for_another", refusing)
    lines, problems = maintenance.reap()
    assert (len(lines), problems) == (1, 1)
    assert server.stored[second].status == "FAILED"
    said = only_line(capsys.readouterr().err)
    assert said == f"normstudy: run {first}: no such run; to drop it, delete that run"


@pytest.mark.parametrize("status", ["FINISHED", None])
def test_a_dead_run_of_another_machine_keeps_no_record_from_being_sent(
    server: FakeServer, on: Callable[[str], None], status: str | None
) -> None:
    dead = train(leased(server), 1)
    on("b")
    train(leased(None), 1, 2, status=status)
    assert maintenance.sync() == (1, 0)
    [sent] = [run_id for run_id in server.stored if run_id != run_of(dead)]
    assert [step for step, _ in server.stored[sent].history("loss")] == [1, 2]
    assert server.stored[sent].status == (status or "KILLED")
    assert Tag.SUPERSEDED_BY not in server.stored[sent].tags
    if status is None:
        train(leased(server), 3, status="FINISHED")
    assert refused(server) == "finished"


@pytest.mark.parametrize("error", [Refused("no room"), RuntimeError("a bug"), ServerAway("not now")], ids=repr)
def test_a_record_that_cannot_be_sent_is_named_with_how_to_drop_it_and_the_others_are_sent(
    server: FakeServer, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    for number in range(3):
        train(leased(None, trial=Trial(key=f"{number:016x}", name=f"trial {number}")), 1, status="FINISHED")

    def refuses(request: str) -> None:
        if request == "create" and len(server.stored) == 1 and not asked:
            asked.append(request)
            raise error

    asked: list[str] = []
    server.before = refuses
    assert maintenance.sync() == (2, 1)
    [log] = logs()
    assert f"{log.folder}: not sent: {error}; to drop it, remove that folder" in capsys.readouterr().err
    assert [run.status for run in server.stored.values()] == ["FINISHED"] * 2


def test_a_trial_begun_under_a_study_that_the_server_lost_goes_on_under_the_one_that_trains_it_now(
    server: FakeServer,
) -> None:
    train(leased(server, trial=replace(TRIAL, parent=server_study(server, "a"))), 1)
    server.stored = {}
    now = server_study(server, "b")
    lease = leased(server, trial=replace(TRIAL, parent=now))
    [study] = [run_id for run_id, run in server.stored.items() if run.tags[Tag.RECORD] == now]
    assert server.stored[run_of(lease)].tags[Tag.PARENT] == study
    assert lease.log.epochs == {1}


def server_study(server: FakeServer, digit: str) -> str:
    """A study's run; the id of its record."""
    server.create("x", {Tag.RECORD: digit * 32, Tag.STUDY_KEY: digit * 16})
    return digit * 32


def test_names_from_a_server_reach_no_terminal_as_they_are(server: FakeServer, on: Callable[[str], None]) -> None:
    lease = train(leased(server))
    server.stored[run_of(lease)].tags[Tag.NAME] = "a\x1b[2J\nb\u202e"
    on("b")
    [line], _ = maintenance.reap()
    assert line.isprintable()
