"""Signals that ask to stop, remembered until the next batch."""

import signal
from types import FrameType


class StopSignal:
    """Remembers that a signal asked to stop. `mlflow run` sends SIGTERM right after Ctrl-C, so an exception raised in
    the handler would be hit by the next one half-way through the clean-up."""

    def __init__(self) -> None:
        self.number: int | None = None
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number

    def __call__(self) -> int | None:
        return self.number
