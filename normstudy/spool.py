"""A run's record on this machine: what it logs is on disk before a server hears of it."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normstudy.errors import StorageError
from normstudy.provenance import PROJECT

STATE = "NORMSTUDY_STATE"  # variable of the environment
OFFLINE = "offline"  # folder of the records that were begun without a server


def state_root(store: str | None) -> Path:
    """Where this machine keeps the records of runs on `store`, a tracking URI without a password; None: on none yet.

    `NORMSTUDY_STATE` names another place than `.normstudy` in the project.
    """
    root = Path(os.environ.get(STATE) or PROJECT / ".normstudy")
    return root / (hashlib.sha256(store.encode()).hexdigest()[:12] if store else OFFLINE)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write into a `StorageError` of one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """The file is either what it was or all of `content`, whatever ends the process or the machine. Raises
    `StorageError`, and leaves nothing behind, where the disk is full or read-only."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder, new or renamed, outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; the kernel frees it when its holder dies, however that happens."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


class Spool:
    """The events of one run, in the order in which they happened, and how many of them the server has.

    `events.jsonl` only ever grows; each event is on disk (fsync) before `append` returns. `files/` holds what the
    events name. One process at a time owns a spool, by its lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "files"
        self.log, self.cursor = folder / "events.jsonl", folder / "sent"
        self.lock = FileLock(folder / "lock", thread_local=False)

    def own(self, patience: float) -> None:
        """Take the lock, wait up to `patience` seconds for an owner that is just ending.

        Raises `StorageError` when it is held, or the folder can't be written.
        """
        with writing(self.folder):
            self.files.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(timeout=patience)
            except Timeout:
                raise StorageError(f"{self.folder}: another living process trains this trial") from None

    def append(self, kind: str, **content: Any) -> None:
        """Add an event. Raises `StorageError`, and leaves the log as it was, when it can't be written."""
        line = json.dumps({"kind": kind, "time": int(1000 * time.time()), **content}, allow_nan=False) + "\n"
        with writing(self.log), self.log.open("ab") as file:
            size = self._whole_size()
            os.ftruncate(file.fileno(), size)  # what a killed process left of its last line
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise

    def _whole_size(self) -> int:
        text = self.log.read_bytes()
        return text.rfind(b"\n") + 1

    def events(self) -> list[dict[str, Any]]:
        """All whole events."""
        if not self.log.is_file():
            return []
        return [json.loads(line) for line in self.log.read_bytes()[: self._whole_size()].splitlines()]

    def sent(self) -> int:
        """How many events the server has."""
        return int(self.cursor.read_text()) if self.cursor.is_file() else 0

    def mark_sent(self, count: int) -> None:
        """The server has the first `count` events."""
        write_atomically(self.cursor, str(count).encode())

    def close(self) -> None:
        """Let go of it; a run that has finished, and is all on the server, needs its record no more."""
        events = self.events()
        done = self.sent() == len(events) and bool(events) and events[-1].get("status") == "FINISHED"
        if done:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()
