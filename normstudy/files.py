"""Files on disk: atomic writes, and the archives of the data sets with their digests."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from normstudy.errors import ConfigError, NormstudyError, StorageError, one_line

SUMS = Path(__file__).parent
FASHION = "NORMSTUDY_FASHION"  # variable of the environment


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
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def data_digest(dataset: str = "mnist") -> str:
    """16 hexadecimal digits of the SHA-256 of the sums of a dataset's four files, which need not be here."""
    # as text: a checkout with other line endings has the same data
    return hashlib.sha256((SUMS / dataset / "SHA256SUMS").read_text(encoding="utf-8").encode()).hexdigest()[:16]


def archives(dataset: str) -> Path:
    """The folder of a dataset's four archives: MNIST's is part of the package, Fashion-MNIST's the user names.

    Raises `NormstudyError` where none is named.
    """
    if dataset == "mnist":
        return SUMS / "mnist"
    if not (named := os.environ.get(FASHION)):
        raise NormstudyError(f"dataset={dataset}: {FASHION} must name the folder of Fashion-MNIST's four archives")
    return Path(named)


def unpacked(dataset: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a dataset's archives, each checked against its SHA-256.

    The sums are of the unpacked files, as they are the same however they were compressed. Raises `NormstudyError` for
    an archive that is missing or damaged.
    """
    for line in (SUMS / dataset / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        archive = folder / f"{name}.gz"
        if not archive.is_file():
            raise NormstudyError(f"{archive}: the archive is missing")
        try:
            content = gzip.decompress(archive.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise NormstudyError(f"{archive}: damaged archive ({error})") from None
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise NormstudyError(f"{archive}: damaged archive, SHA-256 of the file in it {found}, expected {expected}")
        yield name, content


@cache
def require_archives(dataset: str) -> None:
    """Raises `NormstudyError` for a dataset that can't be read."""
    for _ in unpacked(dataset, archives(dataset)):
        pass
