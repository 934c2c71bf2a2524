"""A process of a trial or a study is killed or stopped: started again, it comes to what it would have come to."""

import random
import signal
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from faults_tools import (
    KILLED_TRIAL,
    THREE_TRIALS,
    Place,
    Started,
    kill_after,
    options,
    require_same,
    require_whole_study,
    seeded,
    stopping,
    wait_until,
)
from normstudy.ledger import reap
from normstudy.trials import create_run, get, log_tags, now_milliseconds

from normstudy.tracking import Tag

pytest_plugins = ["faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
KILLS = 20
# A process that dies at one call, whichever thread makes it.
DYING = """
import importlib, os, signal, sys
module, owner, name = sys.argv[1].split("/")
holder = importlib.import_module(module)
holder = getattr(holder, owner) if owner else holder
setattr(holder, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
sys.argv = ["normstudy", *sys.argv[2:]]
from normstudy.cli import main
main()
"""


def lately(draw: random.Random, place: Place, trial: Started, phase: str) -> None:
    """Wait for a phase of the trial's process, and then for a random while."""
    if phase == "start" or (phase == "finishing" and is_recorded(place)):  # the rest of it is sent at the start
        time.sleep(draw.uniform(0.5, 9))
    elif phase == "training":
        wait_until(lambda: trial.printed("epoch ") or trial.ended())
        time.sleep(draw.uniform(0, 1))
    else:  # pictures, model, upload and the run's end
        wait_until(lambda: is_recorded(place) or trial.ended())
        time.sleep(draw.uniform(0, 2.5))


def is_recorded(place: Place) -> bool:
    """Whether the last epoch's metrics are in the trial's record."""
    last = f'"step": {KILLED_TRIAL.epochs},'
    return any(last in file.read_text() for file in place.state.glob("*/*/events.jsonl"))


@pytest.mark.timeout(1800)
def test_a_trial_killed_twenty_times_comes_to_the_uninterrupted_result(
    tmp_path: Path, migrated_store: Path, reference: dict[str, bytes | str]
) -> None:
    draw, kills = seeded(), 0
    phases = draw.sample(["start"] * 4 + ["training"] * 8, 12) + draw.sample(["start"] * 2 + ["finishing"] * 6, 8)
    places = [Place.at(tmp_path / "0", migrated_store)]
    while kills < KILLS:
        with stopping(places[-1]) as place:
            trial = place.train(KILLED_TRIAL)
            lately(draw, place, trial, phases[kills])
            if trial.ended():  # before it was killed: the next trial, in a store of its own
                assert trial.wait() == 0, trial.err
                places.append(Place.at(tmp_path / str(len(places)), migrated_store))
                continue
            trial.kill()
            kills += 1
            print(f"kill {kills:2d} {phases[kills - 1]:9s} {place.folder.name} after {trial.out[-1:]}")
    for place in places:
        place.finish(KILLED_TRIAL)
        require_same(place, KILLED_TRIAL, reference)


def test_a_trial_killed_at_its_weakest_points_comes_to_the_same(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    points = [
        "normstudy.trials//take",  # its run is made, and not claimed
        "normstudy.ledger/Claim/folder",  # claimed, and not opened
        "normstudy.checkpoint/Checkpoints/save",  # an epoch is recorded, its checkpoint is not written
        "normstudy.checkpoint/Checkpoints/delete",  # all is recorded, not all is on the server
        "normstudy.courier/Model/log",  # its model is begun on the server
        "mlflow.pytorch//save_model",  # and linked to the run, but not there
        "normstudy.courier//end_run",  # all is on the server but its end
    ]
    for point in points:
        dying = place.start(point, "train", *options(KILLED_TRIAL), code=DYING)
        assert dying.wait() == -signal.SIGKILL, (point, dying.err)
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_trial_is_killed_within_seconds_and_goes_on_in_the_same_run(
    place: Place, reference: dict[str, bytes | str], number: signal.Signals, status: int
) -> None:
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 3))
    trial.process.send_signal(number)
    stopped = time.monotonic()
    assert trial.wait() == status
    assert time.monotonic() - stopped < 10
    assert trial.told == [f"normstudy: error: stopped by signal {number}"]
    assert "Traceback" not in str(trial.err)
    killed = place.run_of(KILLED_TRIAL)
    assert killed.info.status == "KILLED"
    assert killed.data.tags[Tag.FAILURE] == f"Interrupted: stopped by signal {number}"
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)
    assert place.run_of(KILLED_TRIAL).info.run_id == killed.info.run_id


def test_trials_of_a_killed_study_end_themselves_and_its_rerun_finishes_all(place: Place) -> None:
    file = place.folder / "three.py"
    file.write_text(THREE_TRIALS.format(epochs=12))
    driver = place.start("study", str(file), "--workers", "2")
    wait_until(lambda: driver.printed("BN       epoch 2/") and driver.printed("GN       epoch 2/"))
    children = psutil.Process(driver.process.pid).children(recursive=True)
    driver.kill()
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 20)
    trials = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'")
    assert {run.info.status for run in trials} == {"KILLED"}
    assert len(trials) == 2
    done = place.run("study", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    require_whole_study(place, epochs=12)


def test_reap_ends_the_run_of_a_killed_trial_and_leaves_a_living_one_alone(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    trial = place.train(KILLED_TRIAL)
    kill_after(trial, epochs=2)
    assert place.run_of(KILLED_TRIAL).info.status == "RUNNING"
    done = place.run("reap")
    assert done.returncode == 0, done.stderr
    assert "is FAILED: its process is gone (last heartbeat: 20" in done.stdout
    ended = place.run_of(KILLED_TRIAL)
    assert ended.info.status == "FAILED"
    assert ended.data.tags[Tag.FAILURE].startswith("its process is gone (last heartbeat: 20")

    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 2))
    assert place.run("reap").stdout == "no run without its process\n"
    assert trial.wait() == 0
    require_same(place, KILLED_TRIAL, reference)


def test_a_run_of_another_machine_is_reaped_once_its_heart_was_watched(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normstudy.trials.WATCH_SECONDS", 2.0)
    tags = {Tag.TRIAL_KEY: "0" * 16, Tag.HOST: "elsewhere", Tag.HEARTBEAT: "1000000000000"}
    experiment = mlflow.set_experiment("normstudy").experiment_id
    dead, living = (create_run(experiment, {**tags, Tag.NAME: name}) for name in ("dead", "living"))
    for run_id in (dead, living):
        mlflow.MlflowClient().log_param(run_id, "normstudy.claim.1", "elsewhere:1:abc")
    watched: list[float] = []

    def watch(seconds: float) -> None:
        watched.append(seconds)
        log_tags(living, {Tag.HEARTBEAT: "1000000010000"})  # its clock is years behind, and moves

    monkeypatch.setattr("normstudy.trials.time.sleep", watch)
    ended = reap()
    assert watched == [2.0]
    assert ended == [
        f"dead (run {dead}) is FAILED: its process is gone (last heartbeat: 2001-09-09 01:46:40 UTC)",
    ]
    assert [get(dead).status, get(living).status] == ["FAILED", "RUNNING"]
    log_tags(living, {Tag.HEARTBEAT: now_milliseconds()})
    assert reap() == []
