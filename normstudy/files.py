"""Files that are either what they were or all of the new, whatever ends the process or the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normstudy.errors import ConfigError, StorageError, one_line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write into a `StorageError` of one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't write {path}: {error.strerror or error}") from error


def require_folder(name: str, path: Path) -> None:
    """Raises `ConfigError` unless files can be written to a folder that the user gave, which need not exist yet.

    `name` is the option's. Nothing is made: what comes first may fail, and leaves no empty folder then.
    """
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return
    problem = f"{one_line(str(nearest))} {'cannot be written' if nearest.is_dir() else 'is no folder'}"
    raise ConfigError(f"{name}={one_line(str(path))}: {problem}; expected a folder to write to, or to make")


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
        except BaseException:  # Ctrl-C, too, leaves no half of a file
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
