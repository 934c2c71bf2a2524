"""Signals that ask to stop, remembered until the next batch."""

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

SAME_STOP_SECONDS = 3.0  # a launcher forwards a Ctrl-C as SIGTERM within this time


class StopSignal:
    """Remembers that a signal asked to stop. `mlflow run` sends SIGTERM right after Ctrl-C, so an exception raised in
    the handler would be hit by the next one half-way through the clean-up.

    A second request ends the process at once: the same signal again, or another one after `SAME_STOP_SECONDS`. With
    `gone`, its answer counts as SIGTERM.
    """

    def __init__(self, gone: Callable[[], bool] = lambda: False) -> None:
        self.number: int | None = None
        self.since, self.gone = 0.0, gone
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self.since = number, time.monotonic()
        elif number == self.number or time.monotonic() - self.since > SAME_STOP_SECONDS:
            os.write(2, b"normstudy: stopped at once; start it again to resume\n")
            os._exit(128 + number)

    def __call__(self) -> int | None:
        if self.number is None and self.gone():
            self.number, self.since = signal.SIGTERM, time.monotonic()
        return self.number


def nobody_reads_output() -> bool:
    """Whether standard output is a pipe whose reader is gone, as that of a trial is when its launcher was killed."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
