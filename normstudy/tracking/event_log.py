"""A run's record on this machine: a write-ahead log. What a run logs is on disk here before a server hears of it."""

import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normstudy.errors import StorageError
from normstudy.files import fsync, writing
from normstudy.tracking import Tag, TrainedModel
from normstudy.tracking.store import state_root

HEXADECIMAL = re.compile(r"[0-9a-f]+(\.[0-9a-f]+)?")  # of every folder and lock that is made here
RECORD = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{32}")
Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]


def machine() -> str:
    """16 hexadecimal digits that name this state folder on this host; a copy of it, here or elsewhere, is another."""
    root = state_root().resolve()
    inode = root.stat().st_ino if root.is_dir() else 0
    return hashlib.sha256(f"{socket.gethostname()}|{root}|{inode}".encode()).hexdigest()[:16]


def own_path(kind: str, name: str) -> Path:
    """A path below the state folder. Raises `StorageError` for a name of other signs than hexadecimal digits, and for a
    link: names come from copied records, and what they name is written to and removed."""
    path, root = state_root() / kind / name, state_root().resolve()
    if not HEXADECIMAL.fullmatch(name):
        raise StorageError(f"{kind}: {name[:80]!r} is not a name of hexadecimal digits")
    if path.resolve() != root / kind / name:
        raise StorageError(f"{path}: a link; nothing is read or written there")
    return path


class TrialLock:
    """The right to train a trial on this machine. The kernel frees it when its process dies, however that happens."""

    def __init__(self, key: str) -> None:
        self.path = own_path("locks", key)
        self.lock = FileLock(self.path, thread_local=False)
        self.release = self.lock.release

    def take(self, patience: float = 0.0) -> bool:
        """Take it, waiting up to `patience` seconds; False while another process has it."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(timeout=patience)
            except Timeout:
                return False
        return True

    def is_held(self) -> bool:
        """Whether a living process on this machine has it."""
        held = self.path.exists() and not self.take()
        self.release()
        return held


class Entry(BaseModel):
    """A line of a log; `time` is in milliseconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    time: int = 0  # stamped as it is appended


class Begin(Entry):
    """The first line: what is known of a run for good."""

    name: str  # what people call it
    key_tag: str
    experiment: str  # name
    store: str | None  # tracking URI without a password; None where no server was asked
    parent: str | None = Field(None, pattern="^[0-9a-f]{32}$")  # id of the record of the study that it belongs to
    replaces: tuple[str, ...] = ()  # ids of the runs that no longer count once there is this one
    seeds: tuple[int, ...] = ()  # that train together, from the checkpoints of this name
    checkpoints: str = Field("", pattern="^([0-9a-f]{32})?$")
    host: str = ""
    machine: str = ""


class Event(Entry):
    """Any other line: what it adds to the run."""

    status: Status | None = None
    diverged: bool = False
    tags: dict[str, str] = Field(default_factory=dict)
    params: dict[str, str] = Field(default_factory=dict)
    datasets: tuple[dict[str, Any], ...] = ()  # as MLflow describes them
    step: int = 0  # the epoch of the metrics
    metrics: dict[str, float] = Field(default_factory=dict)
    folder: str = ""  # of the files, each with its SHA-256
    files: dict[str, str] = Field(default_factory=dict)
    model: TrainedModel | None = None


@dataclass(kw_only=True)
class RunState:
    """What a run is to hold, by all events of its log together: of an epoch the first counts, of all else the last."""

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    datasets: Sequence[Mapping[str, Any]] = ()
    epochs: dict[int, Event] = field(default_factory=dict)
    files: dict[str, tuple[str, str]] = field(default_factory=dict)  # artifact to folder of the record, and SHA-256
    model: TrainedModel | None = None
    end: Event | None = None  # what ended the run; None while it goes on

    @classmethod
    def after(cls, events: Sequence[Event]) -> "RunState":
        state = cls()
        for event in events:
            if event.status in (None, "RUNNING"):
                state.tags |= event.tags
            state.params = event.params | state.params
            state.datasets = event.datasets or state.datasets
            state.files |= {name: (event.folder, digest) for name, digest in event.files.items()}
            state.model = event.model or state.model
            if event.metrics:
                state.epochs.setdefault(event.step, event)
            if event.status:  # why an earlier process ended is no more true of a run that goes on
                state.end = None if event.status == "RUNNING" else event
        return state


