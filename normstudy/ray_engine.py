"""A study's jobs as tasks of a Ray cluster."""

import logging
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError, StudyError
from normstudy.launch import Job, OpenStudy, Stop, Work
from normstudy.tracking import Tag, first_line, identity
from normstudy.trials import State

LOST_WORKERS = 3  # times that a job is started again because its worker or node was lost
POLL_SECONDS = 0.5
STOP_SECONDS = 60.0  # that jobs may take to end their runs: a batch, the evaluation that is on, a slow server
NODE_SECONDS = 60.0  # that a study waits for a node that its jobs fit on
Need = Mapping[str, float]  # how much a job takes of each of a node's resources


class RayEngine:
    """Tasks of the Ray cluster at `address`; without one, Ray is started on this machine for the time of the study.

    Raises `ConfigError` in one line where Ray isn't installed, or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"engine=ray: needs the extra normstudy[ray] ({first_line(error)})") from None
        self.ray: Any = ray
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
        with kept_handlers():
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # what an address can be wrong in has no common type
                problem = f"address={address}: no Ray cluster to use" if address else "Ray can't be started"
                raise ConfigError(f"{problem}: {' '.join(str(error).split())}") from None

    def __call__(self, study: OpenStudy, jobs: Sequence[Job], stop_signal: Stop) -> None:
        """Raises `StudyError` when no node has what a job needs."""
        task = remote_task(self.ray)
        waiting, running = deque(jobs), dict[Any, Work]()
        alone_since = None
        try:
            while (waiting or running) and not stop_signal():
                while waiting and len(running) < self._places(waiting[0][0]):
                    if work := study.begin(job := waiting.popleft()):
                        reference = task.options(**self._need(job[0])).remote(*parcel(work))
                        running[reference] = work
                config = waiting[0][0] if waiting else next(iter(running.values())).trials[0][0]
                if self._places(config):
                    alone_since = None
                self._conclude(study, running, POLL_SECONDS)
        finally:
            self._stop(study, running)
            self.ray.shutdown()
