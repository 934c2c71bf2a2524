"""A Ray cluster of two nodes on this machine, as processes of our own, which a test may kill."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.servers import free_port
from helpers.started import START_SECONDS, wait_until
from normstudy.errors import StorageError
from normstudy.tracking.event_log import EventLog

MARK = "NORMSTUDY_TEST_NODE"  # an environment variable that all processes of a node inherit, whoever their parent is


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process of Ray that trains a trial now, and the trial's record."""

    pid: int
    record: Path

    def has_checkpoint(self) -> bool:
        """Whether the first epoch is behind it and kept, and no other."""
        log = EventLog(self.record)
        with suppress(OSError, StorageError):  # it has just begun, or ended, and its record is gone
            folder = self.record.parents[1] / "checkpoints" / log.begin.checkpoints
            return len(list(folder.glob("epoch_*.pt"))) == 1
        return False


@dataclass(frozen=True, kw_only=True)
class Node:
    """The process that keeps a node, in a process group of its own, and the mark of all that it starts."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def pids(self) -> list[int]:
        """Its processes, its workers among them."""
        found = psutil.process_iter(["environ"])
        return [process.pid for process in found if (process.info["environ"] or {}).get(MARK) == self.mark]

    def workers(self) -> list[Worker]:
        """Those that train."""
        return [Worker(pid=pid, record=record) for pid in self.pids() if (record := record_of(pid))]

    def kill(self) -> None:
        """As a machine that loses its power: all of it, at once."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of one CPU each. A driver needs `address` and `environment`."""

    folder: Path
    port: int
    environment: dict[str, str] = field(repr=False)
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_head(self) -> None:
        """The node that keeps the cluster's books, and that drivers on this machine attach to."""
        self._start("--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false")

    def start_worker(self) -> None:
        """A node that joins."""
        self._start(f"--address={self.address}")

    def _start(self, *options: str) -> None:
        mark = uuid.uuid4().hex
        log = self.folder / f"node_{mark}.txt"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1", *options]
        command += ["--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment, MARK: mark},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(Node(process=process, mark=mark, log=log))
        wait_until(lambda: "Ray runtime started" in log.read_text(), START_SECONDS, f"a node of Ray, see {log}")

    def workers(self) -> list[Worker]:
        """Those that train, on any node."""
        return [worker for node in self.nodes for worker in node.workers()]

    def said(self, text: str) -> bool:
        """Whether a worker has printed this."""
        return any(text in log.read_text() for log in self.folder.glob("session_2*/logs/worker-*.out"))

    def count(self, text: str) -> int:
        """How often workers have said this on standard error."""
        return sum(log.read_text().count(text) for log in self.folder.glob("session_2*/logs/worker-*.err"))

    def files_with(self, text: str) -> list[Path]:
        """Ray's own files, its logs among them, in which this stands."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return [file for file in files if text.encode() in file.read_bytes()]


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Two nodes, of which nothing is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="nr", dir="/tmp"))  # of the path of a socket Linux takes 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(folder=folder, port=free_port(), environment=environment)
    try:
        cluster.start_head()
        cluster.start_worker()
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def record_of(pid: int) -> Path | None:
    """The newest record of the trial that a process has the lock of."""
    with suppress(psutil.Error, OSError):
        locks = [path for file in psutil.Process(pid).open_files() if (path := Path(file.path)).parent.name == "locks"]
        found = [log for lock in locks for log in (lock.parents[1] / "records").glob(f"{lock.name}.*/events.jsonl")]
        return max(found, key=lambda log: log.stat().st_mtime).parent if found else None
    return None


def one_that_trains(workers: Callable[[], Sequence[Worker]]) -> Worker:
    """A worker that has the first of its trial's epochs behind it."""
    while True:
        wait_until(lambda: any(one.has_checkpoint() for one in workers()), what="a first epoch")
        if found := [one for one in workers() if one.has_checkpoint()]:
            return found[0]
