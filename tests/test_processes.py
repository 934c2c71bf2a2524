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
from helpers.faults_tools import wait_until
from helpers.project import PROJECT

from normstudy.launch.signals import ECHO_SECONDS, SAME_STOP_SECONDS

COUNT = 3
SECONDS = 120  # that a driver may take, on a machine with other work
Driver = subprocess.Popen[str]
# A study's driver, as `launch.LocalExecutor` is one, over trials that end in a while once they are told to stop.
DRIVER = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from tqdm import tqdm
from normstudy.launch import local as processes
from normstudy.launch.local import Processes
from normstudy.launch.signals import StopSignal, nobody_reads_output

folder, behaviour = Path(sys.argv[1]), sys.argv[2]


def mark(name, text=""):
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").replace(folder / name)


def held(where):
    while behaviour == where and not (folder / "go").exists():
        time.sleep(0.02)


def trial(number):
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
    time.sleep(1)  # it ends its run: no signal may hit it in this time
    mark(f"ended_{number}", str(int(stopped)))
    print(f"ended {number}")


def main():
    stop_signal = StopSignal()
    if behaviour == "deaf":
        processes.STOP_SECONDS = 1.0
    if behaviour == "import":
        processes.CONTEXT.set_forkserver_preload(["slow"])
    several = Processes(tqdm(disable=True))
    with ThreadPoolExecutor(3) as pool:
        pending = {pool.submit(several.run, f"trial {number}", trial, number) for number in range(3)}
        while pending:
            done, pending = wait(pending, timeout=0.1)
            for future in done:
                future.result()
            if stop_signal():
                mark("stopping")
                several.stop()
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
    wait_until(lambda: len(list(folder.glob(f"{mark}_*"))) == COUNT, SECONDS, f"{COUNT} trials that have {mark}")


def ended_by(folder: Path) -> list[int]:
    """The signals that the trials ended by, in their own time."""
    all_have(folder, "ended")
    return [int(file.read_text()) for file in sorted(folder.glob("ended_*"))]


def processes_are_gone(folder: Path) -> None:
    numbers = [file.read_text() for file in folder.glob("forked_*")]
    wait_until(lambda: not any(Path("/proc", number).exists() for number in numbers), SECONDS, "the end of the trials")


def one(number: int) -> Callable[[Driver], None]:
    return lambda process: process.send_signal(number)


def group(number: int) -> Callable[[Driver], None]:
    return lambda process: os.killpg(process.pid, number)


def both(first: Callable[[Driver], None], second: Callable[[Driver], None], pause: float) -> Callable[[Driver], None]:
    def send(process: Driver) -> None:
        first(process)
        time.sleep(pause)
        second(process)

    return send


