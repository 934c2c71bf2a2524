"""Who may train a trial: one process at a time; nothing is taken from a living one, nothing is trained twice."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.fake_server import FakeServer, away
from helpers.leases import KEY, TRIAL, begin, leased, living, refused, run_of, train

from normstudy.errors import ServerAway
from normstudy.launch import maintenance, registry
from normstudy.launch.registry import Registry
from normstudy.launch.state import Outcome, TrialState
from normstudy.tracking import Tag
from normstudy.tracking.event_log import Event, TrialLock, logs
from normstudy.tracking.run import Lease

pytest_plugins = ["helpers.leases"]
pytestmark = pytest.mark.usefixtures("clock")
SECRET = "x/../../../home/precious"


def test_a_trial_is_new_then_runs_then_is_finished(server: FakeServer) -> None:
    asked = Registry(server=server, experiment="x")
    assert asked.states([KEY]) == {KEY: (TrialState.NEW, "")}
    lease = leased(server)
    assert asked.states([KEY]) == {KEY: (TrialState.RUNNING, f"run {run_of(lease)}")}
    assert begin(server) == (TrialState.RUNNING, f"run {run_of(lease)}")
    train(lease, 1, status="FINISHED")
    assert begin(server) == asked.states([KEY])[KEY] == (TrialState.FINISHED, f"run {run_of(lease)}")
    assert not logs()


def test_a_trial_that_diverged_is_trained_again_only_by_force(server: FakeServer) -> None:
    first = train(leased(server), 1, status="FAILED", diverged=True)
    assert begin(server) == (TrialState.DIVERGED, f"run {run_of(first)}")
    again = train(leased(server, force=True), 1, status="FINISHED")
    assert run_of(again) != run_of(first)
    assert refused(server) == TrialState.FINISHED


def test_force_makes_a_new_run_and_an_interrupted_force_goes_on_in_that(server: FakeServer) -> None:
    first = train(leased(server), 1, 2, status="FINISHED")
    forced = train(leased(server, force=True), 1)
    again = train(leased(server, force=True), 2, status="FINISHED")
    assert run_of(forced) == run_of(again) != run_of(first)
    assert again.log.id == forced.log.id
    assert [run.status for run in server.stored.values()] == ["FINISHED"] * 2


def test_a_living_process_elsewhere_is_known_by_its_heartbeat_and_keeps_its_run(
    server: FakeServer, clock: SimpleNamespace, on: Callable[[str], None]
) -> None:
    lease = leased(server)
    assert lease.upload
    clock.meanwhile = lease.upload.beat
    on("b")
    assert begin(server, force=True) == begin(server) == (TrialState.RUNNING, f"run {run_of(lease)}")
    assert clock.now < 3 * registry.WATCH_SECONDS
    assert len(server.stored) == 1


def test_a_silent_process_elsewhere_is_watched_and_then_taken_over_by_a_new_run(
    server: FakeServer, clock: SimpleNamespace, on: Callable[[str], None]
) -> None:
    old = leased(server)
    old.log.append(Event(step=1, metrics={"loss": 1.0}))
    assert old.upload
    old.upload.push()
    on("b")
    new = leased(server)
    assert clock.now >= registry.STALE_SECONDS
    assert run_of(new) != run_of(old)
    assert (server.stored[run_of(old)].status, server.stored[run_of(old)].tags[Tag.SUPERSEDED_BY]) == (
        "KILLED",
        run_of(new),
    )
    train(new, 1, 2, status="FINISHED")
    on("a")
    with pytest.raises(Exception, match="was taken over by run"):
        train(old, 2, status="FINISHED")
    assert server.stored[run_of(old)].history("loss") == [(1, 1.0)]
    assert begin(server) == (TrialState.FINISHED, f"run {run_of(new)}")


def test_a_record_that_was_copied_here_lends_its_epochs_to_the_run_that_takes_over(
    server: FakeServer, on: Callable[[str], None], tmp_path: Path
) -> None:
    old = train(leased(server), 1, 2)
    shutil.copytree(tmp_path / "a" / "records", tmp_path / "b" / "records")
    on("b")
    new = train(leased(server), 3, status="FINISHED")
    assert run_of(new) != run_of(old)
    assert [step for step, _ in server.stored[run_of(new)].history("loss")] == [1, 2, 3]


def test_machines_that_begin_a_trial_at_the_same_moment_train_it_once(
    server: FakeServer, on: Callable[[str], None]
) -> None:
    found: list[Lease | Outcome] = []

    def meanwhile(request: str) -> None:
        if request == "create":
            server.before = lambda _: None
            on("b")
            found.append(begin(server))
            on("a")

    server.before = meanwhile
    found.append(begin(server))
    assert [isinstance(one, Lease) for one in found] == [True, False]
    assert len(living(server)) == 1
    assert len(logs()) == 0  # nothing is left of the one that gave up


@pytest.mark.parametrize("tag", [Tag.RECORD, Tag.REPLACES, Tag.LAUNCHER])
def test_no_tag_of_a_server_leads_to_a_folder_here(server: FakeServer, tmp_path: Path, tag: str) -> None:
    for folder in (tmp_path / "home" / "precious", tmp_path / "precious", tmp_path / "a" / "precious"):
        folder.mkdir(parents=True)
        (folder / "thesis.txt").touch()
    run_id = server.create("x", {Tag.TRIAL_KEY: KEY, tag: SECRET})
    train(leased(server), 1, status="FINISHED")
    assert server.stored[run_id].status == "KILLED"
    assert len(list(tmp_path.rglob("thesis.txt"))) == 3
    maintenance.reap()
    maintenance.sync()
    assert len(list(tmp_path.rglob("thesis.txt"))) == 3


def test_a_record_that_is_whole_is_sent_and_its_trial_not_trained_again(server: FakeServer) -> None:
    lease = leased(None)
    train(lease, 1, 2, status="FINISHED")
    assert Registry(server=server, experiment="x").states([KEY])[KEY] == (TrialState.UNSENT, str(lease.log.folder))
    assert refused(server) == TrialState.FINISHED
    [run] = server.stored.values()
    assert [step for step, _ in run.history("loss")] == [1, 2]
    assert not logs()


def test_a_damaged_record_is_named_and_the_trial_begins_anew(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    old = train(leased(server), 1)
    old.log.path.write_bytes(old.log.path.read_bytes().replace(b"loss", b"lass"))
    new = leased(server)
    assert "line 3: damaged: it is not used" in capsys.readouterr().err
    assert run_of(new) != run_of(old)
    assert server.stored[run_of(old)].tags[Tag.SUPERSEDED_BY] == run_of(new)


def test_a_deleted_run_is_trained_anew_with_all_its_epochs(server: FakeServer) -> None:
    old = train(leased(server), 1, 2)
    server.delete(run_of(old))
    new = train(leased(server), 3, status="FINISHED")
    assert run_of(new) != run_of(old)
    assert [step for step, _ in server.stored[run_of(new)].history("loss")] == [1, 2, 3]
    assert server.stored[run_of(old)].deleted


def test_a_server_that_restarts_is_waited_for_and_no_second_run_is_made(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SERVER_AWAY_SECONDS", 30.0)
    asked: list[str] = []

    def lost(request: str) -> None:
        asked.append(request)
        if request == "log" or (request == "runs" and asked.count("create") == 1 and asked.count("runs") < 5):
            raise ServerAway("tracking server fake: connection reset")

    server.before = lost
    begin(server)
    assert len(server.stored) == 1
    assert "connection reset; a trial waits for it" in capsys.readouterr().err
    server.before = away


def test_the_run_that_mlflow_made_for_this_process_is_used_or_says_which_is(server: FakeServer) -> None:
    waiting = [server.create("x", {}) for _ in range(2)]
    registry_of_the_first = Registry(server=server, experiment="x", waiting=waiting[0])
    lease = registry_of_the_first.begin(TRIAL)
    assert isinstance(lease, Lease)
    assert run_of(lease) == waiting[0]
    train(lease, 1, status="FINISHED")
    Registry(server=server, experiment="x", waiting=waiting[1]).begin(TRIAL)
    assert server.stored[waiting[1]].tags[Tag.NOTE] == f"Nothing was logged here: GN, seed 0 is run `{waiting[0]}`."


@pytest.mark.parametrize("with_server", [True, False])
def test_a_forced_run_that_was_killed_is_not_called_finished_for_an_earlier_one(
    server: FakeServer, with_server: bool
) -> None:
    used = server if with_server else None
    asked = Registry(server=used, experiment="x")
    train(leased(used), 1, status="FINISHED")
    server.clock += 1
    train(leased(used, force=True), 1)
    assert asked.finalize(KEY, "launcher")[0] == TrialState.FINISHED
    assert asked.finalize(KEY, "launcher", force=True)[0] == TrialState.UNFINISHED
    assert {run.status for run in server.stored.values()} == ({"FINISHED", "KILLED"} if with_server else set())
    train(leased(used, force=True), 2, status="FINISHED")
    assert asked.finalize(KEY, "launcher", force=True)[0] == TrialState.FINISHED


def test_a_run_of_this_launcher_on_another_machine_is_ended_too(server: FakeServer, on: Callable[[str], None]) -> None:
    lease = leased(server)
    server.stored[run_of(lease)].tags[Tag.LAUNCHER] = "mine"
    on("b")
    asked = Registry(server=server, experiment="x")
    asked.finalize(KEY, "mine")
    assert server.stored[run_of(lease)].status == "KILLED"


def test_without_a_server_the_records_of_this_machine_decide(on: Callable[[str], None], tmp_path: Path) -> None:
    lease = train(leased(None), 1)
    assert leased(None).log.id == lease.log.id
    TrialLock(KEY).release()
    shutil.copytree(tmp_path / "a" / "records", tmp_path / "b" / "records")
    on("b")
    copied = train(leased(None), 2, status="FINISHED")
    assert copied.log.id != lease.log.id
    assert copied.log.epochs == {1, 2}
    assert refused(None) == TrialState.FINISHED
    assert leased(None, force=True).log.epochs == set()


def test_a_record_that_was_replaced_by_an_older_copy_goes_on_in_a_run_of_its_own(
    server: FakeServer, tmp_path: Path
) -> None:
    first = leased(server)
    train(first, 1)
    shutil.copytree(first.log.folder, tmp_path / "copy")
    again = leased(server)
    assert run_of(again) == run_of(first)
    train(again, 2)
    shutil.rmtree(first.log.folder)
    shutil.copytree(tmp_path / "copy", first.log.folder)
    third = leased(server)
    assert third.log.epochs == {1}
    train(third, 2, 3, status="FINISHED")
    old, new = server.stored[run_of(first)], server.stored[run_of(third)]
    assert (old.status, old.tags[Tag.SUPERSEDED_BY]) == ("KILLED", run_of(third))
    assert [step for step, _ in old.history("loss")] == [1, 2]
    assert [step for step, _ in new.history("loss")] == [1, 2, 3]
