"""A tracking server in memory, with the semantics of MLflow's that the uploader and the registry rely on."""

import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normstudy.errors import Refused, ServerAway
from normstudy.tracking import TrainedModel
from normstudy.tracking.client import Content, Server, StoredRun


class FakeRun:
    def __init__(self, experiment: str, tags: Mapping[str, str], started: int) -> None:
        self.experiment, self.tags, self.started = experiment, dict(tags), started
        self.status, self.deleted = "RUNNING", False
        self.params: dict[str, str] = {}
        self.points: set[tuple[str, float, int, int]] = set()
        self.files: dict[str, bytes] = {}
        self.datasets: list[Any] = []
        self.models: list[int] = []

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Step and value of each stored point."""
        return sorted((step, value) for name, value, _, step in self.points if name == metric)


class FakeServer(Server):
    """`before` is called with the name of each request, before it is answered: a test may do anything there."""

    def __init__(self) -> None:
        self.stored: dict[str, FakeRun] = {}
        self.clock = 0
        self.before: Any = lambda request: None
        self.requests: list[str] = []
        self.registered: list[tuple[str, str]] = []

    def backup(self) -> dict[str, FakeRun]:
        return copy.deepcopy(self.stored)

    def restore(self, backup: dict[str, FakeRun]) -> None:
        self.stored = copy.deepcopy(backup)

    @contextmanager
    def asked(self, request: str) -> Iterator[None]:
        self.requests.append(request)
        self.before(request)
        yield

    def _writable(self, run_id: str) -> FakeRun:
        run = self.stored.get(run_id)
        if run is None or run.deleted:
            raise Refused(f"run {run_id}: not there, or deleted")
        return run

    def _seen(self, run_id: str) -> StoredRun:
        run = self.stored[run_id]
        return StoredRun(
            run_id=run_id,
            status=run.status,
            experiment_id=run.experiment,
            deleted=run.deleted,
            tags=dict(run.tags),
            started=run.started,
            params=dict(run.params),
        )

    def experiment(self, name: str) -> str:
        with self.asked("experiment"):
            return name

    def require_artifacts(self, name: str) -> None:
        with self.asked("require_artifacts"):
            pass

    def experiments(self) -> list[str]:
        with self.asked("experiments"):
            return sorted({run.experiment for run in self.stored.values()})

    def runs(self, experiment_id: str, tag: str, value: str | None = None, *, deleted: bool = False) -> list[StoredRun]:
        with self.asked("runs"):
            found = [
                run_id
                for run_id, run in self.stored.items()
                if run.experiment == experiment_id
                and (deleted or not run.deleted)
                and tag in run.tags
                and value in (None, run.tags[tag])
            ]
            return [self._seen(run_id) for run_id in sorted(found, key=lambda one: -self.stored[one].started)]

    def get(self, run_id: str) -> StoredRun | None:
        with self.asked("get"):
            return self._seen(run_id) if run_id in self.stored else None

    def create(self, experiment_id: str, tags: Mapping[str, str]) -> str:
        with self.asked("create"):
            self.clock += 1
            run_id = hashlib.md5(f"run {self.clock}".encode()).hexdigest()
            self.stored[run_id] = FakeRun(experiment_id, tags, self.clock)
            return run_id

    def delete(self, run_id: str) -> None:
        with self.asked("delete"):
            self._writable(run_id).deleted = True

    def content(self, run: StoredRun, folders: Collection[str]) -> Content:
        with self.asked("content"):
            stored = self.stored.get(run.run_id)
            if stored is None:
                raise Refused("not there")
            steps = {name: {step for step, _ in stored.history(name)} for name, _, _, _ in stored.points}
            files = {name: len(content) for name, content in stored.files.items()}
            return Content(steps=steps, files=files, datasets=len(stored.datasets), model=bool(stored.models))

    def log(
        self, run_id: str, *, tags: Mapping[str, str] | None = None, params: Mapping[str, str] | None = None
    ) -> None:
        with self.asked("log"):
            run = self._writable(run_id)
            if any(run.params.get(name, value) != value for name, value in (params or {}).items()):
                raise Refused("a parameter is set to another value")
            run.tags |= tags or {}
            run.params |= params or {}

    def drop_tags(self, run_id: str, tags: Collection[str]) -> None:
        with self.asked("drop_tags"):
            for tag in tags:
                self._writable(run_id).tags.pop(tag, None)

    def log_metrics(self, run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
        with self.asked("log_metrics"):
            self._writable(run_id).points |= set(points)

    def log_datasets(  # type: ignore[override]  # that of `Server` is a wrapper of tenacity
        self, run_id: str, datasets: Sequence[Mapping[str, Any]]
    ) -> None:
        with self.asked("log_datasets"):
            self._writable(run_id).datasets = [*datasets]

    def upload(self, run_id: str, file: Path, folder: str) -> None:
        with self.asked("upload"):
            self._writable(run_id).files[f"{folder}/{file.name}".lstrip("/")] = file.read_bytes()

    def log_model(self, run_id: str, trained: TrainedModel, weights: Path) -> None:
        with self.asked("log_model"):
            self._writable(run_id).models.append(trained.step)

    def publish(self, run: StoredRun | None, name: str) -> None:
        if run and name:
            self.registered.append((run.run_id, name))

    def set_status(self, run_id: str, status: str) -> None:
        with self.asked("set_status"):
            self._writable(run_id).status = status


def away(request: str) -> None:
    """For `before`: the server doesn't answer."""
    raise ServerAway("tracking server: connection refused")
