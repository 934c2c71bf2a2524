"""What one finished run holds, read from the server; trusts nothing that it reads."""

import os
import resource
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from threading import Lock
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracking import _get_store
from mlflow.utils.rest_utils import http_request
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError, ReportError, TrackingError, one_line
from normstudy.figures import ten_worst
from normstudy.report.tables import TEST_IMAGES
from normstudy.report.validation import NO_ERRORS, checked, logged_image, logged_measure, logged_table
from normstudy.tracking import Artifact, Measure, Metric, Tag
from normstudy.tracking.store import artifact_location, ten_name

CURVES = (
    Metric.TRAIN_LOSS,
    Metric.TRAIN_ACCURACY,
    Metric.TRAIN_PENALTY,
    Metric.TEST_LOSS,
    Metric.TEST_ACCURACY,
    Metric.LEARNING_RATE,
    Metric.EPOCH_SECONDS,
)
HELD_OUT = (Metric.VAL_LOSS, Metric.VAL_ACCURACY)  # of runs that hold images out
READERS = 8  # threads: over HTTP a request mostly waits, and 300 tables take 29 s in one, 4 s in 8
BULK_RUNS, BULK_POINTS = 100, 25_000  # what MLflow's server takes and gives at most in one bulk request
LARGEST = 2**23  # bytes of an artifact; a table of all 10,000 test images has a tenth of that
ONE_AT_A_TIME = Lock()  # of downloads under a limit that the whole process has

POINT: Mapping[str, Callable[[Any], Any]] = {"run_id": str, "step": int, "timestamp": int, "value": float}
Points = Mapping[tuple[str, str], Sequence[Any]]  # of (run id, metric): objects with step, timestamp and value


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished run, as the server has it."""

    run_id: str
    parent_id: str | None  # the study that it was trained in
    group: str  # label shared by the reported trials that are the same but for the seed
    config: TrainConfig
    parameters: int
    side_by_side: int  # processes that shared the machine
    stack: int  # seeds in lock-step in its process
    cores: int
    epochs: pd.DataFrame  # a column a metric, indexed by epoch from 1
    misclassified: pd.DataFrame  # columns as in evaluate.misclassified
    diverged_at: int | None  # the step; then `epochs` ends early and `misclassified` is empty
    measures: Mapping[Measure, pd.DataFrame]  # those asked for
    ten: list[np.ndarray] | None  # 28 x 28, in the order of plots.ten_worst; None but for a group's lowest seed


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run to read."""

    run: Run
    config: TrainConfig
    group: str
    draw: bool  # whether its ten images are wanted


def read_all(plan: Sequence[Planned], measures: Sequence[Measure] = ()) -> list[TrialRecord]:
    """The record of each run, in order. Raises `ReportError` for one that is not as a trial logs it."""
    records: list[TrialRecord] = []
    epochs = max((planned.config.epochs for planned in plan), default=1)
    size = max(1, min(BULK_RUNS, BULK_POINTS // (2 * epochs)))  # 2: a resumed run may have each step twice
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(plan), desc="reading", unit="run", disable=None, leave=False) as bar,
    ):
        for start in range(0, len(plan), size):
            chunk = plan[start : start + size]
            points = _histories(pool, [planned.run.info.run_id for planned in chunk])
            for record in pool.map(_read, chunk, repeat(points), repeat(measures)):
                records.append(record)
                bar.update()
    return records


def _histories(pool: ThreadPoolExecutor, run_ids: list[str]) -> Points:
    points: dict[tuple[str, str], list[Any]] = {}
    metrics = (*CURVES, *HELD_OUT)
    for metric, found in zip(metrics, pool.map(_bulk, repeat(run_ids), metrics), strict=True):
        for point in found:
            points.setdefault((point.run_id, metric), []).append(point)
    return points


def _bulk(run_ids: list[str], metric: Metric) -> list[Any]:
    """All points of a metric in up to 100 runs, by the request that MLflow's UI makes and its client doesn't offer:
    300 runs of 20 epochs take 1.2 s over HTTP, and run by run in 8 threads 16 s.

    Empty where the server doesn't offer it or cuts its answer short: then each history is asked for alone.
    """
    store = _get_store()
    points: list[Any] = []
    if isinstance(store, RestStore):
        query = {"run_id": run_ids, "metric_key": str(metric), "max_results": BULK_POINTS}
        try:
            answer = http_request(
                store.get_host_creds(), "/ajax-api/2.0/mlflow/metrics/get-history-bulk", "GET", params=query
            )
            found = answer.json()["metrics"] if answer.ok else []
            points = [SimpleNamespace(**{name: kind(p[name]) for name, kind in POINT.items()}) for p in found]
        except (mlflow.MlflowException, ValueError, KeyError, TypeError, OverflowError):
            return []
    elif hasattr(store, "get_metric_history_bulk"):
        points = store.get_metric_history_bulk(run_ids, metric, BULK_POINTS)
    return points if len(points) < BULK_POINTS else []


