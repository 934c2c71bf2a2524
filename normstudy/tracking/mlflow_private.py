"""Every call of MLflow that its documentation doesn't promise, and what its errors mean; a test of this file fails when
one changes."""

import math
import os
import resource
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from sqlite3 import SQLITE_AUTH, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_NOTADB, SQLITE_PERM, SQLITE_READONLY
from threading import Lock
from typing import Any, NamedTuple

import mlflow
import pandas as pd
import requests
from alembic.script import ScriptDirectory
from google.protobuf.json_format import ParseError
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision, _get_schema_version
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracking import _get_store
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy import URL, create_engine, inspect, select
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from normstudy.errors import Refused, ReportError, one_line, public_uri

BULK_RUNS, BULK_POINTS = 100, 25_000  # what MLflow's server takes and gives at most in one bulk request
READERS = 8  # threads: over HTTP a request mostly waits, and 300 tables take 29 s in one, 4 s in 8
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
EMPTY = "is empty"  # a database without tables
PROBE_BYTES = 2**17  # of a run's artifacts: a model and its weights of 40 KB each, figures, tables
ONE_AT_A_TIME = Lock()  # of downloads under a limit that the whole process has
TRY_AGAIN = (408, 425, 429)  # client errors that another try may mend: timeout, too early, too many
DISK_REFUSALS = (EACCES, EDQUOT, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS)
SQLITE_REFUSALS = {SQLITE_AUTH, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_NOTADB, SQLITE_PERM, SQLITE_READONLY}
# user or password, database, permission or table, full disk, read-only
POSTGRESQL_REFUSALS = ("28", "3D", "42", "53100", "25006")


class Point(NamedTuple):
    """A value of a metric."""

    run_id: str
    step: int
    timestamp: int
    value: float


def bulk_history(run_ids: Sequence[str], metric: str) -> list[Point] | None:
    """All points of a metric in up to 100 runs. Over HTTP by the request that MLflow's UI makes and its client doesn't
    offer: 300 runs of 20 epochs take 1.2 s, and run by run in 8 threads 16 s. Of a database from the table itself:
    1,000 runs of 100 steps take 0.6 s of processor time, and through MLflow's store, an object a point, 4 s.

    An answer that was cut short is asked for again in halves. None where the server doesn't offer it: then each history
    is asked for alone.
    """
    store = _get_store()
    try:
        if not isinstance(store, RestStore):
            return _points_in_database(store, run_ids, metric)
        query = {"run_id": [*run_ids], "metric_key": metric, "max_results": BULK_POINTS}
        answer = http_request(store.get_host_creds(), BULK, "GET", params=query)
        found: list[Any] = answer.json()["metrics"] if answer.ok else []
        points = [Point(str(p["run_id"]), int(p["step"]), int(p["timestamp"]), float(p["value"])) for p in found]
    except (mlflow.MlflowException, SQLAlchemyError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if answer.ok and len(points) < BULK_POINTS:
        return points
    if not answer.ok or len(run_ids) < 2:
        return None
    half = len(run_ids) // 2
    parts = [bulk_history(some, metric) for some in (run_ids[:half], run_ids[half:])]
    return None if None in parts else [point for part in parts if part for point in part]


def histories(run_ids: Sequence[str], metric: str) -> pd.DataFrame:
    """All points of a metric in these runs, ascending: columns run_id, step, value; the last one logged counts where a
    run has a step twice, as a resumed one may. Raises `ReportError` for an answer that isn't MLflow's."""

    def points(some: Sequence[str]) -> list[Point]:
        found = bulk_history(some, metric)
        if found is not None:
            return found
        return [point for one in some for point in _history_of_run(one, metric)]

    with ThreadPoolExecutor(READERS) as pool:
        chunks = [run_ids[start : start + BULK_RUNS] for start in range(0, len(run_ids), BULK_RUNS)]
        parts = pool.map(points, chunks)
        table = pd.DataFrame([point for part in parts for point in part], columns=Point._fields)
    newest = table.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "step"], keep="last")
    table = newest.sort_values(["run_id", "step"], ignore_index=True)[["run_id", "step", "value"]]
    return table.assign(value=table["value"].astype(float).map(finite_or_infinite))


