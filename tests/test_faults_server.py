"""The tracking server goes away while a trial runs: training goes on, and in the end nothing is missing or twice."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.faults_tools import KILLED_TRIAL, Place, require_same, require_whole, stopping
from helpers.servers import Server, tracking_server
from helpers.started import Started, wait_until

from normstudy.config import TrainConfig

pytest_plugins = ["helpers.faults_tools"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
LONG = TrainConfig(norm="ln", epochs=25, train_size=640, device="cpu")


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


def wait_for_epochs(trial: Started, count: int) -> None:
    """Wait until it has trained so many more."""
    wanted = len(trial.epochs) + count
    wait_until(lambda: len(trial.epochs) >= wanted or trial.ended())
    assert not trial.ended(), trial.err


def test_a_server_that_is_killed_and_then_hangs_misses_nothing_and_training_does_not_wait(
    served: tuple[Place, Server],
) -> None:
    place, server = served
    trial = place.train(LONG)
    wait_for_epochs(trial, 2)
    server.kill()
    wait_until(lambda: away(trial))
    wait_for_epochs(trial, 2)
    trial.send(signal.SIGSTOP)  # or it might have ended before the server is there again
    server.start()
    trial.send(signal.SIGCONT)
    wait_until(lambda: back(trial))
    assert server.process
    os.killpg(server.process.pid, signal.SIGSTOP)
    wait_for_epochs(trial, 4)
    os.killpg(server.process.pid, signal.SIGCONT)
    assert trial.wait() == 0, trial.err
    assert len(away(trial)) == len(back(trial))
    assert len(trial.told) == len(away(trial)) + len(back(trial))
    require_whole(place, LONG)


def test_what_a_server_that_stays_away_has_missed_is_sent_by_sync_once(
    served: tuple[Place, Server], reference: dict[str, bytes | str]
) -> None:
    place, server = served
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 2))
    server.kill()
    assert trial.wait() == 3, trial.err
    assert len(trial.epochs) == KILLED_TRIAL.epochs
    [folder] = place.state.glob(f"records/{KILLED_TRIAL.trial_key}.*")
    waits = f"BN + L1, seed 0 waits in {folder}: `python -m normstudy sync` sends it to {place.store}"
    assert trial.told[1:] == [f"normstudy: error: {waits}"]
    assert len(away(trial)) == 1
    refused = place.run("sync")
    assert refused.status == 1
    assert refused.stderr.splitlines()[-1].startswith(f"normstudy: error: tracking server {place.store}: ")
    assert len(refused.err) == 2  # what it begins, and the refusal
    server.start()
    assert place.run("sync").stdout == "1 run is on the server with all that was here\n"
    assert place.run("sync").stdout == "0 runs are on the server with all that was here\n"
    require_same(place, KILLED_TRIAL, reference)
    assert not folder.exists()
