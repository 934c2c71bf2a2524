"""Names of what a run logs, and the way to the store that keeps it."""

import getpass
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.entities import Run
from mlflow.environment_variables import MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from platformdirs import user_state_path
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from normstudy.config import TrainConfig
from normstudy.errors import (
    ConfigError,
    Diverged,
    Interrupted,
    Refused,
    Superseded,
    TrackingError,
    one_line,
    public_uri,
    without_secrets,
)
from normstudy.tracking import Tag
from normstudy.tracking.mlflow_private import EMPTY, schema_problem

STATE = "NORMSTUDY_STATE"  # variable of the environment
DATABASE_ENGINES = ("sqlite", "postgresql", "mysql", "mssql")  # that MLflow keeps runs in
KINDS = "http(s)://HOST:PORT, sqlite:////ABSOLUTE/PATH.db or postgresql+psycopg://USER@HOST/DATABASE"
RUNS_A_PAGE = 1_000
ENDED_AS_KILLED = (Interrupted, Superseded, KeyboardInterrupt, BrokenPipeError)  # the last: its launcher is gone


def connect(*, make: bool = True) -> str:
    """`use` the store, and make sure that it answers; an empty one gets its tables here, unless `make` is false.
    Returns the URI.

    Raises `TrackingError` in one line when it can't be used, `ConfigError` for a URI that names none, and for a
    database without the tables of this version of MLflow: nothing is migrated here.
    """
    uri = store_uri()
    url, file = database_url(uri), sqlite_file(uri)
    uri = use(_plain(uri, file))
    try:
        problem = "isn't there" if file and not file.is_file() else ""
        if url and not problem:  # before MLflow does, which asks a database that refuses ten times, for 100 s
            problem = schema_problem(url)
        if problem and not (make and problem in ("isn't there", EMPTY)):
            expected = f"expected a database of MLflow {mlflow.__version__}"
            raise ConfigError(f"MLFLOW_TRACKING_URI={one_line(where())}: {problem}; {expected}")
        if file and not file.is_file():
            make_sqlite(file)
        mlflow.MlflowClient().search_experiments(max_results=1)
    except (mlflow.MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"tracking server {where()}: {first_line(error)}") from error
    return uri


def store_uri() -> str:
    """The store in use: the one that MLFLOW_TRACKING_URI names, else MLflow's default, a database in the current
    folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or str(URL.create("sqlite", database=str(Path.cwd() / "mlflow.db")))


def local_folder() -> Path | None:
    """The folder of the store in use, where that is a file on this machine."""
    with suppress(ConfigError):
        if file := sqlite_file(store_uri()):
            return file.absolute().parent
    return None


def state_root() -> Path:
    """Where this machine keeps records, locks and checkpoints: what `NORMSTUDY_STATE` names; else `.normstudy` beside a
    store that is a file; else, for that of a server, the user's state folder."""
    if named := os.environ.get(STATE):
        return Path(named)
    beside = local_folder()
    return beside / ".normstudy" if beside else user_state_path("normstudy", appauthor=False)


