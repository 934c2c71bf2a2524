"""The command line: one source of options, bad input in one line, help without heavy imports."""

import inspect
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from helpers.project import PROJECT, clean_environment, only_line, run_cli

from normstudy.__main__ import main
from normstudy.cli import build_app
from normstudy.config import TrainConfig
from normstudy.experiment import load_experiment
from normstudy.options import PANELS
from normstudy.tracking import Tag

COMMANDS = ("train", "study", "measure", "report", "experiments", "sync", "reap")
MAIN = str(PROJECT / "experiments" / "main.py")
CommandLine = Callable[..., tuple[int, str]]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """`main` in this process, which has the heavy imports behind it: exit status and standard error."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["normstudy", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def options_of(command: str) -> dict[str, inspect.Parameter]:
    [callback] = [info.callback for info in build_app().registered_commands if info.name == command]
    assert callback is not None
    return dict(inspect.signature(callback).parameters)


def test_train_options_are_the_fields_of_the_config_with_their_defaults() -> None:
    options = options_of("train")
    assert [options.pop(name).default for name in ("force", "offline")] == [False, False]
    assert {name: option.default for name, option in options.items()} == {
        name: str(field.default) for name, field in TrainConfig.model_fields.items()
    }


def test_study_options_can_override_every_field() -> None:
    options = options_of("study")
    own = {"experiment", "workers", "stack", "executor", "address", "seeds", "dry_run", "force", "offline"}
    assert set(options) - own == set(TrainConfig.model_fields)
    assert all(options[name].default is None for name in TrainConfig.model_fields)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy\n"
        f"for arguments in ([], *([name] for name in {COMMANDS!r})):\n"
        "    sys.argv = ['normstudy', *arguments, '--help']\n"
        "    try:\n        runpy.run_module('normstudy', run_name='__main__')\n"
        "    except SystemExit as e:\n        assert not e.code, e.code\n"
        "print([m for m in ('torch', 'torchvision', 'mlflow', 'matplotlib', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert done.stdout.count("Usage") == 1 + len(COMMANDS)


def test_without_arguments_the_help_and_with_version_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, expected in (
        ([], "Usage: "),
        (["-h"], "Usage: "),
        (["--version"], f"normstudy {version('normstudy')}"),
    ):
        monkeypatch.setattr(sys, "argv", ["normstudy", *arguments])
        main()
        assert expected in capsys.readouterr().out


def test_every_setting_of_a_trial_stands_in_one_panel_of_the_help() -> None:
    assert sorted(name for names in PANELS.values() for name in names) == sorted(TrainConfig.model_fields)


def test_a_command_says_what_it_begins_before_it_imports_what_takes_seconds(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Refuses:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'mlflow', 'pandas', 'matplotlib', 'scipy'):\n"
        "            raise SystemExit(f'imports {name}')\n"
        "sys.meta_path.insert(0, Refuses())\n"
        "from normstudy.__main__ import main\n"
        "for command in (['train'], ['study', '--dry-run'], ['measure', 'shift'], ['report'], ['sync'], ['reap']):\n"
        "    sys.argv = ['normstudy', *command]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        print(stop, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code]
    environment = clean_environment(f"sqlite:///{tmp_path / 'mlflow.db'}")
    said = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120).stderr
    assert [line.split(":")[0] for line in said.splitlines()[::2]] == [
        f"normstudy {name}" for name in ("train", "study main", "measure shift", "report", "sync", "reap")
    ]
    assert all(line.startswith("imports ") for line in said.splitlines()[1::2])
    assert "normstudy train: 1 trial (GN), seed 0; 60,000 training images of MNIST, 20 epochs." in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--zoo", "1"], "No such option: --zoo; normstudy train -h lists them"),
        (["train", "--epoch", "1"], "No such option: --epoch; did you mean --epochs?"),
        (
            ["study", "--seed", "3"],
            "seed=3: the trials of main differ in it (0, 1, 2, 3, 4, ...); --seeds N takes the ",
        ),
        (["study", "--norm", "ln"], "norm=ln: the trials of main differ in it (gn, ln, bn); `normstudy train` trains "),
        (["study", MAIN, "--seeds", "-1"], "--seeds"),
        (["train", "--norm", "gn\nx"], r"norm='gn\nx': input should be 'bn', 'gn', 'ln', 'in' or 'none'"),
        (["study", "mian"], "experiment=mian: no such experiment; choose from batch_size, calibration, "),
        (["study", "--workers", "x\ny"], "--workers"),
        (["report", "--out", "README.md"], "README.md is no folder; expected a folder to write to, or to make"),
        (["report", "--export", "README.md"], "README.md is no folder; expected a folder to write to, or to make"),
        (["fly"], "No such command 'fly'; normstudy -h lists them"),
        (["stady"], "No such command 'stady'; did you mean study?"),
        (["study", "--executor", "x"], "'x' is not one of 'local', 'ray'"),
        (["study", MAIN, "--address", "x"], "address=x: only with --executor ray"),
        (
            ["study", MAIN, "--executor", "ray", "--workers", "2"],
            "workers=2: a Ray cluster runs as many as it has CPUs; only with --executor local",
        ),
        (["report", "--from", "kept", "--seeds", "1"], "from=kept: an export is reported as it is, without --parent, "),
    ],
)
def test_bad_input_is_one_line_with_status_2_and_leaves_no_store(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: CommandLine
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(PROJECT)
    status, errors = command_line(*arguments)
    assert status == 2
    assert message in only_line(errors)
    assert only_line(errors).isprintable()
    assert not (tmp_path / "mlflow.db").exists()


def test_output_that_nobody_reads_ends_quietly_with_status_1() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "normstudy", "--help"]
        done = subprocess.run(command, cwd=PROJECT, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


def test_bad_input_of_the_real_command_is_one_line_with_status_2(tmp_path: Path) -> None:
    done = run_cli("train", "--norm", "foo", store=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert done.returncode == 2
    assert only_line(done.stderr) == "normstudy: error: norm=foo: input should be 'bn', 'gn', 'ln', 'in' or 'none'"


def test_a_study_of_which_some_seeds_are_there_says_which_and_names_the_others_only_when_asked(
    store: str, tmp_path: Path, command_line: CommandLine
) -> None:
    for config in load_experiment("main", {}, seeds=1).configs:
        run = mlflow.MlflowClient().create_run("0", tags={Tag.TRIAL_KEY: config.trial_key})
        mlflow.MlflowClient().set_terminated(run.info.run_id)
    status, errors = command_line("report", "main")
    advice = "3 of 30 trials finished (seed 0): add --seeds 1, or train the rest; --verbose names each"
    assert (status, only_line(errors)) == (1, f"normstudy: error: {advice}")
    status, errors = command_line("report", "main", "--verbose")
    assert (status, only_line(errors).count(" is missing (no run with trial key ")) == (1, 27)


def test_a_user_without_a_home_folder_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, command_line: CommandLine
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # as in a container that was given any user
    for command in ("train", "study", "report", "sync"):
        status, errors = command_line(command)
        assert (status, only_line(errors)) == (
            2,
            f"normstudy: error: HOME is not set, and user {os.getuid()} has no home folder; expected HOME=FOLDER",
        )
