"""What a disk does to a trial: it fills up, it loses bytes, it can't be written. Each is one clear line."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers.faults_tools import KILLED_TRIAL, Place, options, require_same
from helpers.project import PROJECT, only_line
from helpers.started import wait_until

from normstudy.tracking import Tag

pytest_plugins = ["helpers.faults_tools"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
MAIN = [str(PROJECT / "experiments" / "main.py"), "--seeds", "1"]


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
        wait_until(lambda: trial.printed("epoch ", 2))
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
        assert again.epochs[0].endswith("resumed after it")
        require_same(place, KILLED_TRIAL, reference)


def test_artifacts_that_cannot_be_stored_fail_the_run_with_the_reason_and_the_same_command_finishes_it(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    artifacts = place.folder / "artifacts"
    place.client.create_experiment("normstudy", str(artifacts))
    with mounted(artifacts, "size=1m"):
        fill(artifacts / "filler")
        refused = place.train(KILLED_TRIAL)
        assert refused.wait() == 1
        assert "No space left on device" in only_line("\n".join(refused.told))
        assert (refused.epochs, place.runs()) == ([], [])
        (artifacts / "filler").unlink()
        trial = place.train(KILLED_TRIAL)
        wait_until(lambda: trial.printed("epoch ", 1))
        fill(artifacts / "filler")
        assert trial.wait() == 1
        line = only_line("\n".join(trial.told))
        assert line.startswith("normstudy: error: BN + L1, seed 0: not all of it could be stored: "), line
        assert "No space left on device" in line
        assert "Traceback" not in trial.stderr
        run = place.run_of(KILLED_TRIAL)
        assert run.info.status == "FAILED"
        assert "No space left on device" in run.data.tags[Tag.FAILURE]
        assert len(list(place.state.glob("records/*"))) == 1
    artifacts.rmdir()
    place.finish(KILLED_TRIAL)
    require_same(place, KILLED_TRIAL, reference)
    assert place.run_of(KILLED_TRIAL).info.run_id == run.info.run_id
    assert not list(place.state.glob("records/*"))


def test_a_database_that_is_deleted_is_told_once_and_the_same_command_makes_it_again(
    place: Place, reference: dict[str, bytes | str]
) -> None:
    database = place.folder / "mlflow.db"
    trial = place.train(KILLED_TRIAL)
    wait_until(lambda: trial.printed("epoch ", 2))
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


@pytest.mark.parametrize(
    "arguments",
    [["train", *options(KILLED_TRIAL)], ["study", *MAIN, "--epochs", "1", "--offline"]],
    ids=["train", "study --offline"],
)
def test_a_state_folder_that_cannot_be_written_is_named_and_no_run_is_left_running(
    place: Place, arguments: list[str]
) -> None:
    with mounted(place.state, "ro,size=4k"):
        done = place.run(*arguments)
    assert done.status == 1, done.stdout + done.stderr
    line = only_line("\n".join(done.told))
    assert line.startswith(f"normstudy: error: can't write {place.state}"), line
    assert line.endswith("Read-only file system"), line
    assert "epoch" not in done.stdout
    assert [run for run in place.runs() if run.info.status == "RUNNING"] == []
