"""A process of a trial or a study is killed or stopped: started again, it comes to what it would have come to."""

import os
import random
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from helpers.faults_tools import (
    KILLED_TRIAL,
    Place,
    options,
    require_same,
    require_whole,
    require_whole_study,
    stopping,
    three_trials,
)
from helpers.project import only_line
from helpers.started import MAIN, Started, wait_until
from mlflow.entities import ViewType

from normstudy.tracking import Tag

pytest_plugins = ["helpers.faults_tools"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
KILLS = 20
# A process that dies at one call, whichever thread makes it.
DYING = f"""
import importlib, os, signal, sys
module, owner, name = sys.argv.pop(1).split("/")
holder = importlib.import_module(module)
holder = getattr(holder, owner) if owner else holder
setattr(holder, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
{MAIN}
"""


def lately(draw: random.Random, place: Place, trial: Started, phase: str) -> None:
    """Wait for a phase of the trial's process, and then for a random while."""
    if phase == "start" or (phase == "finishing" and is_recorded(place)):  # the rest of it is sent at the start
        time.sleep(draw.uniform(0, 3))
    elif phase == "training":
        wait_until(lambda: trial.printed("epoch ") or trial.ended())
        time.sleep(draw.uniform(0, 1))
    else:  # pictures, model, upload and the run's end
        wait_until(lambda: is_recorded(place) or trial.ended())
        time.sleep(draw.uniform(0, 2))


def is_recorded(place: Place) -> bool:
    """Whether the last epoch's metrics are in the trial's record."""
    last = f'"step":{KILLED_TRIAL.epochs},"metrics"'
    return any(last in file.read_text() for file in place.state.glob("records/*/events.jsonl"))


def test_a_trial_killed_twenty_times_comes_to_the_uninterrupted_result(
    tmp_path: Path, migrated_store: Path, reference: dict[str, bytes | str]
) -> None:
    seed, kills = int(os.environ.get("FAULTS_SEED", "20")), 0
    print(f"FAULTS_SEED={seed}")  # a failure can be repeated
    draw = random.Random(seed)
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
        "normstudy.tracking.client/Server/create",  # its record is made, and no run
        "normstudy.tracking.uploader/Upload/require_lease",  # its run is made, and nothing is in it
        "normstudy.tracking.checkpoint/Checkpoints/save",  # an epoch is logged, its checkpoint is not written
        "normstudy.tracking.checkpoint/Checkpoints/delete",  # all is logged, not all is on the server
        "mlflow.pytorch//save_model",  # its model is begun on the server and linked to the run
        "mlflow.tracking/MlflowClient/log_model_artifacts",  # and exported, but not there
        "normstudy.tracking.client/Server/set_status",  # all is on the server but its end
        "normstudy.tracking.event_log/EventLog/remove",  # its end, too; the record stays
    ]
    for point in points:
        dying = place.start(point, "train", *options(KILLED_TRIAL), code=DYING)
        assert dying.wait() == -signal.SIGKILL, (point, dying.err)
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)
    assert place.run("sync").stdout == "1 run is on the server with all that was here\n"
    assert not list(place.state.glob("records/*"))
    require_same(place, KILLED_TRIAL, reference)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_trial_is_killed_and_goes_on_in_the_same_run(
    place: Place, reference: dict[str, bytes | str], number: signal.Signals, status: int
) -> None:
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 3))
    trial.send(number)
    assert trial.wait() == status
    assert re.match(r"normstudy: Stopped after epoch \d+; the same command resumes run [0-9a-f]{32}$", trial.told[-1])
    assert "Traceback" not in trial.stderr
    killed = place.run_of(KILLED_TRIAL)
    assert killed.info.status == "KILLED"
    assert killed.data.tags[Tag.FAILURE] == f"Interrupted: stopped by signal {number}"
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)
    assert place.run_of(KILLED_TRIAL).info.run_id == killed.info.run_id


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_trials_of_a_study_that_is_killed_or_hung_up_end_themselves_and_its_rerun_finishes_all(
    place: Place, number: signal.Signals
) -> None:
    file = three_trials(place, epochs=6)
    driver = place.start("study", file, "--workers", "2", alone=True)
    wait_until(lambda: driver.printed("BN       epoch 2/") and driver.printed("GN       epoch 2/"))
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send(number, group=number != signal.SIGKILL)
    status = driver.wait()
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    trials = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'")
    assert {run.info.status for run in trials} == {"KILLED"}
    assert len(trials) == 2
    if number == signal.SIGHUP:
        assert status == 128 + number
        assert driver.told == ["normstudy: Stopped after 0 of 3 trials; the same command resumes the study"]
        assert "Traceback" not in driver.stderr
        assert "did not stop within" not in driver.stderr
        assert {run.info.status for run in place.runs(view=ViewType.ALL)} == {"KILLED"}
    done = place.run("study", file)
    assert done.status == 0, done.stdout + done.stderr
    assert sum(line.endswith("resumed after it") for line in done.out) == 2
    require_whole_study(place, epochs=6)


def test_a_run_that_is_deleted_while_it_trains_ends_its_process_and_a_new_one_is_trained(place: Place) -> None:
    long = KILLED_TRIAL.model_copy(
        update={"epochs": 30}
    )  # so that it still trains when it is told, on a busy machine, too
    trial = place.train(long)
    wait_until(lambda: trial.printed("epoch ", 2))
    deleted = place.run_of(long).info.run_id
    place.client.delete_run(deleted)
    assert trial.wait() == 1
    assert len(trial.epochs) < long.epochs
    assert only_line("\n".join(trial.told)).startswith(f"normstudy: error: BN + L1, seed 0: run {deleted} was deleted")
    assert "Traceback" not in trial.stderr
    before = place.client.get_run(deleted)
    place.finish(long)
    [run] = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{long.trial_key}'")
    require_whole(place, long, run)
    after = place.client.get_run(deleted)
    assert (after.info.lifecycle_stage, after.info.status) == ("deleted", before.info.status)
    assert after.data.tags == before.data.tags
    assert not list(place.state.glob("records/*"))
