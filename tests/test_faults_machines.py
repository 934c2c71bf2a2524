"""Several processes or machines and one store: whoever is dead is taken over, whoever lives is left alone."""

import signal
from pathlib import Path

import psutil
import pytest
from helpers.faults_tools import KILLED_TRIAL, QUICK, Place, options, require_same, stopping, three_trials
from helpers.project import only_line
from helpers.started import Started, wait_until
from mlflow.entities import Run, ViewType

from normstudy.config import TrainConfig
from normstudy.tracking import Metric, Tag, unpacked_tags

pytest_plugins = ["helpers.faults_tools"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
SMALL = TrainConfig(norm="none", epochs=2, train_size=640, device="cpu")
# A process that stops, as its machine that sleeps, at its first call of one method; the rest is as in `QUICK`.
STOPPING = """
import os, signal, sys
from normstudy.tracking.client import Server
name, whole = sys.argv.pop(1), []
method = getattr(Server, name)
def stopped(*arguments):
    if not whole:
        whole.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return method(*arguments)
setattr(Server, name, stopped)
"""


def runs_of(place: Place, config: TrainConfig) -> list[Run]:
    """All runs of a trial, oldest first, deleted ones too."""
    found = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{config.trial_key}'", ViewType.ALL)
    return sorted(found, key=lambda run: run.info.start_time)


def is_stopped(started: Started) -> bool:
    """Whether a process has stopped, as at SIGSTOP."""
    return psutil.Process(started.pid).status() == psutil.STATUS_STOPPED


def require_taken_over(place: Place, first: Started, reference: dict[str, bytes | str]) -> None:
    """Of two runs the first is KILLED and points to the second, which is whole and its own; the process of the first
    says so in one line."""
    assert first.wait() == 1
    assert "Traceback" not in first.stderr
    old, new = runs_of(place, KILLED_TRIAL)
    line = only_line("\n".join(first.told))
    assert line.startswith("normstudy: error: BN + L1, seed 0: run "), line
    assert old.info.run_id in line
    assert old.info.status == "KILLED"
    assert old.data.tags[Tag.SUPERSEDED_BY] == new.info.run_id
    assert f"run {new.info.run_id} " in old.data.tags[Tag.FAILURE]
    assert unpacked_tags(new.data.tags)[Tag.MACHINE] != unpacked_tags(old.data.tags)[Tag.MACHINE]
    assert new.info.artifact_uri != old.info.artifact_uri
    require_same(place, KILLED_TRIAL, reference, new)


def test_a_trial_that_sleeps_in_its_last_uploads_is_taken_over_and_never_counts(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    sleeping = place.start("set_status", "train", *options(KILLED_TRIAL), code=STOPPING + QUICK)
    wait_until(lambda: is_stopped(sleeping))
    assert len(sleeping.epochs) == KILLED_TRIAL.epochs
    taking = place.elsewhere("other").start("train", *options(KILLED_TRIAL), code=QUICK)
    wait_until(lambda: taking.printed("epoch ", 2))  # awake while the other one trains
    sleeping.send(signal.SIGCONT)
    assert taking.wait() == 0, taking.err
    assert taking.told == []
    require_taken_over(place, sleeping, reference)


def test_a_living_trial_of_short_epochs_is_neither_reaped_nor_taken_over(place: Place) -> None:
    long = SMALL.model_copy(update={"epochs": 500})
    trial = place.start("train", *options(long), code=QUICK)
    wait_until(lambda: trial.printed("epoch ", 2))
    first = place.run_of(long).data.tags[Tag.HEARTBEAT]
    wait_until(lambda: place.run_of(long).data.tags[Tag.HEARTBEAT] != first)
    other = place.elsewhere("other")
    reaping, taking = other.start("reap", code=QUICK), other.start("train", *options(long), code=QUICK)
    assert reaping.wait() == 0, reaping.err
    assert reaping.stdout == "no run without its process\n"
    assert taking.wait() == 1
    run = place.run_of(long)
    assert taking.told == [f"normstudy: error: NONE, seed 0: running elsewhere (run {run.info.run_id})"]
    assert run.info.status == "RUNNING"
    trial.send(signal.SIGTERM)
    assert trial.wait() == 143
    assert place.run_of(long).info.status == "KILLED"


def test_processes_at_once_make_the_tables_of_a_missing_store(tmp_path: Path) -> None:
    configs = [SMALL.model_copy(update={"seed": seed, "epochs": 1}) for seed in range(4)]
    with stopping(Place(folder=tmp_path, store=f"sqlite:///{tmp_path / 'mlflow.db'}")) as place:
        trials = [place.train(config) for config in configs]
        statuses = [trial.wait() for trial in trials]
    assert statuses == [0] * 4, [trial.err for trial in trials]
    assert [trial.told for trial in trials] == [[]] * 4
    runs = place.runs(view=ViewType.ALL)
    assert sorted(run.data.tags[Tag.TRIAL_KEY] for run in runs) == sorted(config.trial_key for config in configs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.info.experiment_id for run in runs}) == 1


def test_one_trial_started_four_times_at_once_is_one_run(place: Place) -> None:
    trials = [place.train(SMALL) for _ in range(4)]
    statuses = [trial.wait() for trial in trials]
    assert statuses.count(0) >= 1, [trial.err for trial in trials]
    [run] = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{SMALL.trial_key}'")
    for trial, status in zip(trials, statuses, strict=True):
        if status:
            assert trial.told == [f"normstudy: error: NONE, seed 0: running elsewhere (run {run.info.run_id})"]
    assert run.info.status == "FINISHED"


def test_studies_of_the_same_trials_at_once_train_each_once(place: Place) -> None:
    file = three_trials(place, epochs=2)
    studies = [place.start("study", file, alone=True) for _ in range(3)]
    assert [study.wait() for study in studies] == [0] * 3, [study.err for study in studies]
    assert [study.told for study in studies] == [[]] * 3
    lines = [line for study in studies for line in study.out]
    for start in (f"{variant:8s} epoch {epoch}/" for variant in ("BN", "GN", "LN") for epoch in (1, 2)):
        assert sum(line.startswith(start) for line in lines) == 1, start
    runs = place.runs(view=ViewType.ALL)
    assert {run.info.status for run in runs} == {"FINISHED"}
    trials = [run for run in runs if Tag.TRIAL_KEY in run.data.tags and run.info.lifecycle_stage == "active"]
    assert sorted(run.data.tags[Tag.VARIANT] for run in trials) == ["BN", "GN", "LN"]
    assert len(runs) - len(trials) <= 3
    for run in trials:
        history = place.client.get_metric_history(run.info.run_id, Metric.TEST_ACCURACY)
        assert [point.step for point in history] == [1, 2]
    assert not list(place.state.glob("records/*"))
    again = place.run("study", file)
    assert (again.status, again.stdout.splitlines()[0]) == (0, "3 of 3 trials are left as they are")
