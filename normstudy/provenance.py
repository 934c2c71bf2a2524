"""Which code and which libraries produced a run, and on which processor."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "mlflow", "numpy")


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that decides a run's numbers."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def git_state() -> tuple[str, str]:
    """The commit that runs, and whether the tree differs from it, `true` or `false`; both are `unknown` where this
    project is no git checkout of its own, as when a wheel is installed inside some other one."""
    # a hook or an editor that sets GIT_DIR means a repository of its own
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        # git refuses a checkout of another user, whose code runs here all the same
        command = ["git", "-c", f"safe.directory={PROJECT}", *arguments]
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != PROJECT.resolve():
            return "unknown", "unknown"
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
