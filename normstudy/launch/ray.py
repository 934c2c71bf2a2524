"""A study's jobs as tasks of a Ray cluster."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError, StudyError
from normstudy.launch.registry import State
from normstudy.launch.signals import STOPS
from normstudy.launch.study import OpenStudy
from normstudy.launch.worker import Job, Stop, Work
from normstudy.tracking import Tag
from normstudy.tracking.store import first_line, identity

LOST_WORKERS = 3  # times that a job is started again because its worker or its node was lost
CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.5
STOP_SECONDS = 60.0  # that jobs may take to end their runs: a batch, an evaluation, a slow server
NODE_SECONDS = 60.0  # that a study waits for a node that its jobs fit on
Tasks = dict[Any, Work]  # Ray's reference to a task, and what it was given


class RayEngine:
    """Tasks of the Ray cluster at `address`; without one, Ray is started on this machine for the time of the study.

    Raises `ConfigError` in one line where Ray isn't installed, or no cluster can be used.
    """

    def __init__(self, address: str) -> None:
        self.ray = import_ray()
        self.missing_since: float | None = None  # by the monotonic clock: no node that a job fits on
        require_answer(address)
        problem = f"address={address}: no Ray cluster to use" if address else "engine=ray: Ray doesn't start here"
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
        with kept_handlers(), no_noise():
            try:
                self.ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                hint = "is RAY_AUTH_MODE and the token here that of the cluster?" if address else ""
                raise ConfigError(f"{problem}: {one_line(error)}; {hint}") from None
            except Exception as error:  # what Ray raises for an address has no common type
                raise ConfigError(f"{problem}: {one_line(error)}") from None

    def __call__(self, study: OpenStudy, jobs: Sequence[Job], stop_signal: Stop) -> None:
        """Raises `StudyError` when the cluster has had no node for a minute that a job fits on."""
        waiting, running = deque(jobs), Tasks()
        try:
            while (waiting or running) and not stop_signal():
                config = waiting[0][0] if waiting else first_config(running)
                places = self._places(config)
                self._require_a_place(places, config)
                if waiting and len(running) < places:
                    work = study.work(waiting.popleft())
                    running[self._submit(work)] = work
                elif running:
                    ended, _ = self.ray.wait(list(running), timeout=POLL_SECONDS)
                    self._conclude(study, running, ended)
                else:
                    time.sleep(POLL_SECONDS)
        finally:
            self._stop(study, running)
            self.ray.shutdown()

    def _submit(self, work: Work) -> Any:
        need = self._need(work.configs[0])
        task = remote_task(self.ray).options(num_cpus=need["CPU"], num_gpus=need["GPU"])
        return task.remote(str(Path.cwd()), settings(), work.to_json())

    def _nodes(self) -> list[dict[str, float]]:
        """What each living node has."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _need(self, config: TrainConfig) -> dict[str, int]:
        """What a job takes of a node. Ray sets OMP_NUM_THREADS to the CPUs."""
        any_gpu = any(node.get("GPU") for node in self._nodes())
        return {"CPU": config.threads, "GPU": int(config.device == "cuda" or (config.device == "auto" and any_gpu))}

    def _places(self, config: TrainConfig) -> int:
        """How many such jobs the cluster has room for, as long as nobody else uses it."""
        need = {resource: count for resource, count in self._need(config).items() if count}
        return sum(
            min(int(node.get(resource, 0) // count) for resource, count in need.items()) for node in self._nodes()
        )

    def _require_a_place(self, places: int, config: TrainConfig) -> None:
        """Nodes may still be on their way, or come back, so for a while none is no error."""
        if places:
            self.missing_since = None
        elif self.missing_since is None:
            self.missing_since = time.monotonic()
        elif time.monotonic() - self.missing_since > NODE_SECONDS:
            need = " and ".join(f"{resource}: {count}" for resource, count in self._need(config).items() if count)
            raise StudyError(f"no node of the Ray cluster has what {identity(config)[Tag.NAME]} needs: {need}")

    def _conclude(self, study: OpenStudy, running: Tasks, ended: Iterable[Any]) -> None:
        """Of tasks that have ended, whatever way: the runs have ended too, or are ended now."""
        for reference in ended:
            work = running.pop(reference)
            study.conclude(work)
            for config in work.configs:
                state, what = study.outcomes[config.trial_key]
                why = "" if state == State.FINISHED else f" ({what})"
                study.bar.write(f"{identity(config)[Tag.NAME]} is {state}{why}", file=sys.stdout)
                study.bar.update(config.epochs)

    def _stop(self, study: OpenStudy, running: Tasks) -> None:
        """Let the running tasks end their runs at the next batch; those that don't in time are killed."""
        for force, patience in ((False, STOP_SECONDS), (True, CONNECT_SECONDS)):
            for reference in running:
                self.ray.cancel(reference, force=force)
            if running:
                ended, _ = self.ray.wait(list(running), num_returns=len(running), timeout=patience)
                self._conclude(study, running, ended)
        self._conclude(study, running, list(running))


def import_ray() -> Any:
    """Raises `ConfigError` where it isn't installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"engine=ray: needs the extra normstudy[ray] ({first_line(error)})") from None
    return ray


def require_answer(address: str) -> None:
    """Raises `ConfigError` where nobody listens at HOST:PORT; there Ray itself goes on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"address={address}: nobody listens there: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """All that an error says."""
    return " ".join(str(error).split())


@contextmanager
def kept_handlers() -> Iterator[None]:
    """The handlers of the signals that ask to stop, as they were: Ray sets its own."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def no_noise() -> Iterator[None]:
    """Nothing on standard error: Ray's own core writes a line there, each second, of what is raised in the end."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def first_config(running: Tasks) -> TrainConfig:
    """Of any job that runs."""
    return next(iter(running.values())).configs[0]


def settings() -> dict[str, str]:
    """The environment that a worker needs. It travels as an argument, and not as Ray's `runtime_env`: Ray's agents
    write that to their logs, with the tracking server's password."""
    return {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "NORMSTUDY_"))}


def remote_task(ray: Any) -> Any:
    """The task of a job: `run_trials` in a worker, which trains other jobs afterwards; its exit status."""

    # nested, so that it travels whole: what it needs is imported once the environment that the imports read is set
    def train_job(folder: str, environment: dict[str, str], work: bytes) -> int:
        os.environ.update(environment)
        if Path(folder).is_dir():
            os.chdir(folder)  # relative paths mean what they mean to the driver
        from normstudy.launch.worker import Work, run_trials

        before = [(number, signal.getsignal(number)) for number in STOPS]
        try:
            run_trials(Work.from_json(work))
        except SystemExit as stop:  # to Ray a worker that exits is one that was lost: it would train a divergence again
            return int(stop.code or 0)
        finally:
            for number, handler in before:
                signal.signal(number, handler)
        return 0

    return ray.remote(max_retries=LOST_WORKERS, retry_exceptions=False)(train_job)
