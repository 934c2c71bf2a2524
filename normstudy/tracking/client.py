"""What normstudy asks of a tracking server: the only way in which runs are written."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunTag, ViewType
from mlflow.entities import Metric as MlflowMetric
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking.context.registry import resolve_tags
from tenacity import retry, retry_if_exception_message, stop_after_attempt, wait_random

from normstudy.errors import Refused, ServerAway, TrackingError, one_line, say
from normstudy.tracking import SYSTEM, Tag, TrainedModel, is_of_process, packed_tags, unpacked_tags
from normstudy.tracking.event_log import machine
from normstudy.tracking.logged_model import has_model, log_model, register
from normstudy.tracking.mlflow_private import is_refusal, write_and_remove
from normstudy.tracking.store import RUNS_A_PAGE, artifact_location, first_line, own_location, pages, sqlite_file, where
from normstudy.tracking.ui import describe_experiment

POINTS_A_REQUEST = 1_000  # MLflow's limit of one batch


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as the server has it."""

    run_id: str
    status: str
    experiment_id: str
    started: int  # milliseconds since the epoch, by the clock of the machine that made it
    deleted: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last epoch

    @property
    def replaces(self) -> set[str]:
        """Ids of the runs that don't count beside this one."""
        return set(filter(None, self.tags.get(Tag.REPLACES, "").split(",")))

    @property
    def is_own(self) -> bool:
        """Whether it trains, or trained, on this machine."""
        return self.tags.get(Tag.MACHINE) == machine()