def database_url(uri: str) -> URL | None:
    """The database that a tracking URI names, as MLflow's own library reads it; None for a server's address.

    Raises `ConfigError` for a URI of any other kind, and for a database whose driver is not installed.
    """
    if urlsplit(uri[:8]).scheme in ("http", "https"):
        return None
    try:
        url = make_url(uri)
        if url.get_backend_name() in DATABASE_ENGINES:
            url.get_dialect().import_dbapi()
            return url
        problem = "no address of a tracking server or database"
    except ModuleNotFoundError as error:
        problem = f"its driver, the package {error.name}, is not installed"
    except (SQLAlchemyError, ValueError):
        problem = "no address of a tracking server or database"
    raise ConfigError(f"MLFLOW_TRACKING_URI={one_line(where(uri))}: {problem}; expected {KINDS}")


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database; None for any other store.

    Raises `ConfigError` where it can't be one: a database in memory ends with its process.
    """
    url = database_url(uri)
    if url is None or url.get_backend_name() != "sqlite":
        return None
    name = url.database or ":memory:"
    if url.query.get("uri") == "true":  # SQLite's own kind of URI
        name = ":memory:" if url.query.get("mode") == "memory" else unquote(urlsplit(name).path) or ":memory:"
    problem = "a database in memory, which ends with its process" if name == ":memory:" else ""
    problem = problem or ("a folder" if Path(name).is_dir() else "")
    if problem:
        raise ConfigError(f"MLFLOW_TRACKING_URI={one_line(uri)}: {problem}; expected sqlite:////absolute/path.db")
    return Path(name)


def _plain(uri: str, file: Path | None) -> str:
    """The URI, with the path of an SQLite database as it is: MLflow takes %20 for a space at one place, and at another
    for three signs."""
    path, mark, query = uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{file}{mark}{query}" if unquote(path) == str(file) and not set("%?") & set(str(file)) else uri


def use(uri: str) -> str:
    """Point MLflow at this store, here and in child processes, and ask it nothing yet.

    A server that is away is asked for seconds, not MLflow's four minutes.
    """
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name, for whom MLflow and torch fail
        os.environ["LOGNAME"] = str(os.getuid())
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # no model of ours needs it
    # otherwise a server says how large a file is, and so how much memory the client sets aside
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # it prints a traceback for each request to a database that is away; what it raises says all
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    mlflow.set_tracking_uri(uri)
    return uri


def has_store() -> bool:
    """False for an SQLite file that is empty or isn't there: MLflow's look would make its tables. Raises `ConfigError`
    for a URI that names no store."""
    file = sqlite_file(store_uri())
    return file is None or (file.is_file() and file.stat().st_size > 0)


def make_sqlite(path: Path) -> None:
    """Make an SQLite store that isn't there, with all its tables at once: processes that each make some get in one
    another's way, and one that is killed leaves a store that MLflow refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        mlflow.MlflowClient(str(URL.create("sqlite", database=str(temporary)))).search_experiments(max_results=1)
        with suppress(OSError):  # another process was first, or a file system without links: MLflow makes it in place
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """What an error says, in one line, without users and passwords: those of the store in use, wherever they stand, and
    those of other URIs."""
    secrets = [os.environ.get(name, "") for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")]
    users = [os.environ.get("MLFLOW_TRACKING_USERNAME", "")]
    text = without_secrets(str(error)[:10_000], mlflow.get_tracking_uri(), secrets, users)
    return one_line(next((line for line in text.splitlines() if line.strip()), type(error).__name__))


def where(uri: str | None = None) -> str:
    """A tracking URI, else the one in use, for messages: without user and password; the same for a server with and
    without a slash at the end."""
    public = public_uri(uri or mlflow.get_tracking_uri())
    return public.rstrip("/") if public.lower().startswith(("http:", "https:")) else public


def artifact_location(run: Run) -> str:
    """Where a run's artifacts lie, as the server says: the place to read them from and to write them to. Raises
    `Refused` as `own_location` does."""
    return own_location(run.info.artifact_uri or "", f"run {one_line(run.info.run_id)}")


def own_location(uri: str, what: str) -> str:
    """The place of something's artifacts.

    Raises `Refused` for a place that is not the server's to choose: another host, to which MLflow sends the
    tracking server's user and password, unless MLflow's variable allows its scheme; a location that leads on to any
    other; a folder of this machine, where the server is on another; and one that only a server serves, where runs are
    in a database.
    """
    server = urlsplit(mlflow.get_tracking_uri())
    own = server.netloc.rpartition("@")[2]
    try:
        scheme, host = urlsplit(uri)[:2]
    except ValueError:  # of a host that can't be one
        scheme, host = "models", ""
    if scheme in ("http", "https"):
        allowed = (scheme, host) == (server.scheme, own)
    elif scheme == "mlflow-artifacts":
        if server.scheme not in ("http", "https"):
            problem = f"its artifacts are at {one_line(where(uri))}, which only a tracking server serves"
            raise Refused(f"{what}: {problem}: use its http address, not {where()}, or another experiment")
        allowed = host in ("", own)
    elif scheme == "file" or len(scheme) < 2:  # MLflow takes c:/folder for a folder, too
        allowed = bool(uri) and (server.scheme not in ("http", "https") or _is_this_machine(server.hostname or ""))
    else:
        allowed = scheme not in ("runs", "models")  # these lead on
    if not allowed and scheme not in MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES.get():
        raise Refused(f"{what}: its artifacts are not on {where()} but {one_line(where(uri or '?'))}")
    return uri


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):  # of a name
        return ip_address(host).is_loopback
    return host == "localhost"


def experiment_name() -> str:
    """The experiment that runs without one of their own go to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "normstudy")


def chosen_experiment(experiment_id: str | None = None) -> str:
    """Name of the experiment of this id, or of the one that the environment names, else `normstudy`.

    Raises `ConfigError` for an id that the server doesn't have.
    """
    if not (chosen := experiment_id or os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return experiment_name()
    try:
        found = mlflow.get_experiment(chosen)
    except mlflow.MlflowException as error:
        if error.get_http_status_code() not in (400, 404):
            raise
        raise ConfigError(f"MLFLOW_EXPERIMENT_ID={one_line(chosen)}: {where()} has no such experiment") from error
    return str(found.name)


def pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """All that a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        if not (token := page.token):
            return


def ending(error: BaseException | None) -> tuple[str, dict[str, str]]:
    """The status that a run ends with, and the tags that say why: FINISHED without an error, KILLED at a signal or when
    its launcher is gone, FAILED at any other."""
    if error is None:
        return "FINISHED", {}
    tags: dict[str, str] = {Tag.FAILURE: f"{type(error).__name__}: {first_line(error)}"}
    if isinstance(error, Diverged):
        tags[Tag.FAILURE_STEP] = str(error.step)
    return "KILLED" if isinstance(error, ENDED_AS_KILLED) else "FAILED", tags


def identity(config: TrainConfig) -> dict[str, str]:
    """Tags that say which trial a run is."""
    return {
        Tag.NAME: f"{config.variant}, seed {config.seed}",
        Tag.TRIAL_KEY: config.trial_key,
        Tag.VARIANT: config.variant,
    }


def log_to_run(run_id: str, artifact: Path, *, folder: str | None = None) -> None:
    """Add a file to a run that has ended, and leave its state as it is."""
    connect()
    get_artifact_repository(artifact_location(mlflow.get_run(run_id))).log_artifact(str(artifact), folder)


def ten_name(row: Any) -> str:
    """File name of one of the ten images; `row` is its row of the table."""
    return f"index{row.index}_true{row.true}_predicted{row.predicted}.png"
