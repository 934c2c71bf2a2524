"""Decides what is left to train, and has it trained: here, or on a cluster.

This file has what the others share: a task, which is what one process trains; an executor, which decides where that
process runs; and the signals that ask to stop."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from normstudy.config import TrainConfig

STOP_SECONDS = 60.0  # that a task may take to end its runs: a batch, an evaluation, files, a slow server
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 0.5  # `timeout` tells a process and then its group, a shell that hangs up does it twice: one request
SAME_STOP_SECONDS = 3.0  # a launcher forwards a Ctrl-C as SIGTERM within this time


class Task(BaseModel):
    """What the process of a task is given. As JSON it travels to another machine."""

    model_config = ConfigDict(frozen=True)

    configs: tuple[TrainConfig, ...]  # they train as one stack: all that differs is the seed
    experiment: str  # name
    parent: str  # id of the record of the study
    tags: Mapping[str, str]
    force: bool
    tracking_uri: str | None = Field(repr=False)  # with its password; None: without a server
    stale: Mapping[str, str] = {}  # runs of other machines that the study found dead
    state: str | None = None  # `NORMSTUDY_STATE`: a process may come from a server that was started before it was set


@runtime_checkable
class Executor(Protocol):
    """Where tasks run. It has `run_trials` called with each task in another process, and calls `finalize` once that
    process is gone; this says how each of its trials ended, a line each. A stop signal ends the tasks, in their own
    time."""

    def __call__(
        self,
        tasks: Sequence[Task],
        finalize: Callable[[Task], list[str]],
        bar: "tqdm[Any]",
        stop_signal: Callable[[], int | None],
    ) -> None: ...


class StopSignal:
    """Remembers that a signal asked to stop. `mlflow run` sends SIGTERM right after Ctrl-C, so an exception raised in
    the handler would be hit by the next one half-way through the clean-up.

    A second request ends the process at once: the same signal after `ECHO_SECONDS`, or another one after
    `SAME_STOP_SECONDS`. SIGHUP stays ignored where it is, as under nohup.

    With `gone`, as in the process of a trial, its answer counts as SIGTERM, and only the first signal counts: terminal,
    scheduler and driver may each pass on the same stop, at any distance.
    """

    def __init__(self, gone: Callable[[], bool] | None = None) -> None:
        self.number: int | None = None
        self.since, self.gone = 0.0, gone
        for number in STOPS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # what `held_back` kept waiting arrives now

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self.since = number, time.monotonic()
        elif self.gone is None:
            same_request = ECHO_SECONDS if number == self.number else SAME_STOP_SECONDS
            if time.monotonic() - self.since > same_request:
                with suppress(OSError):  # the terminal may be closed
                    os.write(2, b"normstudy: stopped at once; start it again to resume\n")
                os._exit(128 + number)

    def __call__(self) -> int | None:
        if self.number is None and self.gone and self.gone():
            self.number, self.since = signal.SIGTERM, time.monotonic()
        return self.number


@contextmanager
def held_back() -> Iterator[None]:
    """The signals that ask to stop wait: in this thread until the end of the block, and in processes that it starts,
    and in theirs, until they have a `StopSignal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """The handlers of the signals that ask to stop are afterwards what they were before."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def nobody_reads_output() -> bool:
    """Whether standard output is a pipe whose reader is gone, as that of a trial is when its launcher was killed."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
