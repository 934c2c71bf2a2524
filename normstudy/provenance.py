"""Which code and which libraries produced a run."""

import hashlib
import os
import platform
import subprocess
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
    """16 hexadecimal digits of the SHA-256 of the sums of a dataset's four archives, which need not be here."""
    return hashlib.sha256((SUMS / dataset / "SHA256SUMS").read_bytes()).hexdigest()[:16]


@cache
def archives(dataset: str) -> Path:
    """The folder of a dataset's four archives: MNIST's is part of the package, Fashion-MNIST's the user names.

    Raises `DataError` where none is named, and for an archive that is missing or damaged.
    """
    folder = SUMS / "mnist"
    if dataset == "fashion":
        if not (named := os.environ.get(FASHION)):
            raise DataError(f"dataset=fashion: {FASHION} must name the folder of Fashion-MNIST's four archives")
        folder = Path(named)
    for line in (SUMS / dataset / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        archive = folder / name
        if not archive.is_file():
            raise DataError(f"{archive}: the archive is missing")
        if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != expected:
            raise DataError(f"{archive}: damaged archive, SHA-256 {found}, expected {expected}")
    return folder


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
