"""The command line: one source of options, bad input in one line, help without heavy imports."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, only_line, run_cli

from normstudy.cli import build_app
from normstudy.config import TrainConfig


def options_of(command: str) -> dict[str, inspect.Parameter]:
    [callback] = [info.callback for info in build_app().registered_commands if info.name == command]
    assert callback is not None
    return dict(inspect.signature(callback).parameters)


def test_train_options_are_the_fields_of_the_config_with_their_defaults() -> None:
    options = options_of("train")
    assert {name: option.default for name, option in options.items()} == {
        name: str(field.default) for name, field in TrainConfig.model_fields.items()
    }


def test_study_options_can_override_every_field() -> None:
    options = options_of("study")
    assert set(options) - {"experiment", "workers"} == set(TrainConfig.model_fields)
    assert all(options[name].default is None for name in TrainConfig.model_fields)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["study", "--help"], ["report", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['normstudy', *{arguments!r}]\n"
        "try:\n    runpy.run_module('normstudy', run_name='__main__')\n"
        "except SystemExit as e:\n    assert not e.code, e.code\n"
        "print([m for m in ('torch', 'torchvision', 'mlflow', 'matplotlib', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--norm", "foo"], "norm=foo: unknown norm; choose from bn, gn, ln, in, none"),
        (["train", "--epochs", "abc"], "epochs=abc: input should be a valid integer"),
        (["train", "--lr", "-0.1"], "lr=-0.1: input should be greater than 0"),
        (["train", "--l1", "nan"], "l1=nan: input should be a finite number"),
        (["train", "--batch-size", "70000"], "batch_size 70000 is more than the 60000 training images"),
        (["train", "--foo", "1"], "No such option: --foo; choose from --norm, --l1"),
        (["train", "--groups", "3"], "groups=3 does not divide the 8 channels"),
        (["study", "--groups", "3"], "groups=3 does not divide the 8 channels"),
        (["study", "nowhere.py"], "experiment=nowhere.py: no such file"),
        (["study", "--epochs", "0"], "epochs=0: input should be greater than or equal to 1"),
        (["study", "--workers", "-1"], "--workers"),
        (["fly"], "No such command 'fly'; choose from train, study, report"),
    ],
)
def test_bad_input_is_one_line_with_status_2_and_leaves_no_store(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    store = tmp_path / "mlflow.db"
    done = run_cli(*arguments, store=f"sqlite:///{store}")
    assert done.returncode == 2
    assert message in only_line(done.stderr)
    assert not store.exists()


def test_divergence_is_one_line_with_status_1(migrated_store: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(migrated_store.read_bytes())
    done = run_cli(
        "train", "--norm", "none", "--lr", "1e9", "--epochs", "1", "--train-size", "640", store=store, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "diverged: the training loss is not finite at step" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_report_of_an_empty_store_names_what_is_missing(migrated_store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(migrated_store.read_bytes())
    experiment = os.fspath(PROJECT / "experiments" / "assignment.py")
    done = run_cli("report", experiment, store=f"sqlite:///{tmp_path / 'mlflow.db'}", cwd=tmp_path)
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert all(f"{variant} is missing" in line for variant in ("GN", "LN", "BN + L1"))
    assert not (tmp_path / "report").exists()
