"""Tasks as processes of this machine, forked from one server that has imported what they need."""

import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from ctypes import c_int
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import RawValue
from threading import Lock, Timer
from typing import IO, Any

from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.launch import STOP_SECONDS, Task, held_back
from normstudy.provenance import usable_cores

CONTEXT = multiprocessing.get_context("forkserver")
# What a process needs before its first step: an optimiser of torch imports the compiler, 2 s of CPU, and MLflow a
# database's store and git at their first use.
PRELOADED = ["normstudy.launch.worker", "torch._dynamo", "mlflow.store.tracking.sqlalchemy_store", "git"]


def preload() -> None:
    """Start the server, beside this process: its imports, 7 s of CPU, are made once for all trials, while this process
    makes its own. It runs nothing but imports, so no thread or device is open when it forks."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    with one_thread():
        start_server()


def start_server() -> None:
    """Start the server where it doesn't run. A stop that is sent to the whole process group must not reach it, or the
    driver could neither begin a process nor learn of the end of one; and a process that it forks begins with the same
    signals held back, so that none kills it before its `StopSignal` is there."""
    require_short_folder()
    # one by one: the start of the tracker, which the server needs, lets signals through when it is done
    for start in (resource_tracker.ensure_running, forkserver.ensure_running):
        with held_back():
            start()


def require_short_folder() -> None:
    """Keep the sockets of multiprocessing where the folder leaves room for their names: the kernel takes 107 bytes."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) + len("/pymp-12345678/listener-12345678") > 107:
        tempfile.tempdir = next(
            filter(lambda folder: os.access(folder, os.W_OK), ("/tmp", "/var/tmp", "/dev/shm")), usual
        )
        util.get_temp_dir()  # made once, and kept
        tempfile.tempdir = usual


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


def default_workers(configs: Sequence[TrainConfig], gpus: int = 0) -> int:
    """How many tasks, given by one configuration each, to run at once: one on each of the GPUs, if they train there
    (processes that share one take up to 1.3 times as long), else as many as the cores have room for with their pinned
    threads.

    Fewer than two rounds of tasks all start together instead: three single-thread trials sharing 2 cores finish sooner
    than two and then one, which leaves a core idle.
    """
    if gpus:
        return min(gpus, len(configs))
    room = max(1, usable_cores() // max((config.threads for config in configs), default=1))
    return len(configs) if len(configs) < 2 * room else room


class LocalExecutor:
    """Processes of this machine, `workers` at once; each calls `run` with its tasks: one, or on a GPU, of which there
    are `gpus`, its share of all, one after the other, so that imports, data and the GPU's context are made once."""

    def __init__(self, workers: int, run: Callable[[Iterable[Task]], None], gpus: int = 0) -> None:
        self.workers, self.run, self.gpus = workers, run, gpus

    def shares(self, tasks: Sequence[Task]) -> list[tuple[str, list[Task]]]:
        """The tasks of each process, and the GPU that it sees, or nothing."""
        if not self.gpus:
            return [("", [task]) for task in tasks]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.gpus)))
        count, names = min(self.workers, len(tasks)), visible.split(",")
        return [(names[place % self.gpus], list(tasks[place::count])) for place in range(count)]

    def __call__(
        self,
        tasks: Sequence[Task],
        finalize: Callable[[Task], list[str]],
        bar: "tqdm[Any]",
        stop_signal: Callable[[], int | None],
    ) -> None:
        processes = Processes(bar)

        def run(gpu: str, left: list[Task]) -> None:
            while left and not processes.stopped:
                begun = RawValue("i", 0)
                name = f"GPU {gpu}" if gpu else left[0].configs[0].variant
                processes.run(name, _in_turn, self.run, gpu, left, begun)
                ended = max(1, begun.value)  # the process may have died: another goes on with the rest
                for task in left[:ended]:
                    finalize(task)
                left = left[ended:]

        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            pending = {pool.submit(run, *share) for share in self.shares(tasks)}
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.2)
                    for future in done:
                        future.result()
                    if stop_signal():
                        processes.stop()
            except BaseException:  # an interrupted notebook, a process that can't be started
                processes.stop()
                raise


class Processes:
    """The running processes; what they print is passed on line by line, with a prefix."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.bar = bar
        self.lock = Lock()  # of what follows
        self.alive: set[ForkServerProcess] = set()
        self.told: set[ForkServerProcess] = set()
        self.stopped = False
        self.printing = Lock()  # one of its own: a stop must not wait for a terminal

    def run(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Call `target` in a process of its own and wait for its end, unless a stop came first. It makes a
        `StopSignal` before anything else: until then the signals that ask to stop are held back."""
        reader, writer = CONTEXT.Pipe(duplex=False)
        with self.lock:
            if self.stopped:
                return
            start_server()
            process = CONTEXT.Process(target=_call, args=(writer, target, arguments), name=name)
            process.start()
            self.alive.add(process)
        writer.close()
        with os.fdopen(os.dup(reader.fileno()), errors="replace") as lines:
            for line in lines:
                self._print(f"{name:8s} {line.rstrip()}", sys.stdout, epochs=line.startswith("epoch "))
        process.join()
        with self.lock:
            self.alive.discard(process)

    def stop(self) -> None:
        """Start no more, and ask every process to end its runs: once, however often this is called. One that still
        lives after `STOP_SECONDS` is killed, so that it can't keep the study for ever."""
        with self.lock:
            if not self.stopped:
                patience = Timer(STOP_SECONDS, self._kill)
                patience.daemon = True  # it keeps nobody once all have ended
                patience.start()
            self.stopped = True
            for process in self.alive - self.told:
                process.terminate()
                self.told.add(process)

    def _kill(self) -> None:
        with self.lock:
            late = list(self.alive)
            for process in late:
                process.kill()
        for process in late:
            self._print(f"normstudy: {process.name} killed: it did not stop within {STOP_SECONDS:.0f} s", sys.stderr)

    def _print(self, line: str, file: IO[str], *, epochs: int = 0) -> None:
        with self.printing, suppress(OSError):  # the terminal may be closed; the pipe is read on, or trials would wait
            self.bar.write(line, file=file)
            self.bar.update(epochs)


def _in_turn(run: Callable[[Iterable[Task]], None], gpu: str, tasks: Sequence[Task], begun: c_int) -> None:
    """What a process does: it counts the tasks that it has begun, and sees no other GPU than its own."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def counted() -> Iterator[Task]:
        for task in tasks:
            begun.value += 1
            yield task

    run(counted())


class TrialOutput(io.FileIO):
    """Standard output of a process. Its driver may be killed at any moment: that nobody reads a line any more is no
    failure of the trial, which stops at its next batch."""

    def write(self, data: Any, /) -> int:
        """All is written, or nobody is there to read it."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _call(writer: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for standard in (1, 2):
        os.dup2(writer.fileno(), standard)
    writer.close()
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(TrialOutput(standard, "w", closefd=False)), errors="replace", line_buffering=True
        )
        for standard in (1, 2)
    )
    target(*arguments)
