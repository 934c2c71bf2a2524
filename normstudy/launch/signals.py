"""Signals that ask to stop, remembered until the next batch."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 0.5  # `timeout` tells a process and then its group, a shell that hangs up does it twice: one request
SAME_STOP_SECONDS = 3.0  # a launcher forwards a Ctrl-C as SIGTERM within this time


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