class EventLog:
    """The events of one run, in the order in which they happened.
    `events.jsonl` only ever grows; each line has its CRC-32 and is on disk (fsync) before `append` returns. `files/`
    has the files that events name. The folder is named by the trial's key and the record's own id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.path = folder, folder / "files", folder / "events.jsonl"
        self.key, _, self.id = folder.name.partition(".")

    @classmethod
    def create(cls, key: str, begin: Begin) -> "EventLog":
        """A new log. Raises `StorageError` when it can't be written."""
        log = cls(own_path("records", f"{key}.{uuid.uuid4().hex}"))
        with writing(log.folder):
            log.files.mkdir(parents=True)
            fsync(log.folder.parent)
        log.append(begin.model_copy(update={"machine": machine(), "host": socket.gethostname()}))
        return log

    def fork(self, begin: Begin) -> "EventLog":
        """A new log that has the epochs and checkpoints of this one: its training goes on, as another run."""
        old = self.begin
        new = EventLog.create(self.key, begin.model_copy(update={"checkpoints": old.checkpoints, "seeds": old.seeds}))
        state = self.state
        if device := state.tags.get(Tag.DEVICE):  # on which these epochs were trained
            new.append(Event(tags={Tag.DEVICE: device}))
        for event in state.epochs.values():
            new.append(Event(time=event.time, step=event.step, metrics=event.metrics))
        return new

    def append(self, entry: Entry) -> None:
        """Add a line. Raises `StorageError`, and leaves the log as it was, when it can't be written."""
        entry = entry.model_copy(update={"time": entry.time or time.time_ns() // 1_000_000})
        text = entry.model_dump_json(exclude_defaults=True).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        # without a buffer: what a full disk leaves in one is written as the file is closed, behind what was cut off
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            size = len(self.whole_lines())
            os.ftruncate(file.fileno(), size)
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise

    def add_files(self, folder: str, **more: Any) -> None:
        """All files in a folder of `files` are on disk, and one event, with `more` in it, when this returns."""
        root, files = self.files / folder, {}
        with writing(root):
            for path in [root, *sorted(root.rglob("*"))]:
                if path.is_file():
                    files[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
                fsync(path)
        self.append(Event(folder=folder, files=files, **more))

    def whole_lines(self) -> bytes:
        """Without what a killed process left of its last."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise StorageError(f"{self.path}: can't be read: {error.strerror}") from error
        return content[: content.rfind(b"\n") + 1]

    def entries(self) -> Iterator[Entry]:
        """What its whole lines say. Raises `StorageError` at a line that is damaged, or of another version."""
        for number, line in enumerate(self.whole_lines().splitlines(), 1):
            checksum, _, text = line.partition(b" ")
            try:
                if checksum != b"%08x" % zlib.crc32(text):
                    raise ValueError("damaged")
                entry = (Begin if number == 1 else Event).model_validate_json(text)
            except ValueError as error:
                what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                raise StorageError(f"{self.path}: line {number}: {what}") from None
            yield entry

    @property
    def begin(self) -> Begin:
        """The first line. Raises `StorageError` as `entries` does."""
        for begin in self.entries():
            assert isinstance(begin, Begin)
            return begin
        raise StorageError(f"{self.path}: empty")

    def events(self) -> Sequence[Event]:
        """All whole lines but the first. Raises `StorageError` as `entries` does."""
        return [entry for entry in self.entries() if isinstance(entry, Event)]

    @property
    def state(self) -> RunState:
        """What its events come to. Raises `StorageError` as `entries` does."""
        return RunState.after(self.events())

    @property
    def is_of_this_machine(self) -> bool:
        """Whether it began here; False for a copy from elsewhere."""
        return self.begin.machine == machine()

    @property
    def end(self) -> Event | None:
        """What ended the run; None while it goes on."""
        return self.state.end

    @property
    def has_result(self) -> bool:
        """Whether training it again would come to the same end."""
        return (end := self.end) is not None and (end.status == "FINISHED" or end.diverged)

    @property
    def epochs(self) -> set[int]:
        """Those whose metrics are logged."""
        return set(self.state.epochs)

    def file(self, folder: str, name: str, digest: str = "") -> Path:
        """A file that an event names. Raises `StorageError` when it is missing, was changed (where its SHA-256 is
        given), or is a link to somewhere else: records are copied from other machines."""
        path, own = self.files / folder / name, self.files.resolve()
        if path.resolve() != own / folder / name or not path.resolve().is_relative_to(own):
            raise StorageError(f"{self.path}: {name[:80]!r} is no file of this record")
        if not path.is_file() or (digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest):
            raise StorageError(f"{path}: missing or damaged")
        return path

    def remove(self) -> None:
        """It has served: all of it is on the server. Raises `StorageError` for a folder that isn't one of ours."""
        if self.folder != own_path("records", self.folder.name):
            raise StorageError(f"{self.folder}: not a folder that normstudy made; it stays")
        with suppress(StorageError):  # a damaged log has no begin
            shared, others = self.begin.checkpoints, [log for log in logs() if log.id != self.id]
            if shared and shared not in [log.begin.checkpoints for log in others]:
                shutil.rmtree(own_path("checkpoints", shared), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def logs(key: str | None = None) -> list[EventLog]:
    """The logs on this machine, of one trial or of all, oldest first, damaged ones before them: whoever uses one of
    these says what is wrong with it."""
    found = {}
    for folder in (state_root() / "records").glob("*"):
        log, began = EventLog(folder), 0
        if not RECORD.fullmatch(folder.name) or key not in (None, log.key) or folder.is_symlink():
            continue
        with suppress(StorageError):
            if not (log.path.is_file() and log.whole_lines()):  # of a process that was killed while it made it
                continue
            began = log.begin.time
        found[began, folder.name] = log
    return [log for _, log in sorted(found.items())]