def _history_of_run(run_id: str, metric: str) -> list[Point]:
    try:
        found = mlflow.MlflowClient().get_metric_history(run_id, metric)
    except ParseError as error:  # of an answer that is JSON, and not MLflow's
        raise ReportError(f"run {run_id}: its {metric} can't be read: {one_line(str(error))}") from None
    return [Point(run_id, point.step, point.timestamp, point.value) for point in found]


def finite_or_infinite(value: float) -> float:
    """MLflow's databases keep infinity as the largest number."""
    return value if abs(value) < 1.7e308 else math.inf


def _points_in_database(store: Any, run_ids: Sequence[str], metric: str) -> list[Point]:
    table = SqlMetric.__table__.c
    columns = (table.run_uuid, table.step, table.timestamp, table.value, table.is_nan)
    query = select(*columns).where(table.key == metric, table.run_uuid.in_(run_ids))
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(table.run_uuid, table.timestamp, table.step, table.value))
        return [Point(run, step, at, math.nan if is_nan else value) for run, step, at, value, is_nan in rows]


def schema_problem(url: URL) -> str:
    """Why the tables of this database are not those of this version of MLflow; `EMPTY` where there are none.

    MLflow itself adds its tables to those of any other program, and most older ones it migrates without a question.
    """
    engine = create_engine(url)
    try:
        tables = {name for name in inspect(engine).get_table_names() if not name.startswith("alembic_")}
        if not tables:
            return EMPTY
        if not {"experiments", "runs", "metrics"} <= tables:
            return "has tables, and none of MLflow's"
        version = _get_schema_version(engine)
    except DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) == SQLITE_NOTADB:
            return "is no database"
        raise
    finally:
        engine.dispose()
    if version == _get_latest_schema_revision():
        return ""
    known = {None, *(one.revision for one in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions())}
    if version in known:
        return f"has the tables of an older MLflow (back it up, then: mlflow db upgrade {public_uri(str(url))})"
    return f"has tables that MLflow {mlflow.__version__} doesn't know, such as those of a newer one"


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
        root = Path(artifacts.artifact_dir).absolute()
        if missing := [place for place in (root, *root.parents) if not place.exists()]:
            problem = f"artifacts are looked for in {root}, and there is no {missing[-1]}"
            raise Refused(one_line(f"{problem}; if it was moved: ln -s ITS_NEW_PLACE {missing[-1]}", None))
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


def write_and_remove(location: str) -> None:
    """A file in a folder of its own among the artifacts of this place, as large as those of a short run, so that a full
    disk refuses it. Raises whatever the way there raises."""
    artifacts = get_artifact_repository(append_to_uri_path(location, f"probe_{uuid.uuid4().hex}"))
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        probe.write_bytes(bytes(PROBE_BYTES))
        artifacts.log_artifact(str(probe))
    with suppress(Exception):  # whoever may write may not always remove
        artifacts.delete_artifacts()


def is_refusal(error: BaseException | None) -> bool:
    """Whether another try would be answered the same: by the HTTP status, and by what the system or a database said
    first; any other error may be gone by then."""
    while error is not None:
        status = 0
        if isinstance(error, mlflow.MlflowException) and error.error_code != "BAD_REQUEST":  # of a busy database, too
            status = error.get_http_status_code()
        elif isinstance(error, requests.HTTPError) and error.response is not None:  # of an artifact, through the server
            status = error.response.status_code
        if (400 <= status < 500 and status not in TRY_AGAIN) or status == 501:
            return True
        if isinstance(error, OSError) and error.errno in DISK_REFUSALS:
            return True
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_REFUSALS:
            return True
        if str(getattr(error, "sqlstate", "")).startswith(POSTGRESQL_REFUSALS):
            return True
        error = error.__cause__
    return False
