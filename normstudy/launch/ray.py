"""Tasks on a Ray cluster."""

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from normstudy.errors import ConfigError, NormstudyError, one_line
from normstudy.launch import STOP_SECONDS, Task, kept_handlers
from normstudy.tracking import Tag
from normstudy.tracking.store import first_line, identity
from normstudy.train import StopCheck

LOST_WORKERS = 3  # times that a task is started again because its worker or its node was lost
CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.5
NODE_SECONDS = 60.0  # that a study waits for a node that its tasks fit on


class RayExecutor:
    """The Ray cluster at `address`; without one, Ray is started on this machine for the time of the study.

    Raises `ConfigError` in one line where Ray isn't installed, or no cluster can be used.
    """

    def __init__(self, address: str) -> None:
        require_answer(address)
        self.ray = import_ray()
        self.missing_since: float | None = None  # by the monotonic clock: no node that a task fits on
        problem = f"address={address}: no Ray cluster to use" if address else "executor=ray: Ray doesn't start here"
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
        with kept_handlers(), no_noise():  # Ray sets handlers of its own
            try:
                self.ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # what Ray raises for an address has no common type
                is_away = isinstance(error, ConnectionError) and address
                hint = "; is RAY_AUTH_MODE and the token here that of the cluster?" if is_away else ""
                raise ConfigError(f"{problem}: {one_line(str(error), None)}{hint}") from None

    def __call__(
        self,
        tasks: Sequence[Task],
        finalize: Callable[[Task], list[str]],
        bar: "tqdm[Any]",
        stop_signal: StopCheck,
    ) -> None:
        """Raises `NormstudyError` when the cluster has had no node for a minute that a task fits on."""
        waiting, running = deque(tasks), dict[Any, Task]()  # by Ray's reference to each

        def end(references: Iterable[Any]) -> None:
            for reference in references:
                for line in finalize(task := running.pop(reference)):
                    bar.write(line, file=sys.stdout)
                    bar.update(task.configs[0].epochs)

        try:
            while (waiting or running) and not stop_signal():
                task = waiting[0] if waiting else next(iter(running.values()))
                places = self._places(task)
                if waiting and len(running) < places:
                    running[self._submit(waiting.popleft())] = task
                elif running:
                    end(self.ray.wait(list(running), timeout=POLL_SECONDS)[0])
                else:
                    time.sleep(POLL_SECONDS)
        finally:  # the running tasks end their runs at the next batch; those that don't in time are killed
            for force, patience in ((False, STOP_SECONDS), (True, CONNECT_SECONDS)):
                for reference in running:
                    self.ray.cancel(reference, force=force)
                if running:
                    end(self.ray.wait(list(running), num_returns=len(running), timeout=patience)[0])
            end(list(running))
            self.ray.shutdown()

    def _submit(self, task: Task) -> Any:
        need = self._need(task)
        remote = remote_task(self.ray).options(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))
        return remote.remote(str(Path.cwd()), settings(), task.model_dump_json())

    def _nodes(self) -> list[dict[str, float]]:
        """What each living node has."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _need(self, task: Task) -> dict[str, int]:
        """What a task takes of a node. Ray sets OMP_NUM_THREADS to the CPUs."""
        config = task.configs[0]
        any_gpu = config.device == "auto" and any(node.get("GPU") for node in self._nodes())
        return {"CPU": config.threads} | ({"GPU": 1} if config.device == "cuda" or any_gpu else {})

    def _places(self, task: Task) -> int:
        """How many such tasks the cluster has room for, as long as nobody else uses it. Nodes may still be on their
        way, or come back, so for a while none is no error."""
        need = self._need(task)
        places = sum(min(int(node.get(name, 0) // count) for name, count in need.items()) for node in self._nodes())
        now = time.monotonic()
        self.missing_since = None if places else self.missing_since or now
        if self.missing_since and now - self.missing_since > NODE_SECONDS:
            what = " and ".join(f"{resource}: {count}" for resource, count in need.items())
            raise NormstudyError(
                f"no node of the Ray cluster has what {identity(task.configs[0])[Tag.NAME]} needs: {what}"
            )
        return places


def import_ray() -> Any:
    """Raises `ConfigError` where it isn't installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"executor=ray: needs the extra normstudy[ray] ({first_line(error)})") from None
    return ray


def require_answer(address: str) -> None:
    """Raises `ConfigError` where nobody listens at HOST:PORT; there Ray itself goes on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"address={address}: nobody listens there: {error}") from None


@contextmanager
def no_noise() -> Iterator[None]:
    """Nothing on standard error: Ray's own core writes a line there, each second, of what is raised in the end."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def settings() -> dict[str, str]:
    """The environment that a worker needs. It travels as an argument, and not as Ray's `runtime_env`: Ray's agents
    write that to their logs, with the tracking server's password."""
    return {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "NORMSTUDY_"))}


def remote_task(ray: Any) -> Any:
    """`run_trials` in a worker, which trains other tasks afterwards; its exit status."""

    # nested, so that it travels whole: what it needs is imported once the environment that the imports read is set
    def train_task(folder: str, environment: dict[str, str], task: str) -> int:
        os.environ.update(environment)
        if Path(folder).is_dir():
            os.chdir(folder)  # relative paths mean what they mean to the driver
        from normstudy.launch import Task, kept_handlers
        from normstudy.launch.worker import run_trials

        try:
            with kept_handlers():
                run_trials([Task.model_validate_json(task)])
        except SystemExit as stop:  # to Ray a worker that exits is one that was lost: it would train a divergence again
            return int(stop.code or 0)
        return 0

    return ray.remote(max_retries=LOST_WORKERS, retry_exceptions=False)(train_task)
