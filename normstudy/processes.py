"""Processes for trials, forked from one server that has imported what they need."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from threading import Lock
from typing import Any

from tqdm import tqdm

CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Start the server, beside this process: its imports, 4 s of CPU, are made once for all trials, while this process
    makes its own. It runs nothing but imports, so no thread or device is open when it forks."""
    CONTEXT.set_forkserver_preload(["normstudy.launch", "mlflow.pytorch", "torchvision.datasets"])
    with one_thread():
        ensure_running()


@contextmanager
def one_thread() -> Iterator[None]:
    """Math libraries read these at their import; a trial sets the number of its own threads."""
    before = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Processes:
    """The running processes; what they print is passed on line by line, with a prefix."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.bar = bar
        self.lock = Lock()
        self.alive: set[ForkServerProcess] = set()
        self.stopped = False

    def run(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Call `target` in a process of its own and wait for its end, unless a stop came first."""
        reader, writer = CONTEXT.Pipe(duplex=False)
        with self.lock:
            if self.stopped:
                return
            process = CONTEXT.Process(target=_call, args=(writer, target, arguments), name=name)
            process.start()
            self.alive.add(process)
        writer.close()
        with os.fdopen(os.dup(reader.fileno()), errors="replace") as lines:
            for line in lines:
                with self.lock:
                    self.bar.write(f"{name:8s} {line.rstrip()}", file=sys.stdout)
                    self.bar.update(line.startswith("epoch "))
        process.join()
        with self.lock:
            self.alive.discard(process)

    def stop(self) -> None:
        """Ask every process to end its runs, and start no more."""
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.terminate()


def _call(writer: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for standard in (1, 2):
        os.dup2(writer.fileno(), standard)
    writer.close()
    target(*arguments)
