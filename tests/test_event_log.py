"""The record of a run: what is on disk is whole and in order, and nothing in it leads elsewhere."""

import resource
from pathlib import Path

import pytest
from helpers.leases import BEGIN, KEY

from normstudy.errors import StorageError
from normstudy.tracking import Tag
from normstudy.tracking.event_log import Event, EventLog, TrialLock, logs, machine, own_path

pytest_plugins = ["helpers.leases"]
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def log() -> EventLog:
    return EventLog.create(KEY, BEGIN)


def test_events_are_read_in_the_order_of_their_writing(log: EventLog) -> None:
    for step in (1, 2, 3):
        log.append(Event(step=step, metrics={"loss": step / 2}))
    assert [(event.step, event.metrics) for event in log.events()] == [(s, {"loss": s / 2}) for s in (1, 2, 3)]
    assert all(event.time > 1_700_000_000_000 for event in log.events())
    assert log.epochs == {1, 2, 3}
    assert log.begin.name == "GN, seed 0"
    with pytest.raises(ValueError, match="finite number"):
        Event(step=4, metrics={"loss": float("nan")})


def test_half_a_line_of_a_killed_process_is_no_event_and_is_overwritten(log: EventLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'0badf00d {"step": ')
    assert log.events() == []
    log.append(Event(status="KILLED"))
    assert [event.status for event in log.events()] == ["KILLED"]
    assert log.path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("place", [3, 20, -5])
def test_one_damaged_byte_is_named_with_its_line(log: EventLog, place: int) -> None:
    log.append(Event(step=1, metrics={"loss": 1.0}))
    lines = log.path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[1])
    damaged[place] ^= 1
    log.path.write_bytes(lines[0] + bytes(damaged))
    with pytest.raises(StorageError, match=r"events.jsonl: line 2: "):
        log.events()


def test_part_of_a_line_that_a_full_disk_took_is_cut_off_and_stays_so(log: EventLog) -> None:
    log.append(Event(status="RUNNING"))
    before = log.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(StorageError, match="can't write"):
            log.append(Event(status="FINISHED"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.path.read_bytes() == before


def test_a_trial_has_one_owner_on_a_machine_until_that_lets_go() -> None:
    first, second = TrialLock(KEY), TrialLock(KEY)
    assert not second.is_held()
    assert first.take()
    assert second.is_held()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()


def test_a_copy_of_the_state_folder_is_another_machine(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    assert log.is_of_this_machine
    state.rename(state.with_name("moved"))
    (state.with_name("moved") / "records").mkdir(exist_ok=True)
    monkeypatch.setenv("NORMSTUDY_STATE", str(state.with_name("moved")))
    [moved] = logs(KEY)
    assert not moved.is_of_this_machine
    assert machine() != moved.begin.machine


def test_a_fork_has_the_epochs_with_their_device_and_checkpoints_and_none_of_the_rest(log: EventLog) -> None:
    begin = BEGIN.model_copy(update={"checkpoints": "c" * 32, "seeds": (0, 1)})
    old = EventLog.create(KEY, begin)
    old.append(Event(status="RUNNING", tags={"by": "old", Tag.DEVICE: "cuda"}))
    old.append(Event(step=1, metrics={"loss": 1.0}))
    old.append(Event(status="KILLED"))
    new = old.fork(BEGIN)
    assert new.id != old.id
    assert (new.begin.checkpoints, new.begin.seeds) == ("c" * 32, (0, 1))
    assert new.state.tags == {Tag.DEVICE: "cuda"}
    assert new.events()[1:] == [event for event in old.events() if event.metrics]  # the time is kept, too


@pytest.mark.parametrize("name", ["../evil", "x/../../evil", "", "ABC", "a b", "0123\n", "/etc", "..", "0.1.2"])
def test_no_name_but_hexadecimal_digits_becomes_a_path(name: str) -> None:
    with pytest.raises(StorageError, match="not a name of hexadecimal digits"):
        own_path("records", name)
    assert logs(name) == []


def test_only_a_record_is_removed_and_nothing_that_a_link_leads_to(log: EventLog, tmp_path: Path, state: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    (log.files / "link").symlink_to(precious)
    with pytest.raises(StorageError, match="hexadecimal"):
        EventLog(precious).remove()
    link = state / "records" / f"{KEY}.{'a' * 32}"
    link.symlink_to(precious)
    with pytest.raises(StorageError, match="a link"):
        EventLog(link).remove()
    log.remove()
    assert not log.folder.exists()
    assert (precious / "thesis.txt").is_file()
    assert logs() == []


def test_checkpoints_go_with_the_last_record_of_the_trials_that_share_them(state: Path) -> None:
    begin = BEGIN.model_copy(update={"checkpoints": "c" * 32})
    pair = [EventLog.create(KEY, begin), EventLog.create("f" * 16, begin)]
    own_path("checkpoints", "c" * 32).mkdir(parents=True)
    pair[0].remove()
    assert (state / "checkpoints" / ("c" * 32)).is_dir()
    pair[1].remove()
    assert not (state / "checkpoints" / ("c" * 32)).exists()


@pytest.mark.parametrize(
    "name", ["../events.jsonl", "/etc/hostname", "start/../../../lock", "link.txt", "linked/id_rsa"]
)
def test_no_file_but_those_of_the_record_itself_is_ever_sent(log: EventLog, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id_rsa").write_text("key")
    (log.files / "start").mkdir()
    (log.files / "start" / "link.txt").symlink_to(secret / "id_rsa")
    (log.files / "start" / "linked").symlink_to(secret)
    with pytest.raises(StorageError, match=r"is no file of this record$|missing or damaged$"):
        log.file("start", name, "0" * 64)
    with pytest.raises(StorageError, match="is no file of this record"):
        log.file("start", "link.txt", "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683")


def test_logs_of_a_trial_are_found_by_its_key_and_other_folders_are_none(log: EventLog, state: Path) -> None:
    EventLog.create("f" * 16, BEGIN)
    (state / "records" / "notes").mkdir()
    (state / "records" / f"{KEY}.{'b' * 32}").mkdir()  # of a process that was killed while it made it
    assert [found.id for found in logs(KEY)] == [log.id]
    assert len(logs()) == 2
