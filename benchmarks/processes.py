"""Starts what is measured: processes with one environment, throwaway MLflow stores, a tracking server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurement import RESIDENT_UNIT

PROJECT = Path(__file__).parents[1]
SERVER_SECONDS = 60  # that a tracking server may take to answer
CREATE_TABLES = "import mlflow, sys; mlflow.MlflowClient(sys.argv[1]).search_experiments()"


class BenchmarkError(Exception):
    """A measured process failed, or printed no result."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A process that has ended well: wall time from start to exit, largest resident size of one process, output."""

    seconds: float
    peak_bytes: int
    output: str

    def result(self) -> dict[str, Any]:
        """The line of JSON that a contender prints last. Raises `BenchmarkError` when it did not."""
        line = self.output.strip().rpartition("\n")[2]
        try:
            result: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise BenchmarkError(f"no result, but: {line}") from error
        return result


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A folder for one measurement, with an MLflow store that has its tables and no run."""

    folder: Path
    store: str

    def python(self, *arguments: str, threads: int = 1, **environment: str) -> Finished:
        """`python ARGUMENTS` in this folder. Raises `BenchmarkError` unless it exits with status 0."""
        command = [sys.executable, *arguments]
        log = self.folder / "output.txt"
        with log.open("w") as output:
            started = time.time()
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=clean_environment(
                    self.store, threads, BENCHMARK_STARTED=repr(started), **self.state, **environment
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)  # also the largest child's memory, which `wait` doesn't tell
            seconds = time.time() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text(errors="replace")
        if process.returncode:
            raise BenchmarkError(f"{' '.join(command)}: exit status {process.returncode}\n{text[-2000:]}")
        return Finished(seconds=seconds, peak_bytes=usage.ru_maxrss * RESIDENT_UNIT, output=text)

    @property
    def state(self) -> dict[str, str]:
        """Where normstudy keeps its records of runs."""
        return {"NORMSTUDY_STATE": str(self.folder / "state")}

    def module(self, name: str, *arguments: str, threads: int = 1) -> Finished:
        """`python -m NAME ARGUMENTS` in this folder."""
        return self.python("-m", name, *arguments, threads=threads)


def clean_environment(store: str, threads: int, **more: str) -> dict[str, str]:
    """The same for every process but for store and threads: no other setting of MLflow's, the project importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MALLOC_"))}
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    count = str(threads)
    settings = {"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": path}
    return {**kept, **settings, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **more}


@contextmanager
def workplace(parent: Path, tables: Path) -> Iterator[Workplace]:
    """A new folder below `parent`, with a copy of the database `tables`; gone when the block ends."""
    folder = parent / f"workplace_{time.time_ns()}"
    folder.mkdir(parents=True)
    shutil.copy(tables, folder / "mlflow.db")
    try:
        yield Workplace(folder=folder, store=f"sqlite:///{folder / 'mlflow.db'}")
    finally:
        shutil.rmtree(folder)


def create_tables(folder: Path) -> tuple[Path, float]:
    """A database with MLflow's tables, and the seconds that its first use took."""
    database = folder / "tables" / "mlflow.db"
    database.parent.mkdir(parents=True)
    here = Workplace(folder=database.parent, store=f"sqlite:///{database}")
    return database, here.python("-c", CREATE_TABLES, here.store).seconds


@contextmanager
def tracking_server(place: Workplace) -> Iterator[Workplace]:
    """A real `mlflow server` on the store of a workplace, that serves the artifacts too; the workplace through it.

    Raises `BenchmarkError` when it does not answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", place.store, "--artifacts-destination", str(place.folder / "served")]
    environment = clean_environment("", 1, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (place.folder / "server.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=place.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", process)
        yield Workplace(folder=place.folder, store=address)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the address answers. Raises `BenchmarkError` when the process ends, or the time is over."""
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=1)
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.25)
        else:
            return
    raise BenchmarkError(f"{address}: no answer")