@dataclass(kw_only=True)
class Content:
    """What a run holds: `steps` has the logged epochs of each metric, `files` the size of each artifact in bytes."""

    steps: dict[str, set[int]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    datasets: int = 0
    model: bool = False


class Server:
    """The tracking server in use. Every call raises `ServerAway` where another try may help, `Refused` where none
    will."""

    def __init__(self) -> None:
        self.client, self.uri = mlflow.MlflowClient(), mlflow.get_tracking_uri()
        self.file = sqlite_file(self.uri)
        self.inode = self.file.stat().st_ino if self.file else None
        self.registry_refused = False
        self.artifacts = cache(lambda run: get_artifact_repository(artifact_location(self.client.get_run(run))))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turns what MLflow and its stores raise into `Refused` or `ServerAway`, each of one line."""
        # SQLite writes on into a database that was deleted or replaced, and nobody ever sees it
        if self.file and not (self.file.is_file() and self.file.stat().st_ino == self.inode):
            raise ServerAway(f"tracking server {where()}: its database was deleted or replaced")
        try:
            yield
        except TrackingError:
            raise
        except Exception as error:  # whatever the way to a server raises
            kind = Refused if is_refusal(error) else ServerAway
            raise kind(f"tracking server {where()}: {first_line(error)}") from error

    def experiment(self, name: str) -> str:
        """Id of the experiment of this name, made where there is none; one that was deleted is a `TrackingError`."""
        with self.answering():
            found = self.client.get_experiment_by_name(name)
            if found is None:
                try:
                    return str(self.client.create_experiment(name))
                except mlflow.MlflowException:
                    found = self.client.get_experiment_by_name(name)
                    if found is None:  # no other process made it at the same moment
                        raise
            if found.lifecycle_stage == "deleted":
                restore = f"`mlflow experiments restore -x {found.experiment_id}` brings it back"
                raise TrackingError(f"tracking server {where()}: experiment {one_line(name)} was deleted; {restore}")
            return str(found.experiment_id)

    def require_artifacts(self, name: str) -> None:
        """Raises `Refused` unless artifacts can be written where the experiment of this name puts them: a file is
        written there and removed."""
        experiment_id = self.experiment(name)
        with self.answering():
            what = f"experiment {one_line(name)}"
            location = own_location(self.client.get_experiment(experiment_id).artifact_location, what)
            try:
                write_and_remove(location)
            except Exception as error:
                kind = Refused if is_refusal(error) else ServerAway
                raise kind(f"{what}: no artifact can be written to {where(location)}: {first_line(error)}") from error

    def experiments(self) -> list[str]:
        """Ids of all."""
        with self.answering():
            found = pages(self.client.search_experiments, max_results=RUNS_A_PAGE)
            return [experiment.experiment_id for experiment in found]

    def runs(self, experiment_id: str, tag: str, value: str | None = None, *, deleted: bool = False) -> list[StoredRun]:
        """Those with this value of a tag, or with any, newest first; with `deleted` deleted ones too."""
        with self.answering():
            found = pages(
                self.client.search_runs,
                experiment_ids=[experiment_id],
                filter_string=f"tags.`{tag}` LIKE '%'" if value is None else f"tags.`{tag}` = '{value}'",
                run_view_type=ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
                order_by=["attributes.start_time DESC"],
                max_results=RUNS_A_PAGE,
            )
            return [_stored(run) for run in found]

    def get(self, run_id: str) -> StoredRun | None:
        """A run, deleted ones too; None where the server has never had it, or lost it."""
        with self.answering():
            try:
                return _stored(self.client.get_run(run_id))
            except mlflow.MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def create(self, experiment_id: str, tags: Mapping[str, str]) -> str:
        """A new run, RUNNING; its id."""
        with self.answering():
            return str(self.client.create_run(experiment_id, tags=resolve_tags(packed_tags(tags))).info.run_id)

    def delete(self, run_id: str) -> None:
        """Delete a run, as the UI does."""
        with self.answering():
            self.client.delete_run(run_id)

    def content(self, run: StoredRun, folders: Collection[str]) -> Content:
        """What the run holds: of every metric, and in these folders of artifacts."""
        with self.answering():
            known = self.client.get_run(run.run_id)
            steps = {
                name: {point.step for point in self.client.get_metric_history(run.run_id, name)}
                for name in known.data.metrics
                if not name.startswith(SYSTEM)  # whose steps are no epochs
            }
            files = {
                file.path: file.file_size or 0
                for folder in folders
                for file in self.artifacts(run.run_id).list_artifacts(folder or None)
                if not file.is_dir
            }
            datasets = len(known.inputs.dataset_inputs) if known.inputs else 0
            return Content(steps=steps, files=files, datasets=datasets, model=has_model(self.client, known))

    def log(
        self, run_id: str, *, tags: Mapping[str, str] | None = None, params: Mapping[str, str] | None = None
    ) -> None:
        """Tags and parameters, in one request."""
        with self.answering():
            self.client.log_batch(
                run_id,
                tags=[RunTag(name, value) for name, value in packed_tags(tags or {}).items()],
                params=[Param(name, value) for name, value in (params or {}).items()],
            )

    def drop_tags(self, run_id: str, tags: Collection[str]) -> None:
        """Remove tags that are there."""
        with self.answering():
            for tag in {Tag.PROCESS if is_of_process(tag) else tag for tag in tags}:
                self.client.delete_tag(run_id, tag)

    def log_metrics(self, run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Points as (name, value, milliseconds since the epoch, step). MLflow keeps a point once that is sent twice."""
        with self.answering():
            for start in range(0, len(points), POINTS_A_REQUEST):
                chunk = [MlflowMetric(*point) for point in points[start : start + POINTS_A_REQUEST]]
                self.client.log_batch(run_id, metrics=chunk)

    # two runs that log the same new dataset at once: MLflow inserts it for one and raises for the other
    @retry(
        retry=retry_if_exception_message(match="(?is).*unique constraint"),
        stop=stop_after_attempt(4),
        wait=wait_random(0, 0.5),
        reraise=True,
    )
    def log_datasets(self, run_id: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Datasets as MLflow describes them, each with its context."""
        with self.answering():
            inputs = [
                DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
                for entry in datasets
            ]
            self.client.log_inputs(run_id, inputs)

    def upload(self, run_id: str, file: Path, folder: str) -> None:
        """A file into a folder of the run's artifacts, whose place is asked for once; "" is their root."""
        with self.answering():
            self.artifacts(run_id).log_artifact(str(file), folder or None)

    def log_model(self, run_id: str, trained: TrainedModel, weights: Path) -> None:
        """The network as MLflow serves it, once for a run."""
        with self.answering():
            log_model(run_id, trained, weights)

    def publish(self, run: StoredRun | None, name: str) -> None:
        """What follows from the end of a run that finished: its model becomes a version of the registered model `name`,
        where there is one; the description of a study's experiment names it."""
        if run and name:
            self.register(run.run_id, name)
        if run and Tag.STUDY_KEY in run.tags:
            studies = self.runs(run.experiment_id, Tag.STUDY_KEY)
            with self.answering():
                finished = {study.run_id: study.tags for study in studies if study.status == "FINISHED"}
                describe_experiment(self.client, run.experiment_id, finished)

    def register(self, run_id: str, name: str) -> None:
        """The run's model as a version of the registered model `name`, once for a run. Says so, once, where the store
        has no registry or that refuses: the run has all that it logged without it."""
        try:
            with self.answering():
                register(self.client, run_id, name)
        except TrackingError as error:
            self.get(run_id)  # raises where the whole server is away: another try registers it
            if not self.registry_refused:
                say(f"no model is registered: {error}")
            self.registry_refused = True

    def set_status(self, run_id: str, status: str) -> None:
        """End a run, or open it again."""
        with self.answering():
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status)

    def retire(self, run_id: str, successor: str, reason: str) -> None:
        """End a run that another one goes on for; it is never written again."""
        self.log(run_id, tags={Tag.SUPERSEDED_BY: successor, Tag.FAILURE: reason})
        self.set_status(run_id, "KILLED")


def _stored(run: Run) -> StoredRun:
    return StoredRun(
        run_id=run.info.run_id,
        status=run.info.status,
        experiment_id=run.info.experiment_id,
        started=run.info.start_time,
        deleted=run.info.lifecycle_stage == "deleted",
        tags=unpacked_tags(run.data.tags),
        params=run.data.params,
        metrics=run.data.metrics,
    )


def is_result(run: StoredRun) -> bool:
    """Whether it has come to an end that training it again would come to."""
    return run.status == "FINISHED" or (run.status == "FAILED" and Tag.FAILURE_STEP in run.tags)


def canonical(runs: Sequence[StoredRun]) -> StoredRun | None:
    """Of the runs of one trial, newest first, the one that counts: the newest that finished; else, of those that no
    other replaces, one that diverged, one that runs, any; of several the first, so that all who ask agree."""
    runs = [run for run in runs if Tag.SUPERSEDED_BY not in run.tags] or list(runs)
    replaced = {run_id for run in runs for run_id in run.replaces}
    finished = [run for run in runs if run.status == "FINISHED"]
    rest = sorted((run for run in runs if run.run_id not in replaced), key=_order)
    return next(iter([*finished, *rest]), None)


def _order(run: StoredRun) -> tuple[bool, bool, int, str]:
    return not is_result(run), run.status != "RUNNING", run.started, run.run_id


def now() -> str:
    """The time as a heartbeat, which is only ever compared with the one before: no two clocks are."""
    return str(time.time_ns() // 1_000_000)


def folder_of(artifact: str) -> str:
    """The folder of an artifact; "" is the root."""
    return str(PurePosixPath(artifact).parent).removeprefix(".")
