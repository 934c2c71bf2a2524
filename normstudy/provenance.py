"""Which code and which libraries produced a run."""

import gzip
import hashlib
import os
import platform
import subprocess
import zlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from normstudy.errors import DataError

PROJECT = Path(__file__).parents[1]
SUMS = Path(__file__).parent
FASHION = "NORMSTUDY_FASHION"
LIBRARIES = ("torch", "torchvision", "mlflow", "numpy")


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that decides a run's numbers."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


@cache
def data_digest(dataset: str = "mnist") -> str:
    """16 hexadecimal digits of the SHA-256 of the sums of a dataset's four files, which need not be here."""
    return hashlib.sha256((SUMS / dataset / "SHA256SUMS").read_bytes()).hexdigest()[:16]


def archives(dataset: str) -> Path:
    """The folder of a dataset's four archives: MNIST's is part of the package, Fashion-MNIST's the user names.

    Raises `DataError` where none is named.
    """
    if dataset == "mnist":
        return SUMS / "mnist"
    if not (named := os.environ.get(FASHION)):
        raise DataError(f"dataset={dataset}: {FASHION} must name the folder of Fashion-MNIST's four archives")
    return Path(named)


def unpacked(dataset: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a dataset's archives, each checked against its SHA-256.

    The sums are of the unpacked files, as they are the same however they were compressed. Raises `DataError` for an
    archive that is missing or damaged.
    """
    for line in (SUMS / dataset / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        archive = folder / f"{name}.gz"
        if not archive.is_file():
            raise DataError(f"{archive}: the archive is missing")
        try:
            content = gzip.decompress(archive.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{archive}: damaged archive ({error})") from None
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise DataError(f"{archive}: damaged archive, SHA-256 of the file in it {found}, expected {expected}")
        yield name, content


@cache
def require_archives(dataset: str) -> None:
    """Raises `DataError` for a dataset that can't be read."""
    for _ in unpacked(dataset, archives(dataset)):
        pass


def git_state() -> dict[str, str]:
    """The commit that runs, and whether the tree differs from it; `unknown` outside a git checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown", "git_dirty": "unknown"}


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
