"""The tracking server goes away while trials run: training goes on, and in the end nothing is missing or twice."""

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.faults_tools import (
    KILLED_TRIAL,
    THREE_TRIALS,
    Place,
    Started,
    options,
    require_same,
    require_whole,
    require_whole_study,
    stopping,
    wait_until,
)
from helpers.servers import Server, free_port, tracking_server
from mlflow.entities import Run

from normstudy.config import TrainConfig
from normstudy.tracking import Metric

pytest_plugins = ["helpers.faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
LONG = TrainConfig(norm="ln", epochs=50, train_size=640, device="cpu")
GAP_SECONDS = 8.0  # between two epochs that take 1 s each, beside a server that starts


@pytest.fixture
def served(tmp_path: Path, migrated_store: Path) -> Iterator[tuple[Place, Server]]:
    """A place whose store is behind a server."""
    behind = Place.at(tmp_path / "behind", migrated_store)
    with (
        tracking_server(behind.store, behind.folder) as server,
        stopping(Place(folder=tmp_path, store=server.address)) as place,
    ):
        yield place, server


def away(trial: Started) -> list[str]:
    return [line for line in trial.told if line.endswith("; training goes on, and what it logs waits on this machine")]


def back(trial: Started) -> list[str]:
    return [line for line in trial.told if line.endswith("is back")]


def require_no_gap(place: Place, run: Run, *times: float) -> None:
    """Epochs ended one soon after the other, and between each two of these times too."""
    ended = [point.timestamp / 1000 for point in place.client.get_metric_history(run.info.run_id, Metric.TEST_LOSS)]
    gaps = [after - before for before, after in pairwise(ended)]
    assert max(gaps) < GAP_SECONDS, gaps
    for since, until in zip(times[::2], times[1::2], strict=True):
        assert any(since < end < until for end in ended), (since, until, ended)


def test_a_server_killed_twice_in_a_run_misses_nothing_and_training_does_not_wait(
    served: tuple[Place, Server],
) -> None:
    place, server = served
    trial, times = place.train(LONG), []
    for epoch in (3, 20):
        wait_until(lambda: trial.printed("epoch ", epoch) or trial.ended())  # noqa: B023
        server.kill()
        times.append(time.time())
        time.sleep(4)
        times.append(time.time())
        server.start()
        wait_until(lambda: len(back(trial)) == len(times) // 2)
    assert not trial.ended()
    assert trial.wait() == 0, trial.err
    assert len(away(trial)) == len(back(trial)) == 2, trial.told
    assert len(trial.told) == 4
    run = require_whole(place, LONG)
    require_no_gap(place, run, *times)


def test_a_server_that_hangs_does_not_hold_up_training(served: tuple[Place, Server]) -> None:
    place, server = served
    trial = place.train(LONG)
    wait_until(lambda: trial.printed("epoch ", 3))
    assert server.process
    os.killpg(server.process.pid, signal.SIGSTOP)
    since = time.time()
    time.sleep(20)
    os.killpg(server.process.pid, signal.SIGCONT)
    until = time.time()
    assert trial.wait() == 0, trial.err
    assert len(away(trial)) <= 1
    run = require_whole(place, LONG)
    require_no_gap(place, run, since, until)
    during = [when for when, _ in trial.epochs if since < when < until]
    assert len(during) > 5


def test_what_a_server_that_stays_away_has_missed_is_sent_by_sync_once(
    served: tuple[Place, Server], reference: dict[str, bytes | str]
) -> None:
    place, server = served
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 3))
    server.kill()
    assert trial.wait() == 3, trial.err
    ended = time.time()
    assert ended - trial.epochs[-1][0] < 30
    assert len(trial.epochs) == KILLED_TRIAL.epochs
    [folder] = place.state.glob(f"records/{KILLED_TRIAL.trial_key}.*")
    waits = f"BN + L1, seed 0 waits in {folder}: `python -m normstudy sync` sends it to {place.store}"
    assert trial.told[-1] == f"normstudy: error: {waits}"
    assert len(away(trial)) == 1
    assert len(trial.told) == 2
    refused = place.run("sync")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"normstudy: error: tracking server {place.store}: ")
    assert len(refused.stderr.splitlines()) == 1
    server.start()
    assert place.run("sync").stdout == "1 run is on the server with all that was here\n"
    assert place.run("sync").stdout == "0 runs are on the server with all that was here\n"
    require_same(place, KILLED_TRIAL, reference)
    assert not folder.exists()


def test_the_same_signal_twice_ends_a_trial_at_once_and_nothing_is_lost(
    served: tuple[Place, Server], reference: dict[str, bytes | str]
) -> None:
    place, server = served
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 2))
    server.kill()
    wait_until(lambda: away(trial))
    trial.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert not trial.ended()  # it waits for the server, to end its run
    trial.process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    assert trial.wait() == 130
    assert time.monotonic() - sent < 2
    assert trial.told[-1] == "normstudy: stopped at once; start it again to resume"
    server.start()
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)


