"""Every call of MLflow that its documentation doesn't promise; a test of this file fails when one changes."""

import os
import resource
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracking import _get_store
from mlflow.utils.rest_utils import http_request

BULK_RUNS, BULK_POINTS = 100, 25_000  # what MLflow's server takes and gives at most in one bulk request
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
ONE_AT_A_TIME = Lock()  # of downloads under a limit that the whole process has


class Point(NamedTuple):
    """A value of a metric."""

    run_id: str
    step: int
    timestamp: int
    value: float


def bulk_history(run_ids: Sequence[str], metric: str) -> list[Point]:
    """All points of a metric in up to 100 runs, by the request that MLflow's UI makes and its client doesn't offer:
    300 runs of 20 epochs take 1.2 s over HTTP, and run by run in 8 threads 16 s.

    Empty where the server doesn't offer it or cuts its answer short: then each history is asked for alone.
    """
    store = _get_store()
    found: list[Any] = []
    try:
        if isinstance(store, RestStore):
            query = {"run_id": [*run_ids], "metric_key": metric, "max_results": BULK_POINTS}
            answer = http_request(store.get_host_creds(), BULK, "GET", params=query)
            found = answer.json()["metrics"] if answer.ok else []
        elif hasattr(store, "get_metric_history_bulk"):
            found = [vars_of(point) for point in store.get_metric_history_bulk([*run_ids], metric, BULK_POINTS)]
        points = [Point(str(p["run_id"]), int(p["step"]), int(p["timestamp"]), float(p["value"])) for p in found]
    except (mlflow.MlflowException, ValueError, KeyError, TypeError, OverflowError):
        return []
    return points if len(points) < BULK_POINTS else []


def vars_of(point: Any) -> dict[str, Any]:
    """The point of a metric as the server's JSON has it."""
    return {name: getattr(point, name) for name in Point._fields}


def image_names(key: str, *, step: int, of: str) -> tuple[str, str]:
    """The artifacts of an image that the UI shows at a step, whole and compressed, as `log_image` names them, but for
    the time and the random part: these are the same each time for one `of`."""
    stem = (
        f"images/{key.replace('/', '~')}+step+{step}+timestamp+1+{uuid.uuid5(uuid.NAMESPACE_OID, f'{of} {key} {step}')}"
    )
    return f"{stem}.png", f"{stem}+compressed.webp"


def first_bytes(location: str, path: str, size: int) -> bytes:
    """The first `size` bytes of an artifact: no more of one without end is taken.

    MLflow's own download takes all that a server sends, and follows the paths that it lists.
    """
    artifacts = get_artifact_repository(location)
    if isinstance(artifacts, HttpArtifactRepository):
        plain, content = {"Accept-Encoding": "identity"}, b""  # compressed, a few bytes may stand for any number
        with http_request(artifacts._host_creds, f"/{path}", "GET", stream=True, extra_headers=plain) as answer:
            if not answer.ok:
                raise OSError(f"status {answer.status_code}")
            while part := answer.raw.read(size - len(content), decode_content=False):
                content += part
        return content
    if isinstance(artifacts, LocalArtifactRepository):
        return _of_file(artifacts.get_local_path(path), size)
    with tempfile.TemporaryDirectory() as folder, _no_file_larger_than(size):
        file = f"{folder}/artifact"
        artifacts._download_file(path, file)
        return _of_file(file, size)


def _of_file(path: str, size: int) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # else a named pipe would never open
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        return file.read(size)


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    """Meanwhile no file of this process grows beyond this size: the system refuses to write more, whichever library
    downloads it."""
    with ONE_AT_A_TIME:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = size if soft == resource.RLIM_INFINITY else min(soft, size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
