"""The state folder of this machine, with its records, checkpoints and locks."""

import hashlib
import os
import re
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from normstudy.errors import StorageError
from normstudy.files import writing
from normstudy.provenance import PROJECT

STATE = "NORMSTUDY_STATE"  # variable of the environment
NAME = re.compile(r"[0-9a-f]+(\.[0-9a-f]+)?")  # of every folder and lock that is made here


def state_root() -> Path:
    """Where this machine keeps records, locks and checkpoints: `.normstudy` in the project, or `NORMSTUDY_STATE`."""
    return Path(os.environ.get(STATE) or PROJECT / ".normstudy")


def machine() -> str:
    """16 hexadecimal digits that name this state folder on this host; a copy of it, here or elsewhere, is another."""
    root = state_root().resolve()
    inode = root.stat().st_ino if root.is_dir() else 0
    return hashlib.sha256(f"{socket.gethostname()}|{root}|{inode}".encode()).hexdigest()[:16]


def own_path(kind: str, name: str) -> Path:
    """A path below the state folder. Raises `StorageError` for a name of other signs than hexadecimal digits, and for a
    link: names come from copied records, and what they name is written to and removed."""
    path, root = state_root() / kind / name, state_root().resolve()
    if not NAME.fullmatch(name):
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