def test_a_server_that_restarts_in_a_study_misses_nothing(served: tuple[Place, Server]) -> None:
    place, server = served
    file = place.folder / "three.py"
    file.write_text(THREE_TRIALS.format(epochs=6))
    study = place.start("study", str(file), "--workers", "2")
    wait_until(lambda: study.printed("BN       epoch 3/"))
    server.kill()
    time.sleep(3)
    server.start()
    assert study.wait() == 0, study.err
    require_whole_study(place, epochs=6)
    assert not list(place.state.glob("records/*"))


def test_an_address_with_a_slash_at_its_end_is_the_same_server(
    served: tuple[Place, Server], reference: dict[str, bytes | str]
) -> None:
    place, _ = served
    for store in (f"{place.store}/", place.store):
        trial = place.train(KILLED_TRIAL, MLFLOW_TRACKING_URI=store)
        wait_until(lambda: trial.printed("epoch ", 2) or trial.ended())  # noqa: B023
        trial.kill()
        assert len(list(place.state.glob("records/*"))) == 1
    assert trial.epochs[0][1].endswith("resumed after it")
    last = place.train(KILLED_TRIAL, MLFLOW_TRACKING_URI=f"{place.store}/")
    assert last.wait() == 0, last.err
    assert last.epochs[0][1].endswith("resumed after it")
    require_same(place, KILLED_TRIAL, reference)
    assert not list(place.state.glob("records/*"))


def nowhere(place: Place) -> Place:
    """The same records, and a server that doesn't exist."""
    return Place(folder=place.folder, store=f"http://127.0.0.1:{free_port()}")


def test_a_trial_without_a_server_is_sent_whole_and_once(place: Place, reference: dict[str, bytes | str]) -> None:
    offline = nowhere(place)
    refused = offline.run("train", *options(KILLED_TRIAL))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    with stopping(offline):
        trial = offline.train(KILLED_TRIAL, "--offline")
        wait_until(lambda: trial.printed("epoch ", 3))
        trial.kill()
    done = offline.run("train", *options(KILLED_TRIAL), "--offline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("resumed after it")
    again = offline.run("train", *options(KILLED_TRIAL), "--offline")
    assert again.returncode == 0
    assert again.stdout.startswith("BN + L1, seed 0 has finished already: ")
    assert not place.runs()
    sent = place.run("sync")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == "1 run is on the server with all that was here\n"
    assert place.run("sync").stdout == "0 runs are on the server with all that was here\n"
    require_same(place, KILLED_TRIAL, reference)


def test_a_study_without_a_server_is_sent_whole_and_once(place: Place) -> None:
    offline = nowhere(place)
    file = place.folder / "three.py"
    file.write_text(THREE_TRIALS.format(epochs=2))
    done = offline.run("study", str(file), "--offline")
    assert done.returncode == 0, done.stderr
    assert not place.runs()
    again = offline.run("study", str(file), "--offline")
    assert again.stdout == "3 of 3 trials are left as they are\n"
    sent = place.run("sync")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == "4 runs are on the server with all that was here\n"
    require_whole_study(place, epochs=2)
    assert place.run("sync").stdout == "0 runs are on the server with all that was here\n"


def test_a_trial_that_has_finished_without_a_server_is_sent_and_not_trained_again(place: Place) -> None:
    config = TrainConfig(norm="none", epochs=1, train_size=640, device="cpu")
    done = place.run("train", *options(config), "--offline")
    assert done.returncode == 0, done.stderr
    again = place.run("train", *options(config))
    assert again.returncode == 0, again.stderr
    run = require_whole(place, config)
    assert again.stdout == f"NONE, seed 0 has finished already: run {run.info.run_id}; --force trains it again\n"
    assert not list(place.state.glob("records/*"))


def test_sync_leaves_a_trial_alone_that_has_finished_elsewhere_and_says_so(place: Place) -> None:
    config = TrainConfig(norm="none", epochs=1, train_size=640, device="cpu")
    done = place.run("train", *options(config), "--offline")
    assert done.returncode == 0, done.stderr
    [folder] = place.state.glob(f"records/{config.trial_key}.*")
    elsewhere = place.run("train", *options(config), NORMSTUDY_STATE=str(place.folder / "elsewhere"))
    assert elsewhere.returncode == 0, elsewhere.stderr
    run = require_whole(place, config)
    for _ in range(2):
        sent = place.run("sync")
        assert sent.returncode == 1
        assert sent.stdout == "0 runs are on the server with all that was here\n"
        assert sent.stderr.splitlines() == [
            f"normstudy: {folder}: not sent: NONE, seed 0 has finished elsewhere, as run {run.info.run_id}",
            "normstudy: error: 1 records were not sent",
        ]
    assert require_whole(place, config).info.end_time == run.info.end_time
