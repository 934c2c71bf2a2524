"""The processes of a study's trials: each is told of a stop once, ends in its own time, and outlives nobody."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from helpers.project import PROJECT
from helpers.started import wait_until

from normstudy.launch import ECHO_SECONDS

VARIANTS = ("BN", "GN", "LN")
SECONDS = 120  # that a driver may take, on a machine with other work
Driver = subprocess.Popen[str]
# A study's driver with three tasks that end in a while once they are told to stop.
DRIVER = """
import os, sys, time
from pathlib import Path
from tqdm import tqdm
from normstudy.config import TrainConfig
from normstudy.launch import local
from normstudy.launch import StopSignal, nobody_reads_output
from normstudy.launch import Task

folder, behaviour = Path(sys.argv[1]), sys.argv[2]


def mark(name, text=""):
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").replace(folder / name)


def held(where):
    while behaviour == where and not (folder / "go").exists():
        time.sleep(0.02)


def trial(tasks):
    [task] = tasks
    number = task.configs[0].variant
    mark(f"forked_{number}", str(os.getpid()))
    held("start")
    stop_signal = StopSignal(gone=nobody_reads_output)
    mark(f"begun_{number}")
    while not (stopped := stop_signal()) or behaviour == "deaf":
        if behaviour == "talks":
            print("epoch " + "." * 1000)
        time.sleep(0.02)
    for line in range(20 if behaviour == "talks" else 0):
        print("." * 10_000, line)
    time.sleep(0.5)  # it ends its run: no signal may hit it in this time
    mark(f"ended_{number}", str(int(stopped)))
    print(f"ended {number}")


def main():
    stop_signal = StopSignal()

    def asked():
        if stop_signal():
            mark("stopping")
        return stop_signal()

    if behaviour == "deaf":
        local.STOP_SECONDS = 1.0
    if behaviour == "import":
        local.CONTEXT.set_forkserver_preload(["slow"])
    shared = {"experiment": "x", "parent": "", "tags": {}, "force": False, "tracking_uri": None}
    tasks = [Task(configs=(TrainConfig(norm=norm),), **shared) for norm in ("bn", "gn", "ln")]
    local.LocalExecutor(3, trial)(tasks, lambda task: [], tqdm(disable=True), asked)
    sys.exit(128 + stop_signal())


if __name__ == "__main__":
    main()
"""
# What the server of processes imports before it forks.
SLOW_IMPORT = """
import time
from pathlib import Path

folder = Path(__file__).parent
(folder / "importing").touch()
while not (folder / "go").exists():
    time.sleep(0.02)
