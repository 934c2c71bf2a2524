"""What a disk does to a trial: it fills up, it loses bytes, it can't be written. Each is one clear line."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from conftest import PROJECT, only_line
from faults_tools import (
    KILLED_TRIAL,
    Place,
    kill_after,
    options,
    require_same,
    require_whole,
    wait_until,
)
from mlflow.store.db.utils import _get_alembic_config

from normstudy.checkpoint import Checkpoints, read_checkpoint
from normstudy.tracking import Tag

pytest_plugins = ["faults_fixtures"]
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
    found = read_checkpoint(newest)
    Checkpoints(newest.parent, "0" * 16).save(found["epoch"], found["state"])
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
