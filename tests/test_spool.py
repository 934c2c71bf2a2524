"""The record of a run: what is on disk is whole, in order, and owned by one process."""

import errno
import os
from pathlib import Path

import pytest

from normstudy import spool
from normstudy.errors import StorageError
from normstudy.spool import Spool, is_locked, state_root, write_atomically


@pytest.fixture
def record(tmp_path: Path) -> Spool:
    record = Spool(tmp_path / "key.attempt")
    record.own(patience=0.0)
    return record


def test_events_are_read_in_the_order_of_their_writing(record: Spool) -> None:
    for step in (1, 2, 3):
        record.append("metrics", step=step)
    assert [(event["kind"], event["step"]) for event in record.events()] == [("metrics", step) for step in (1, 2, 3)]
    assert all(event["time"] > 1_700_000_000_000 for event in record.events())


def test_half_a_line_of_a_killed_process_is_no_event_and_is_overwritten(record: Spool) -> None:
    record.append("open")
    with record.log.open("ab") as file:
        file.write(b'{"kind": "metr')
    assert [event["kind"] for event in record.events()] == ["open"]
    record.append("end", status="KILLED")
    assert [event["kind"] for event in record.events()] == ["open", "end"]
    assert record.log.read_bytes().count(b"\n") == 2


def test_event_that_cannot_be_written_leaves_the_log_as_it_was(record: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    record.append("open")
    before = record.log.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool.os, "fsync", full)
    with pytest.raises(StorageError, match=r"can't write .*events.jsonl: No space left on device"):
        record.append("metrics", step=1)
    assert record.log.read_bytes() == before


def test_number_that_is_not_finite_is_never_recorded(record: Spool) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.append("metrics", values={"train/loss": float("nan")})
    assert record.events() == []


def test_second_owner_is_refused_by_name_until_the_first_lets_go(record: Spool) -> None:
    assert is_locked(record.folder / "lock")
    with pytest.raises(StorageError, match="another living process trains this trial"):
        Spool(record.folder).own(patience=0.0)
    record.close()
    assert not is_locked(record.folder / "lock")
    Spool(record.folder).own(patience=0.0)


def test_record_is_removed_once_its_run_has_finished_and_all_is_sent(record: Spool) -> None:
    record.append("end", status="FINISHED")
    record.close()
    assert record.log.is_file()
    record.own(patience=0.0)
    record.mark_sent(1)
    record.close()
    assert not record.folder.exists()


def test_record_of_a_killed_run_stays(record: Spool) -> None:
    record.append("end", status="KILLED")
    record.mark_sent(1)
    record.close()
    assert record.log.is_file()


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cursor"
    write_atomically(path, b"1")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool.os, "fsync", full)
    with pytest.raises(StorageError, match=r"can't write .*cursor: No space left on device"):
        write_atomically(path, b"2")
    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


def test_each_store_has_a_folder_of_its_own_and_so_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path))
    folders = {state_root(store) for store in ("sqlite:///a.db", "sqlite:///b.db", "http://host:5000", None)}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path}
