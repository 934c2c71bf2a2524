"""Servers that tests start for real, kill and start again: PostgreSQL, MLflow's tracking server, the team's server."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.project import PROJECT, clean_environment
from helpers.started import wait_until

START_SECONDS, STOP_SECONDS = 60, 30


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


@contextmanager
def postgresql(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL from Debian's packages with an empty database: the variables by which its clients find it.

    Its log goes to `folder`, its data are deleted. It refuses to run as root, and a test's folder is closed to others:
    root runs it as the user postgres, in a temporary folder of that user's.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parts[-2]))
    if not programs:
        raise ServerError("no PostgreSQL: apt-get install postgresql")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    clients = {"PGHOST": "127.0.0.1", "PGPORT": str(free_port()), "PGUSER": "postgres", "PGDATABASE": "mlflow"}
    clients["PGPASSWORD"] = secrets.token_urlsafe(16)
    with TemporaryDirectory(prefix="postgresql_") as place, (folder / "postgresql.txt").open("ab") as log:

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [*as_user, str(programs[-1] / program), *arguments],
                cwd=place,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", **clients},
                stdout=log,
                stderr=log,
                check=True,
                timeout=120,
            )

        (Path(place) / "password").write_text(clients["PGPASSWORD"])
        if as_user:
            shutil.chown(place, "postgres")
            shutil.chown(Path(place) / "password", "postgres")
        data = f"--pgdata={place}/data"
        run("initdb", data, "--username=postgres", "--pwfile=password", "--auth=scram-sha-256", "--encoding=UTF8")
        settings = f"-p {clients['PGPORT']} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "start", "--wait", data, f"--options={settings}")
        try:
            run("createdb", "--maintenance-db=postgres", "mlflow")
            yield clients
        finally:
            run("pg_ctl", "stop", "--mode=fast", data)


@contextmanager
def team_server(database: dict[str, str], folder: Path, password: str) -> Iterator[Server]:
    """`deploy/serve.sh` on a PostgreSQL, whose first user is admin; artifacts go to a folder. Only its own address is
    an allowed host."""
    port = free_port()
    settings = {
        **database,
        "PYTHON": sys.executable,
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
    }
    environment = clean_environment("", **settings)
    command = ["bash", str(PROJECT / "deploy" / "serve.sh")]
    with running(Server(port=port, command=command, environment=environment, folder=folder)) as server:
        yield server
