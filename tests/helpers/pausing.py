"""A process of a history, and a push of its that stops in its middle."""

import threading
from collections.abc import Callable

from normstudy.tracking.run import Lease


class Process:
    """One that trains: its lease, and the thread of a push that is stopped in its middle."""

    def __init__(self, number: int, machine: int, lease: Lease) -> None:
        assert lease.upload
        self.number, self.machine, self.lease, self.upload = number, machine, lease, lease.upload
        self.thread: threading.Thread | None = None
        self.resume = threading.Event()
        self.ended = False


class Pausing(threading.Thread):
    """A push that stops, as at SIGSTOP, before one of its requests: after so many, or so many of this name."""

    def __init__(self, process: Process, left: int, at: str | None, push: Callable[[], None]) -> None:
        super().__init__(target=push, daemon=True)
        self.process, self.left, self.at = process, left, at
        self.stopped = threading.Event()
