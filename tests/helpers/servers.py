"""Servers that tests start for real, kill and start again: PostgreSQL, MLflow's tracking server, the team's server."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from helpers.project import PROJECT, clean_environment
from helpers.started import wait_until

START_SECONDS, STOP_SECONDS = 60, 30
DATABASE = "mlflow"


class ServerError(Exception):
    """A server that a test needs is not installed, or does not answer."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(kw_only=True)
class Server:
    """An HTTP server in a process group of its own, always on the same port. Its output goes to `log`."""

    port: int
    command: list[str]
    environment: dict[str, str] = field(repr=False)
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.txt"

    def start(self) -> None:
        """Start it, and return once it answers. Raises `ServerError` with the log's end when it does not."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self.answers, START_SECONDS, f"{self.address} answers")
        except (TimeoutError, ServerError) as error:
            self.kill()
            raise ServerError(f"{error}\n{self.log.read_text(errors='replace')[-3000:]}") from error

    def answers(self) -> bool:
        """Whether it does by now. Raises `ServerError` when its process has ended."""
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=1)
        except OSError:
            if self.process is None or self.process.poll() is not None:
                raise ServerError(f"{self.address}: the server has ended") from None
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the whole group, as when the machine goes down; return once nothing listens on its port."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self.process = None
        # the first process of the group is gone; its workers, which listen too, may die a moment after it
        wait_until(lambda: not self.listens(), STOP_SECONDS, f"port {self.port} is closed")

    def listens(self) -> bool:
        """Whether a process still takes connections on its port."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left after that."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started; stopped as the block ends."""
    server.folder.mkdir(parents=True, exist_ok=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def tracking_server(store_uri: str, folder: Path) -> Iterator[Server]:
    """`mlflow server` without users, on a store that has its tables; it serves artifacts below `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store_uri, "--artifacts-destination", str(folder / "served")]
    environment = clean_environment("", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with running(Server(port=port, command=command, environment=environment, folder=folder)) as server:
        yield server


@dataclass(frozen=True, kw_only=True)
class PostgreSQL:
    """A PostgreSQL server with one empty database, `mlflow`, and one user, who needs the password."""

    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"
    user: str = "postgres"

    def environment(self) -> dict[str, str]:
        """The variables by which its clients find it."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": DATABASE,
            "PGPASSWORD": self.password,
        }

    def run(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's client programs against it."""
        return subprocess.run(
            [program(name), *arguments],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", **self.environment(), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """A PostgreSQL of this test's own, from Debian's packages; its log goes to `folder`, its data are deleted.

    It refuses to run as root, and a test's folder is closed to others: its data lie in a temporary folder that belongs
    to the user it runs as.
    """
    server = PostgreSQL(port=free_port(), password=secrets.token_urlsafe(16))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgresql_", ignore_cleanup_errors=True)))
        (place / "password").write_text(server.password)
        if os.geteuid() == 0:
            user = unprivileged_user()
            for path in (place, place / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        log = stack.enter_context((folder / "postgresql.txt").open("ab"))
        data = str(place / "data")
        made = ["initdb", "--pgdata", data, "--username", server.user, "--pwfile", str(place / "password")]
        run_unprivileged([*made, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"], place, log).wait(120)
        options = [f"-c{name}" for name in ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")]
        process = run_unprivileged(["postgres", "-D", data, "-p", str(server.port), *options], place, log)
        stack.callback(end, process)
        create_database(server, process, folder / "postgresql.txt")
        yield server


def program(name: str) -> str:
    """Path of one of PostgreSQL's programs, which Debian keeps out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    if found := shutil.which(name) or (str(installed[-1]) if installed else None):
        return found
    raise ServerError(f"no program {name}: apt-get install postgresql")


def unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def run_unprivileged(command: list[str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs in a process group of its own; root starts it as another user."""
    command = [program(command[0]), *command[1:]]
    if os.geteuid() == 0:
        user = unprivileged_user()
        command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def create_database(server: PostgreSQL, process: subprocess.Popen[bytes], log: Path) -> None:
    """Make the database, as soon as PostgreSQL answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if server.run("createdb", DATABASE, PGDATABASE="postgres").returncode == 0:
            return
        time.sleep(0.2)
    raise ServerError(f"PostgreSQL does not answer\n{log.read_text(errors='replace')[-3000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT is PostgreSQL's fast shutdown: it ends the connections that are open."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)


@dataclass(kw_only=True)
class TeamServer(Server):
    """The server that `deploy/serve.sh` starts, and its first user."""

    user: str
    password: str = field(repr=False)


@contextmanager
def team_server(database: PostgreSQL, folder: Path) -> Iterator[TeamServer]:
    """`deploy/serve.sh` on a PostgreSQL; artifacts go to a folder. Only its own address is an allowed host."""
    port, user, password = free_port(), "admin", secrets.token_urlsafe(16)
    settings = {
        **database.environment(),
        "PYTHON": sys.executable,
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
    }
    environment = clean_environment("", **settings)
    command = ["bash", str(PROJECT / "deploy" / "serve.sh")]
    server = TeamServer(
        port=port, command=command, environment=environment, folder=folder, user=user, password=password
    )
    with running(server):
        yield server
