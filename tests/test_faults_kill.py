"""A process of a trial or a study is killed or stopped: started again, it comes to what it would have come to."""

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from helpers.faults_tools import (
    KILLED_TRIAL,
    THREE_TRIALS,
    Place,
    Started,
    kill_after,
    options,
    require_same,
    require_whole,
    require_whole_study,
    seeded,
    stopping,
    wait_until,
)
from helpers.project import only_line
from mlflow.entities import ViewType

from normstudy.launch import registry
from normstudy.launch.maintenance import reap
from normstudy.tracking import Metric, Tag
from normstudy.tracking.client import Server

pytest_plugins = ["helpers.faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
KILLS = 20
NINE_TRIALS = '''"""Do nine trials come back?"""

from normstudy.config import TrainConfig


def trials():
    return [TrainConfig(norm="none", seed=seed, epochs=10, train_size=640, device="cpu") for seed in range(9)]
'''
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
    last = f'"step":{KILLED_TRIAL.epochs},"metrics"'
    return any(last in file.read_text() for file in place.state.glob("records/*/events.jsonl"))


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
        "normstudy.tracking.client/Server/create",  # its record is made, and no run
        "normstudy.tracking.upload/Upload/require_lease",  # its run is made, and nothing is in it
        "normstudy.tracking.checkpoint/Checkpoints/save",  # an epoch is logged, its checkpoint is not written
        "normstudy.tracking.checkpoint/Checkpoints/delete",  # all is logged, not all is on the server
        "normstudy.tracking.logged_model/Model/log",  # its model is begun on the server
        "mlflow.pytorch//save_model",  # and linked to the run, but not there
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


def test_a_trial_trained_again_by_force_and_killed_goes_on_in_its_second_run(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    place.finish(KILLED_TRIAL)
    first = place.run_of(KILLED_TRIAL)
    kill_after(place.train(KILLED_TRIAL, "--force"), epochs=3)
    again = place.train(KILLED_TRIAL, "--force")
    assert again.wait() == 0, again.err
    assert again.epochs[0][1].endswith("resumed after it")
    runs = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{KILLED_TRIAL.trial_key}'", ViewType.ALL)
    assert len(runs) == 2
    [second] = [run for run in runs if run.info.run_id != first.info.run_id]
    assert second.data.tags[Tag.REPLACES] == first.info.run_id
    for run in runs:
        require_same(place, KILLED_TRIAL, reference, run)
    assert not list(place.state.glob("records/*"))


def test_a_run_that_is_deleted_while_it_trains_ends_its_process_and_a_new_one_is_trained(place: Place) -> None:
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 2))
    deleted = place.run_of(KILLED_TRIAL).info.run_id
    place.client.delete_run(deleted)
    assert trial.wait() == 1
    assert len(trial.epochs) < KILLED_TRIAL.epochs
    assert only_line("\n".join(trial.told)).startswith(f"normstudy: error: BN + L1, seed 0: run {deleted} was deleted")
    assert "Traceback" not in str(trial.err)
    before = place.client.get_run(deleted)
    place.finish(KILLED_TRIAL)
    [run] = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{KILLED_TRIAL.trial_key}'")
    require_whole(place, KILLED_TRIAL, run)
    after = place.client.get_run(deleted)
    assert (after.info.lifecycle_stage, after.info.status) == ("deleted", before.info.status)
    assert after.data.tags == before.data.tags
    assert not list(place.state.glob("records/*"))


def test_a_study_that_is_stopped_ends_every_run_as_killed_and_the_same_command_finishes_it(place: Place) -> None:
    file = place.folder / "nine.py"
    file.write_text(NINE_TRIALS)
    begun = 0
    for number, whole_group in ((signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, True)):
        study = place.start("study", str(file), "--workers", "3")
        wait_until(lambda: sum(" epoch " in line for _, line in study.out) > 3 or study.ended())  # noqa: B023
        (os.killpg if whole_group else os.kill)(study.process.pid, number)
        assert study.wait() == 128 + number, study.err
        assert study.told[-1] == f"normstudy: error: stopped by signal {number:d}"
        assert "Traceback" not in str(study.err)
        assert "did not stop within" not in str(study.err) + str(study.out)
        runs = place.runs(view=ViewType.ALL)
        assert {run.info.status for run in runs} == {"KILLED"}
        trials = [run for run in runs if Tag.TRIAL_KEY in run.data.tags]
        assert 3 <= len(trials) < 9
        assert len(trials) >= begun
        begun = len(trials)
        said = {run.data.tags[Tag.FAILURE] for run in runs}
        assert said <= {f"Interrupted: stopped by signal {n}" for n in {number, signal.SIGTERM}}
    last = place.start("study", str(file), "--workers", "3")
    assert last.wait(600) == 0, last.err
    assert sum(line.endswith("resumed after it") for _, line in last.out) >= 3
    trials = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'", ViewType.ALL)
    assert sorted(run.data.params["seed"] for run in trials) == [str(seed) for seed in range(9)]
    for run in trials:
        assert run.info.status == "FINISHED"
        assert Tag.FAILURE not in run.data.tags
        history = place.client.get_metric_history(run.info.run_id, Metric.TEST_LOSS)
        assert [point.step for point in history] == list(range(1, 11))
    [parent] = place.runs(f"tags.`{Tag.STUDY_KEY}` LIKE '%'", ViewType.ALL)
    assert parent.info.status == "FINISHED"


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
    server = Server()
    tags = {Tag.TRIAL_KEY: "0" * 16, Tag.MACHINE: "e" * 16, Tag.HOST: "elsewhere", Tag.HEARTBEAT: "1000000000000"}
    experiment = server.experiment("normstudy")
    dead, living = (server.create(experiment, {**tags, Tag.NAME: name}) for name in ("dead", "living"))
    watched: list[float] = []

    def watch(seconds: float) -> None:
        watched.append(seconds)
        if not sum(watched) % 10:  # its clock is years behind, and moves
            server.log(living, tags={Tag.HEARTBEAT: str(1000000000000 + int(1000 * sum(watched)))})

    clock = SimpleNamespace(sleep=watch, monotonic=lambda: sum(watched))
    monkeypatch.setattr(registry, "time", clock)
    assert reap() == (
        [f"dead (run {dead}) is FAILED: its process is gone (last heartbeat: 2001-09-09 01:46:40 UTC)"],
        0,
    )
    assert registry.STALE_SECONDS <= sum(watched) < registry.STALE_SECONDS + 2 * registry.WATCH_SECONDS
    assert [run.status for run in map(server.get, (dead, living)) if run] == ["FAILED", "RUNNING"]
    assert reap() == ([], 0)
