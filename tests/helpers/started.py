"""Processes that tests start, watch, signal and kill."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from helpers.project import PROJECT

START_SECONDS = 180  # that a process may take to its first epoch, on a machine with other work
MAIN = "from normstudy.__main__ import main\nmain()\n"
CONTEXT = multiprocessing.get_context("forkserver")
# what a trial imports from its start to its end
IMPORTS = ["normstudy.launch.study", "normstudy.launch.maintenance", "mlflow.pytorch"]
IMPORTS += ["torch.export", "torch._dynamo", "matplotlib.backends.backend_agg", "helpers.started"]


def start_server() -> None:
    """Start the server that forks processes, where it doesn't run. It runs nothing but imports."""
    CONTEXT.set_forkserver_preload(IMPORTS)
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": paths}.items():
            patch.setenv(name, value)
        forkserver.ensure_running()


def run_in_fork(out: Connection, err: Connection, folder: Path, code: str, arguments: Sequence[str]) -> None:
    """What a forked process does: as `python -c CODE ARGUMENTS...` in a session of its own."""
    os.setsid()
    for pipe, standard in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), standard)
        pipe.close()
    os.chdir(folder)
    sys.argv = ["normstudy", *arguments]
    exec(code, {"__name__": "__main__"})


class Started:
    """A process in a session of its own, so that a test can signal its whole group and nobody else's; and the lines
    that it prints.

    It is forked from a server that has made the imports, as a study's own processes are; one that itself starts
    processes (`alone`) begins as a user's does, with an interpreter of its own.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], code: str, arguments: Sequence[str], alone: bool
    ) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in pipes]
        if alone:
            command = [sys.executable, "-c", code, *arguments]
            out, err = (writer.fileno() for writer in writers)
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True
            )
            self.pid = self.process.pid
        else:
            start_server()
            settings = f"import os\nos.environ.clear()\nos.environ.update({environment!r})\n"
            self.forked = CONTEXT.Process(
                target=run_in_fork, args=(*writers, folder, settings + code, arguments), daemon=True
            )
            self.forked.start()
            assert self.forked.pid
            self.pid = self.forked.pid
        self.readers = []
        for (reader, writer), lines in zip(pipes, (self.out, self.err), strict=True):
            writer.close()
            self.readers.append(threading.Thread(target=self._read, args=(reader, lines), daemon=True))
            self.readers[-1].start()

    @staticmethod
    def _read(pipe: Connection, lines: list[str]) -> None:
        with os.fdopen(os.dup(pipe.fileno()), errors="replace") as stream:
            lines.extend(line.rstrip("\n") for line in stream)

    def printed(self, start: str, count: int = 1) -> bool:
        """Whether it has printed so many lines that begin like this."""
        return sum(line.startswith(start) for line in list(self.out)) >= count

    @property
    def status(self) -> int | None:
        """Its exit status, or the signal that ended it, negative; None while it lives."""
        return self.process.poll() if self.process else self.forked.exitcode

    def ended(self) -> bool:
        return self.status is not None

    def send(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        if not self.ended():
            self.send(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 300) -> int:
        """Its exit status, once all that it printed is read."""
        wait_until(self.ended, seconds, f"the end of a process, which said {self.err}")
        for reader in self.readers:
            reader.join(seconds)
        assert self.status is not None
        return self.status

    @property
    def stdout(self) -> str:
        return "".join(f"{line}\n" for line in self.out)

    @property
    def stderr(self) -> str:
        return "".join(f"{line}\n" for line in self.err)

    @property
    def told(self) -> list[str]:
        """What it said to its user on standard error."""
        return [line for line in self.err if line.startswith("normstudy: ") and "uncommitted changes" not in line]

    @property
    def epochs(self) -> list[str]:
        return [line for line in self.out if line.startswith("epoch ")]


def wait_until(happened: Callable[[], Any], seconds: float = START_SECONDS, what: str = "what was waited for") -> None:
    """Wait until something has happened. Raises `TimeoutError` naming `what` when it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
