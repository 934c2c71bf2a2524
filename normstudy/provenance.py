"""Which code and which libraries produced a run."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "mlflow", "numpy")


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that decides a run's numbers."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


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