"""


@contextmanager
def driver(
    folder: Path,
    behaviour: str = "",
    *,
    output: int | IO[str] = subprocess.PIPE,
    before: Callable[[], None] | None = None,
) -> Iterator[Driver]:
    """A driver in a session of its own; whatever is left of it and its trials at the end is killed."""
    file = folder / "driver.py"
    file.write_text(DRIVER)
    (folder / "slow.py").write_text(SLOW_IMPORT)
    process = subprocess.Popen(
        [sys.executable, str(file), str(folder), behaviour],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{folder}"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=before,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def all_have(folder: Path, mark: str) -> None:
    wait_until(lambda: len(list(folder.glob(f"{mark}_*"))) == 3, SECONDS, f"three trials that have {mark}")


def ended_by(folder: Path) -> list[int]:
    """The signals that the trials ended by, in their own time."""
    all_have(folder, "ended")
    return [int(file.read_text()) for file in sorted(folder.glob("ended_*"))]


def processes_are_gone(folder: Path) -> None:
    numbers = [file.read_text() for file in folder.glob("forked_*")]
    wait_until(lambda: not any(Path("/proc", number).exists() for number in numbers), SECONDS, "the end of the trials")


def group(number: int) -> Callable[[Driver], None]:
    return lambda process: os.killpg(process.pid, number)


def ctrl_c_under_mlflow_run(process: Driver) -> None:
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("send", "status", "numbers"),
    [
        pytest.param(group(signal.SIGTERM), 143, {15}, id="SIGTERM-to-the-group"),
        pytest.param(ctrl_c_under_mlflow_run, 130, {2, 15}, id="Ctrl-C-under-mlflow-run"),
        pytest.param(group(signal.SIGHUP), 129, {1, 15}, id="SIGHUP-to-the-group"),
    ],
)
def test_every_trial_stops_in_its_own_time_whatever_combination_of_signals_arrives(
    send: Callable[[Driver], None], status: int, numbers: set[int], tmp_path: Path
) -> None:
    with driver(tmp_path) as process:
        all_have(tmp_path, "begun")
        send(process)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == status, err
        assert set(ended_by(tmp_path)) <= numbers
        assert err == ""
        assert sorted(out.splitlines()) == [f"{name:8s} ended {name}" for name in VARIANTS]
        processes_are_gone(tmp_path)


def test_a_closed_terminal_stops_every_trial(tmp_path: Path) -> None:
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    def begun() -> bool:
        os.read(ours, 4096)  # a terminal that nobody reads makes its writers wait
        return len(list(tmp_path.glob("begun_*"))) == 3

    with driver(tmp_path, "talks", output=theirs, before=take_terminal) as process:
        os.close(theirs)
        wait_until(begun, SECONDS, "all trials")
        os.close(ours)
        assert process.wait(SECONDS) in (129, 120)  # 120: Python's, where its last line could not be written
        assert set(ended_by(tmp_path)) <= {1, 15}
        processes_are_gone(tmp_path)


def test_trials_of_a_killed_driver_stop_at_the_next_batch(tmp_path: Path) -> None:
    with (
        driver(tmp_path, "talks") as process,
        subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL),
    ):
        all_have(tmp_path, "begun")
        process.kill()
        assert ended_by(tmp_path) == [15] * 3
        processes_are_gone(tmp_path)


def test_a_second_request_ends_the_driver_at_once_and_a_stop_before_a_trials_first_line_is_not_lost(
    tmp_path: Path,
) -> None:
    with driver(tmp_path, "start") as process:
        all_have(tmp_path, "forked")
        process.send_signal(signal.SIGTERM)
        wait_until((tmp_path / "stopping").exists, SECONDS, "the first request")
        time.sleep(ECHO_SECONDS + 0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 143
        (tmp_path / "go").touch()
        assert ended_by(tmp_path) == [15] * 3
        processes_are_gone(tmp_path)
        assert process.stderr
        assert process.stderr.read() == "normstudy: stopped at once; start it again to resume\n"


def test_a_stop_while_the_server_of_processes_imports_ends_the_driver_without_a_word(tmp_path: Path) -> None:
    with driver(tmp_path, "import") as process:
        wait_until((tmp_path / "importing").exists, SECONDS, "the server's imports")
        group(signal.SIGHUP)(process)
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (129, "")
        processes_are_gone(tmp_path)
        assert len(list(tmp_path.glob("ended_*"))) == len(list(tmp_path.glob("forked_*")))


def test_what_trials_print_while_they_stop_is_passed_on(tmp_path: Path) -> None:
    with driver(tmp_path, "talks") as process:
        all_have(tmp_path, "begun")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (143, "")
        for name in VARIANTS:
            own = [line for line in out.splitlines() if line.startswith(f"{name} ")]
            assert own[-21:] == [
                *(f"{name:8s} {'.' * 10_000} {line}" for line in range(20)),
                f"{name:8s} ended {name}",
            ]


def test_a_trial_that_does_not_stop_in_time_is_killed_and_named(tmp_path: Path) -> None:
    with driver(tmp_path, "deaf") as process:
        all_have(tmp_path, "begun")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 143
        said = [f"normstudy: {name} killed: it did not stop within 1 s" for name in VARIANTS]
        assert sorted(err.splitlines()) == said
        processes_are_gone(tmp_path)
        assert not list(tmp_path.glob("ended_*"))


def test_processes_start_below_a_temporary_folder_with_a_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    code = "from normstudy.launch import local\nlocal.start_server()\nlocal.CONTEXT.Process(target=print).start()\n"
    code = code.replace("\nlocal.C", "\nif __name__ == '__main__':\n    local.C")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(long)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