@pytest.mark.parametrize(
    ("send", "status", "numbers"),
    [
        pytest.param(one(signal.SIGTERM), 143, {15}, id="SIGTERM-to-the-driver"),
        pytest.param(group(signal.SIGTERM), 143, {15}, id="SIGTERM-to-the-group"),
        pytest.param(one(signal.SIGINT), 130, {15}, id="SIGINT-to-the-driver"),
        pytest.param(both(group(signal.SIGINT), one(signal.SIGTERM), 0.3), 130, {2, 15}, id="Ctrl-C-under-mlflow-run"),
        pytest.param(one(signal.SIGHUP), 129, {15}, id="SIGHUP-to-the-driver"),
        pytest.param(group(signal.SIGHUP), 129, {1, 15}, id="SIGHUP-to-the-group"),
        pytest.param(both(one(signal.SIGTERM), group(signal.SIGTERM), 0), 143, {15}, id="SIGTERM-by-timeout"),
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
        assert sorted(out.splitlines()) == [f"trial {number}  ended {number}" for number in range(COUNT)]
        processes_are_gone(tmp_path)


def test_a_hangup_under_nohup_stops_nobody(tmp_path: Path) -> None:
    def as_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with driver(tmp_path, before=as_nohup) as process:
        all_have(tmp_path, "begun")
        group(signal.SIGHUP)(process)
        one(signal.SIGTERM)(process)
        assert process.wait(SECONDS) == 143
        assert ended_by(tmp_path) == [15] * COUNT


def test_a_closed_terminal_stops_every_trial(tmp_path: Path) -> None:
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    def begun() -> bool:
        os.read(ours, 4096)  # a terminal that nobody reads makes its writers wait
        return len(list(tmp_path.glob("begun_*"))) == COUNT

    with driver(tmp_path, "talks", output=theirs, before=take_terminal) as process:
        os.close(theirs)
        wait_until(begun, SECONDS, "all trials")
        os.close(ours)
        assert process.wait(SECONDS) in (129, 120)  # 120: Python's, where its last line could not be written
        assert set(ended_by(tmp_path)) <= {1, 15}
        processes_are_gone(tmp_path)


@pytest.mark.parametrize("behaviour", ["", "talks"])
def test_trials_of_a_killed_driver_stop_at_the_next_batch(behaviour: str, tmp_path: Path) -> None:
    with driver(tmp_path, behaviour, output=subprocess.PIPE) as process, reading(process):
        all_have(tmp_path, "begun")
        process.kill()
        assert ended_by(tmp_path) == [15] * COUNT
        processes_are_gone(tmp_path)


@contextmanager
def reading(process: Driver) -> Iterator[None]:
    """Somebody reads what it prints."""
    with subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL):
        yield


@pytest.mark.parametrize(("second", "pause"), [(signal.SIGTERM, ECHO_SECONDS), (signal.SIGINT, SAME_STOP_SECONDS)])
def test_a_second_request_ends_the_driver_at_once_and_its_trials_at_the_next_batch(
    second: signal.Signals, pause: float, tmp_path: Path
) -> None:
    with driver(tmp_path, "start") as process:
        all_have(tmp_path, "forked")
        process.send_signal(signal.SIGTERM)
        wait_until((tmp_path / "stopping").exists, SECONDS, "the first request")
        time.sleep(pause + 0.2)
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(SECONDS) == 128 + second
        (tmp_path / "go").touch()
        assert ended_by(tmp_path) == [15] * COUNT
        processes_are_gone(tmp_path)
        assert process.stderr
        assert process.stderr.read() == "normstudy: stopped at once; start it again to resume\n"


def test_a_stop_between_a_trials_fork_and_its_first_line_is_not_lost(tmp_path: Path) -> None:
    with driver(tmp_path, "start") as process:
        all_have(tmp_path, "forked")
        group(signal.SIGTERM)(process)
        wait_until((tmp_path / "stopping").exists, SECONDS, "the stop")
        (tmp_path / "go").touch()
        assert process.wait(SECONDS) == 143
        assert ended_by(tmp_path) == [15] * COUNT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_the_server_of_processes_imports_ends_the_driver_without_a_word(
    number: signal.Signals, tmp_path: Path
) -> None:
    with driver(tmp_path, "import") as process:
        wait_until((tmp_path / "importing").exists, SECONDS, "the server's imports")
        group(number)(process)
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (128 + number, "")
        processes_are_gone(tmp_path)
        assert len(list(tmp_path.glob("ended_*"))) == len(list(tmp_path.glob("forked_*")))


def test_what_trials_print_while_they_stop_is_passed_on(tmp_path: Path) -> None:
    with driver(tmp_path, "talks") as process:
        all_have(tmp_path, "begun")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (143, "")
        for number in range(COUNT):
            own = [line for line in out.splitlines() if line.startswith(f"trial {number} ")]
            assert own[-21:] == [
                *(f"trial {number}  {'.' * 10_000} {line}" for line in range(20)),
                f"trial {number}  ended {number}",
            ]


def test_a_trial_that_does_not_stop_in_time_is_killed_and_named(tmp_path: Path) -> None:
    with driver(tmp_path, "deaf") as process:
        all_have(tmp_path, "begun")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 143
        said = [f"normstudy: trial {number} killed: it did not stop within 1 s" for number in range(COUNT)]
        assert sorted(err.splitlines()) == said
        processes_are_gone(tmp_path)
        assert not list(tmp_path.glob("ended_*"))
