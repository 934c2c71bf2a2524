"""Two machines and one store: whoever is dead is taken over, whoever lives is left alone, and no run is of two."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.faults_tools import KILLED_TRIAL, QUICK, Place, Started, options, require_same, require_whole, wait_until
from helpers.project import only_line
from mlflow.entities import Run, ViewType

from normstudy.config import TrainConfig
from normstudy.tracking import Metric, Tag
from normstudy.tracking.machine import machine

pytest_plugins = ["helpers.faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
SMALL = TrainConfig(norm="none", epochs=3, train_size=640, device="cpu")
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
    state = Path(f"/proc/{started.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def fall_asleep(place: Place, started: Started) -> None:
    """Stop a process as its machine's sleep would, at a moment when it has no lock of the store's database: a server
    elsewhere would free that."""

    def stopped() -> bool:
        os.killpg(started.process.pid, signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(place.folder / "mlflow.db", timeout=0)) as database:
                database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            os.killpg(started.process.pid, signal.SIGCONT)
            return False
        return True

    wait_until(stopped)


def require_taken_over(place: Place, first: Started, reference: dict[str, bytes | str]) -> None:
    """Of two runs the first is KILLED and points to the second, which is whole and its own; the process of the first
    says so in one line."""
    assert first.wait() == 1
    assert "Traceback" not in str(first.err)
    old, new = runs_of(place, KILLED_TRIAL)
    line = only_line("\n".join(first.told))
    assert line.startswith("normstudy: error: BN + L1, seed 0: run "), line
    assert old.info.run_id in line
    assert old.info.status == "KILLED"
    assert old.data.tags[Tag.SUPERSEDED_BY] == new.info.run_id
    assert f"run {new.info.run_id} " in old.data.tags[Tag.FAILURE]
    assert new.data.tags[Tag.MACHINE] != old.data.tags[Tag.MACHINE]
    assert new.info.artifact_uri != old.info.artifact_uri
    assert new.info.start_time > old.info.start_time
    require_same(place, KILLED_TRIAL, reference, new)


def test_a_trial_that_sleeps_is_taken_over_as_a_new_run_and_ends_when_it_wakes(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    sleeping = place.start("train", *options(KILLED_TRIAL), code=QUICK)
    wait_until(lambda: sleeping.printed("epoch ", 3))
    fall_asleep(place, sleeping)
    other = place.elsewhere("other")
    taking = other.start("train", *options(KILLED_TRIAL), code=QUICK)
    assert taking.wait() == 0, taking.err
    assert taking.told == []
    assert taking.epochs[0][1].startswith("epoch 1/")
    [old, _] = runs_of(place, KILLED_TRIAL)
    before = place.client.get_metric_history(old.info.run_id, Metric.TEST_LOSS)
    os.killpg(sleeping.process.pid, signal.SIGCONT)
    require_taken_over(place, sleeping, reference)
    after = place.client.get_metric_history(old.info.run_id, Metric.TEST_LOSS)
    assert after[: len(before)] == before
    assert len(after) <= len(before) + 1  # the request that was on its way when it fell asleep
    again = place.run("train", *options(KILLED_TRIAL))
    assert again.returncode == 0, again.stderr
    assert "has finished already" in again.stdout
    assert other.run("reap").stdout == "no run without its process\n"


@pytest.mark.parametrize("call", ["set_status", "log_model"])
def test_a_trial_that_sleeps_in_its_last_uploads_is_taken_over_and_never_counts(
    place: Place, reference: dict[str, bytes | str], call: str
) -> None:
    sleeping = place.start(call, "train", *options(KILLED_TRIAL), code=STOPPING + QUICK)
    wait_until(lambda: is_stopped(sleeping))
    assert len(sleeping.epochs) == KILLED_TRIAL.epochs
    taking = place.elsewhere("other").start("train", *options(KILLED_TRIAL), code=QUICK)
    wait_until(lambda: taking.printed("epoch ", 2))  # awake while the other one trains
    os.killpg(sleeping.process.pid, signal.SIGCONT)
    assert taking.wait() == 0, taking.err
    assert taking.told == []
    require_taken_over(place, sleeping, reference)


def test_a_living_trial_of_short_epochs_is_neither_reaped_nor_taken_over(place: Place) -> None:
    long = SMALL.model_copy(update={"epochs": 500})
    trial = place.start("train", *options(long), code=QUICK)
    wait_until(lambda: trial.printed("epoch ", 2))
    heartbeats: set[str] = set()

    def beats() -> bool:
        heartbeats.add(place.run_of(long).data.tags[Tag.HEARTBEAT])
        return len(heartbeats) > 3

    epochs = len(trial.epochs)
    wait_until(beats)
    wait_until(lambda: len(trial.epochs) > epochs)
    other = place.elsewhere("other")
    reaping, taking = other.start("reap", code=QUICK), other.start("train", *options(long), code=QUICK)
    assert reaping.wait() == 0, reaping.err
    assert [line for _, line in reaping.out] == ["no run without its process"]
    assert taking.wait() == 1
    run = place.run_of(long)
    assert taking.told == [f"normstudy: error: NONE, seed 0: running elsewhere (run {run.info.run_id})"]
    assert run.info.status == "RUNNING"
    assert not trial.ended()
    trial.process.send_signal(signal.SIGTERM)
    assert trial.wait() == 143
    assert place.run_of(long).info.status == "KILLED"


@pytest.mark.parametrize("own", [True, False], ids=["of this machine", "of another one"])
def test_tags_that_lead_out_of_the_state_folder_lead_nowhere(
    place: Place, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setenv("NORMSTUDY_STATE", str(place.state))
    place.state.mkdir()
    precious, out = place.folder / "precious", "x/../../../precious"
    precious.mkdir()
    (precious / "events.jsonl").write_text("mine\n")
    client = place.client
    experiment = client.create_experiment("normstudy", str(place.folder / "artifacts"))
    tags = {Tag.TRIAL_KEY: SMALL.trial_key, Tag.RECORD: out, "normstudy.attempt": out, Tag.NAME: "foreign"}
    foreign = client.create_run(experiment, tags={**tags, Tag.MACHINE: machine() if own else out}).info.run_id
    lost = client.create_run(experiment, tags={**tags, Tag.TRIAL_KEY: out, Tag.MACHINE: machine()}).info.run_id
    trial = place.start("train", *options(SMALL), code=QUICK)
    assert trial.wait() == 0, trial.err
    [run] = [run for run in runs_of(place, SMALL) if run.info.run_id != foreign]
    require_whole(place, SMALL, run)
    assert client.get_run(foreign).info.status == "KILLED"
    assert client.get_run(foreign).data.tags[Tag.SUPERSEDED_BY] == run.info.run_id
    reaping = place.start("reap", code=QUICK)
    reaping.wait()
    assert "Traceback" not in str(reaping.err)
    assert lost in str(reaping.out) + str(reaping.err)
    assert [(file.name, file.read_text()) for file in precious.rglob("*")] == [("events.jsonl", "mine\n")]


def copy(place: Place, other: Place) -> None:
    """The records and checkpoints of a machine, over what an earlier copy left on another."""
    for kind in ("records", "checkpoints"):
        shutil.copytree(place.state / kind, other.state / kind, dirs_exist_ok=True)


def test_a_record_that_is_copied_while_it_grows_is_one_run_wherever_it_is_sent_from(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    other = place.elsewhere("other")
    trial = place.train(KILLED_TRIAL, "--offline")
    for epoch in (2, 5):
        wait_until(lambda: trial.printed("epoch ", epoch))  # noqa: B023
        trial.process.send_signal(signal.SIGSTOP)  # `cp` of a folder in which files come and go fails
        wait_until(lambda: is_stopped(trial))
        copy(place, other)
        trial.process.send_signal(signal.SIGCONT)
    partly = other.run("sync")
    assert partly.returncode == 0, partly.stderr
    assert "BN + L1, seed 0: sent as far as it is here" in only_line(partly.stderr)
    run = place.run_of(KILLED_TRIAL)
    assert run.info.status == "RUNNING"
    assert trial.wait() == 0, trial.err
    for machine_of in (place, other, place):
        machine_of.run("sync")
        require_same(place, KILLED_TRIAL, reference)
    assert place.run_of(KILLED_TRIAL).info.run_id == run.info.run_id
    assert not list(place.state.glob("records/*"))


def test_one_record_that_three_machines_send_at_once_is_one_run(place: Place) -> None:
    done = place.run("train", *options(SMALL), "--offline")
    assert done.returncode == 0, done.stderr
    places = [place, place.elsewhere("second"), place.elsewhere("third")]
    for other in places[1:]:
        copy(place, other)
    for _ in range(2):
        sending = [one.start("sync") for one in places]
        statuses = [one.wait() for one in sending]
        print(statuses, [one.told for one in sending])
    run = require_whole(place, SMALL, next(run for run in runs_of(place, SMALL) if run.info.status == "FINISHED"))
    assert [r.info.run_id for r in place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'")] == [run.info.run_id]
    assert statuses == [0] * 3
