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
ARCHIVES = Path(__file__).parent / "mnist"
LIBRARIES = ("torch", "torchvision", "mlflow", "numpy")


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that decides a run's numbers."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


@cache
def data_digest() -> str:
    """16 hexadecimal digits of the SHA-256 of MNIST's four archives' sums.

    Raises `DataError` naming an archive that is missing or damaged.
    """
    sums = (ARCHIVES / "SHA256SUMS").read_text(encoding="utf-8")
    for line in sums.splitlines():
        expected, name = line.split()
        archive = ARCHIVES / name
        if not archive.is_file():
            raise DataError(f"{archive}: the archive is missing")
        if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != expected:
            raise DataError(f"{archive}: damaged archive, SHA-256 {found}, expected {expected}")
    return hashlib.sha256(sums.encode()).hexdigest()[:16]


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
