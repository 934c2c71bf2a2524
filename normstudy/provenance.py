"""Which code and which libraries produced a run."""

import gzip
import hashlib
import os
import platform
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
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


def git_state() -> tuple[str, str]:
    """The commit that runs, and whether the tree differs from it, `true` or `false`; both are `unknown` outside a git
    checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), str(bool(git("status", "--porcelain"))).lower()
    except (OSError, subprocess.CalledProcessError):
        return "unknown", "unknown"


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the CPU's model."""
    with suppress(OSError):  # where it is, `platform.processor` is empty or names the architecture only
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
