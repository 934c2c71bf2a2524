"""What a disk does to a trial: it fills up, it loses bytes, it can't be written. Each is one clear line."""

import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
import torch
from alembic.script import ScriptDirectory
from helpers.faults_tools import KILLED_TRIAL, Place, kill_after, options, require_same, require_whole, wait_until
from helpers.project import PROJECT, only_line
from mlflow.store.db.utils import _get_alembic_config

from normstudy.tracking import Metric, Tag

pytest_plugins = ["helpers.faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ASSIGNMENT = [str(PROJECT / "experiments" / "assignment.py"), "--seeds", "1"]


def said(text: str) -> str:
    """The program's one line on standard error, beside what MLflow says of a store's first use."""
    lines = [line for line in text.splitlines() if " INFO mlflow." not in line]
    return only_line("\n".join(lines))


@contextmanager
def mounted(folder: Path, flags: str) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", flags, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(filler: Path) -> None:
    """Take all the room there is."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))


def test_a_disk_that_fills_up_fails_the_run_in_one_line_and_nothing_is_lost(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    with mounted(place.state, "size=1m"):
        trial = place.train(KILLED_TRIAL)
        wait_until(lambda: trial.printed("epoch ", 3))
        filler = place.state / "filler"
        fill(filler)
        assert trial.wait() == 1
        line = only_line("\n".join(trial.told))
        assert line.startswith(f"normstudy: error: can't write {place.state}"), line
        assert line.endswith("No space left on device"), line
        run = place.run_of(KILLED_TRIAL)
        assert run.info.status == "FAILED"
        assert run.data.tags[Tag.FAILURE] == line.replace("normstudy: error", "StorageError")
        filler.unlink()
        again = place.train(KILLED_TRIAL)
        assert again.wait() == 0, again.err
        assert again.epochs[0][1].endswith("resumed after it")
        require_same(place, KILLED_TRIAL, reference)


@pytest.mark.parametrize("how", ["full", "a file"])
def test_artifacts_that_cannot_be_stored_fail_the_run_with_the_reason_and_the_same_command_finishes_it(
    place: Place, reference: dict[str, bytes | str], how: str
) -> None:
    artifacts = place.folder / "artifacts"
    place.client.create_experiment("normstudy", str(artifacts))
    with mounted(artifacts, "size=1m") if how == "full" else nullcontext():
        if how == "full":
            fill(artifacts / "filler")
        else:
            artifacts.touch()
        reason = "No space left on device" if how == "full" else "Not a directory"
        trial = place.train(KILLED_TRIAL)
        assert trial.wait() == 1
        line = only_line("\n".join(trial.told))
        assert line.startswith("normstudy: error: BN + L1, seed 0: not all of it could be stored: "), line
        assert reason in line
        assert "Traceback" not in str(trial.err)
        run = place.run_of(KILLED_TRIAL)
        assert run.info.status == "FAILED"
        assert reason in run.data.tags[Tag.FAILURE]
        assert len(list(place.state.glob("records/*"))) == 1
    artifacts.unlink() if how == "a file" else artifacts.rmdir()
    again = place.train(KILLED_TRIAL)
    assert again.wait() == 0, again.err
    require_same(place, KILLED_TRIAL, reference)
    assert place.run_of(KILLED_TRIAL).info.run_id == run.info.run_id
    assert not list(place.state.glob("records/*"))


def test_a_database_that_is_deleted_is_told_once_and_the_same_command_makes_it_again(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    database = place.folder / "mlflow.db"
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 3))
    database.unlink()
    assert trial.wait() == 3, trial.err
    assert len(trial.epochs) == KILLED_TRIAL.epochs
    gone, waits = trial.told
    assert gone.startswith(f"normstudy: tracking server {place.store}: its database was deleted or replaced; ")
    [folder] = place.state.glob("records/*")
    assert waits.startswith(f"normstudy: error: BN + L1, seed 0 waits in {folder}: ")
    assert not database.exists()
    again = place.train(KILLED_TRIAL)
    assert again.wait() == 0, again.err
    assert again.epochs == []
    require_same(place, KILLED_TRIAL, reference)
    assert not folder.exists()


def test_a_database_restored_from_a_backup_while_a_trial_trains_misses_nothing(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    database, backup = place.folder / "mlflow.db", place.folder / "backup.db"
    trial = place.train(KILLED_TRIAL)
    copied: list[int] = []
    for epoch, source, to in ((2, database, backup), (5, backup, database)):
        wait_until(lambda: len(logged(place)) >= epoch or trial.ended())  # noqa: B023
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(to)) as new:
            old.backup(new)  # as `sqlite3 mlflow.db .backup` and `.restore`: in place, between two transactions
        copied.append(len(logged(place)))
    assert copied[1] < 5
    assert trial.wait() == 0, trial.err
    assert trial.told == []
    require_same(place, KILLED_TRIAL, reference)


def logged(place: Place) -> list[int]:
    """The epochs that the server has of the trial."""
    runs = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{KILLED_TRIAL.trial_key}'")
    return [point.step for run in runs for point in place.client.get_metric_history(run.info.run_id, Metric.TEST_LOSS)]


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content.clear()
    file.write_bytes(content)


def test_damaged_checkpoints_are_named_and_the_one_before_leads_to_the_same_result(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    trial = place.train(KILLED_TRIAL)
    for how in ("truncated", "flipped", "emptied"):
        kill_after(trial, epochs=3)
        newest, before = place.checkpoints()
        damage(newest, how)
        trial = place.train(KILLED_TRIAL)
        wait_until(lambda: trial.epochs)  # noqa: B023
        assert trial.told == [f"normstudy: {newest}: damaged checkpoint (checksum); the one before it is used"]
        done = int(before.stem.removeprefix("epoch_"))
        assert trial.epochs[0][1] == f"epoch {done}/{KILLED_TRIAL.epochs}  resumed after it"
    assert trial.wait() == 0
    require_same(place, KILLED_TRIAL, reference)


def test_a_trial_whose_checkpoints_are_all_damaged_begins_again_and_repeats_no_step(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    kill_after(place.train(KILLED_TRIAL), epochs=4)
    for file in place.checkpoints():
        damage(file, "flipped")
    trial = place.train(KILLED_TRIAL)
    assert trial.wait() == 0, trial.err
    assert len(trial.told) == 2
    assert trial.epochs[0][1].startswith(f"epoch 1/{KILLED_TRIAL.epochs}  seed 0")
    require_same(place, KILLED_TRIAL, reference)


def test_a_checkpoint_of_another_configuration_is_refused_with_both_keys(place: Place) -> None:
    kill_after(place.train(KILLED_TRIAL), epochs=2)
    newest = place.checkpoints()[0]
    buffer = io.BytesIO()
    torch.save({"key": "0" * 16, "epoch": 9, "state": {}}, buffer)
    newest.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    done = place.run("train", *options(KILLED_TRIAL))
    assert done.returncode == 1
    expected = f"{newest}: of another configuration ({'0' * 16}, expected {KILLED_TRIAL.trial_key})"
    assert said(done.stderr) == f"normstudy: error: {expected}"
    run = place.run_of(KILLED_TRIAL)
    assert run.info.status == "FAILED"
    assert run.data.tags[Tag.FAILURE] == f"CheckpointError: {expected}"
    newest.unlink()
    place.finish(KILLED_TRIAL)
    require_whole(place, KILLED_TRIAL)


@pytest.mark.parametrize("task", ["train", "study"])
def test_a_damaged_data_archive_is_named_and_no_store_is_made(tmp_path: Path, task: str) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(PROJECT / "normstudy", copy / "normstudy")
    shutil.copytree(PROJECT / "experiments", copy / "experiments")
    archive = copy / "normstudy" / "mnist" / "train-images-idx3-ubyte.gz"
    damage(archive, "flipped")
    place = Place(folder=copy, store=f"sqlite:///{copy / 'mlflow.db'}")
    arguments = options(KILLED_TRIAL) if task == "train" else ["--seeds", "1", "--epochs", "1"]
    done = place.run(task, *arguments, PYTHONPATH=str(copy))
    assert done.returncode == 1
    assert said(done.stderr).startswith(f"normstudy: error: {archive}: damaged archive (")
    assert {file.name for file in copy.iterdir()} == {"normstudy", "experiments"}


@pytest.mark.parametrize("offline", [[], ["--offline"]])
@pytest.mark.parametrize("task", ["train", "study"])
def test_a_state_folder_that_cannot_be_written_is_named_and_no_run_is_left_running(
    place: Place, task: str, offline: list[str]
) -> None:
    with mounted(place.state, "ro,size=4k"):
        arguments = options(KILLED_TRIAL) if task == "train" else [*ASSIGNMENT, "--epochs", "1"]
        done = place.run(task, *arguments, *offline)
    assert done.returncode == 1, done.stdout + done.stderr
    line = said(done.stderr)
    assert line.startswith(f"normstudy: error: can't write {place.state}"), line
    assert line.endswith("Read-only file system"), line
    assert "epoch" not in done.stdout
    assert [run for run in place.runs() if run.info.status == "RUNNING"] == []


def test_a_state_folder_below_a_file_is_named(place: Place) -> None:
    done = place.run("train", *options(KILLED_TRIAL), NORMSTUDY_STATE=f"{os.devnull}/state")
    assert done.returncode == 1
    line = said(done.stderr)
    assert line.startswith(f"normstudy: error: can't write {os.devnull}/state"), line
    assert line.endswith("Not a directory"), line
    assert [run for run in place.runs() if run.info.status == "RUNNING"] == []


def previous_schema(database: Path) -> str:
    """Give the store the version that MLflow's tables had one migration ago. (A store that lacks whole tables MLflow
    upgrades by itself, without a word.)"""
    revisions = ScriptDirectory.from_config(_get_alembic_config(f"sqlite:///{database}")).walk_revisions()
    newest, previous = (next(revisions).revision for _ in range(2))
    with sqlite3.connect(database) as connection:
        assert connection.execute("update alembic_version set version_num = ?", (previous,)).rowcount == 1
    return newest


@pytest.mark.parametrize(
    "arguments",
    [["train", *options(KILLED_TRIAL)], ["study", *ASSIGNMENT], ["sync"], ["reap"], ["report", *ASSIGNMENT]],
    ids=["train", "study", "sync", "reap", "report"],
)
def test_a_store_of_an_older_schema_is_refused_with_what_to_do(place: Place, arguments: list[str]) -> None:
    database = place.folder / "mlflow.db"
    expected = previous_schema(database)
    before = database.read_bytes()
    done = place.run(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    line = said(done.stderr)
    assert line.startswith(f"normstudy: error: tracking server {place.store}: Detected out-of-date database schema")
    assert f"expected {expected}" in line
    assert "mlflow db upgrade" in line
    assert database.read_bytes() == before