def _read(planned: Planned, points: Points, measures: Sequence[Measure]) -> TrialRecord:
    run, config, run_id = planned.run, planned.config, planned.run.info.run_id
    stopped = diverged_at(run)
    metrics = [*CURVES, *(HELD_OUT if config.val_size else ())]
    last = config.epochs if stopped is None else (stopped - 1) // (config.training_images // config.batch_size)
    histories = {str(metric): _history(run_id, metric, last, points) for metric in metrics}
    epochs = pd.DataFrame(histories, index=pd.RangeIndex(1, last + 1, name="epoch"))
    if stopped is None:
        table = read_artifact(run, Artifact.MISCLASSIFIED, logged_table)
        expected = round((1 - epochs[Metric.TEST_ACCURACY].iloc[-1]) * TEST_IMAGES)
    else:
        table, expected = logged_table(NO_ERRORS), 0
    if len(table) != expected:
        raise ReportError(f"run {run_id}: {len(table)} misclassified images are logged, its accuracy says {expected}")
    if parent_id := run.data.tags.get(Tag.PARENT):
        checked("a run id", parent_id, f"run {run_id}: {Tag.PARENT}")
    counts = {"parameters": run.data.params.get("parameters"), "cores": run.data.tags.get(Tag.CORES)}
    counts |= {"side_by_side": run.data.tags.get(Tag.SIDE_BY_SIDE, "1"), "stack": run.data.tags.get(Tag.STACK, "1")}
    draw = planned.draw and stopped is None
    names = [ten_name(row) for row in ten_worst(table).itertuples()] if draw else []
    wanted = measures if stopped is None else ()
    tables = {measure: read_artifact(run, measure.path, logged_measure(measure)) for measure in wanted}
    return TrialRecord(
        run_id=run_id,
        parent_id=parent_id,
        group=planned.group,
        config=config,
        **{name: int(checked("a whole number", text, f"run {run_id}: {name}")) for name, text in counts.items()},
        epochs=epochs,
        misclassified=table,
        ten=[read_artifact(run, f"{Artifact.TEN}/{name}", logged_image) for name in names] if draw else None,
        diverged_at=stopped,
        measures=tables,
    )


def diverged_at(run: Run) -> int | None:
    """The step at which the run failed because its loss was not finite; None for any other run."""
    step = run.data.tags.get(Tag.FAILURE_STEP)
    if run.info.status != "FAILED" or step is None:
        return None
    return int(checked("a whole number", step, f"run {run.info.run_id}: {Tag.FAILURE_STEP}"))


def read_config(run: Run) -> TrainConfig:
    """The configuration that the run logged as parameters, which `mlflow run` logs as they were typed."""
    run_id, key = run.info.run_id, run.data.tags[Tag.TRIAL_KEY]
    # the process that holds a run says so in parameters named `normstudy. ...`
    settings = {k: text for k, text in run.data.params.items() if not k.startswith(("parameters", "normstudy."))}
    try:
        config = TrainConfig.of(**settings)
    except (ConfigError, TypeError) as error:  # TypeError: of a parameter named `cls`
        raise ReportError(f"run {run_id}: its parameters are no configuration: {one_line(str(error))}") from error
    if config.trial_key != key:
        raise ReportError(f"run {run_id}: its parameters have the trial key {config.trial_key}, its tag says {key}")
    return config


def _history(run_id: str, metric: Metric, epochs: int, points: Points) -> list[float]:
    """All values of a metric by epoch, `epochs` of them. Of a step logged twice, by a resumed run, the newest."""
    values = points.get((run_id, metric)) or mlflow.MlflowClient().get_metric_history(run_id, metric)
    newest = {point.step: point.value for point in sorted(values, key=lambda point: point.timestamp)}
    steps = range(1, epochs + 1)
    if holes := list(islice((step for step in steps if step not in newest), 5)):  # of how many epochs, others decide
        raise ReportError(f"run {run_id}: {metric} has no value at epoch {', '.join(map(str, holes))}")
    for step in steps:
        if not abs(newest[step]) < sys.float_info.max:  # which MLflow stores for an infinity
            raise ReportError(f"run {run_id}: {metric} is not finite at epoch {step}")
    return [newest[step] for step in steps]


def read_artifact_of(run_id: str, path: str, parse: Callable[[bytes], Any]) -> Any:
    """`read_artifact` of the run with this id."""
    return read_artifact(mlflow.get_run(run_id), path, parse)


def read_artifact(run: Run, path: str, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of an artifact; its `ValueError` says what is wrong with it. The artifact is asked for by its
    own name: no listing of a server's is followed."""
    what = f"run {one_line(run.info.run_id)}: artifact {path}"
    try:
        content = _content(get_artifact_repository(artifact_location(run)), path)
    except TrackingError as error:
        raise ReportError(str(error)) from error
    except (mlflow.MlflowException, HTTPError, OSError, ValueError) as error:  # whose text may quote a signed address
        raise ReportError(f"{what} can't be read ({type(error).__name__})") from error
    try:
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        return parse(content)
    except ValueError as error:
        raise ReportError(f"{what}: {one_line(str(error))}") from error


def _content(artifacts: ArtifactRepository, path: str) -> bytes:
    """An artifact, or its first bytes, one more than the largest may have: no more of one without end is taken."""
    if isinstance(artifacts, HttpArtifactRepository):
        plain, content = {"Accept-Encoding": "identity"}, b""  # compressed, a few bytes may stand for any number
        with http_request(artifacts._host_creds, f"/{path}", "GET", stream=True, extra_headers=plain) as answer:
            if not answer.ok:
                raise OSError(f"status {answer.status_code}")
            while part := answer.raw.read(LARGEST + 1 - len(content), decode_content=False):
                content += part
        return content
    if isinstance(artifacts, LocalArtifactRepository):
        return _first_bytes(artifacts.get_local_path(path))
    with tempfile.TemporaryDirectory() as folder, _no_larger_file():
        file = f"{folder}/artifact"
        artifacts._download_file(path, file)
        return _first_bytes(file)


def _first_bytes(path: str) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # else a named pipe would never open
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        return file.read(LARGEST + 1)


@contextmanager
def _no_larger_file() -> Iterator[None]:
    """Meanwhile no file of this process grows beyond the largest artifact: the system refuses to write more, whichever
    library downloads it."""
    with ONE_AT_A_TIME:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = LARGEST + 1 if soft == resource.RLIM_INFINITY else min(soft, LARGEST + 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
