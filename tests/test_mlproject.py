"""`mlflow run`, for real: under `local` and `uv`, with bad values, and stopped by Ctrl-C."""

import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from helpers.project import PROJECT, clean_environment
from mlflow.entities import Run

from normstudy.cli import build_app
from normstudy.config import TrainConfig
from normstudy.tracking import Metric, Tag

PROJECT_FILE = yaml.safe_load((PROJECT / "MLproject").read_text())
# beside the packages, so that uv links them from its cache; kept between test runs
ENVIRONMENTS = Path(sys.prefix) / "mlflow-environments"


def mlflow_run(store: str, *arguments: str, env_manager: str = "local") -> subprocess.Popen[str]:
    """A started `mlflow run .`, leader of its own process group, like a command typed at a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", env_manager, *arguments],
        cwd=PROJECT,
        env=clean_environment(store, MLFLOW_ENV_ROOT=str(ENVIRONMENTS), PYTHONPATH=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def parameters(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("-P", f"{name}={value}")]


def runs() -> list[Run]:
    return list(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def wait_until_all_train(count: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if sum(Metric.TRAIN_LOSS in run.data.metrics for run in runs()) == count:
            return
        time.sleep(0.5)
    raise AssertionError(f"{count} runs did not start training")


def test_main_declares_the_fields_of_the_config_with_their_defaults() -> None:
    main = PROJECT_FILE["entry_points"]["main"]
    declared = {name: parameter["default"] for name, parameter in main["parameters"].items()}
    assert declared == {name: field.default for name, field in TrainConfig.model_fields.items()}
    for name in TrainConfig.model_fields:
        assert f"--{name.replace('_', '-')} {{{name}}}" in main["command"]


@pytest.mark.parametrize("name", ["study", "report"])
def test_study_and_report_declare_options_of_their_commands_with_their_defaults(name: str) -> None:
    entry_point = PROJECT_FILE["entry_points"][name]
    [callback] = [info.callback for info in build_app().registered_commands if info.name == name]
    assert callback is not None
    defaults = {option: parameter.default for option, parameter in inspect.signature(callback).parameters.items()}
    for option, declared in entry_point["parameters"].items():
        assert (str if declared["type"] == "string" else int)(defaults[option]) == declared["default"], option
        assert (f"{{{option}}}" if option == "experiment" else f"--{option} {{{option}}}") in entry_point["command"]


@pytest.mark.parametrize("env_manager", ["local", pytest.param("uv", marks=pytest.mark.faults)])
def test_mlflow_run_trains_one_variant_whatever_the_spelling_of_its_values(store: str, env_manager: str) -> None:
    values = parameters(norm="ln", lr="6e-2", l1="0", epochs=1, train_size=640)
    process = mlflow_run(store, *values, env_manager=env_manager)
    output, _ = process.communicate(timeout=380)
    assert process.returncode == 0, output
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "6e-2"
    assert run.data.tags[Tag.TRIAL_KEY] == TrainConfig(norm="ln", lr=0.06, epochs=1, train_size=640).trial_key
    assert 0 < run.data.metrics[Metric.TEST_ACCURACY] < 1


def test_a_bad_value_fails_in_one_line_and_leaves_no_run_running(store: str) -> None:
    output, _ = mlflow_run(store, *parameters(norm="foo")).communicate(timeout=380)
    [said] = [line for line in output.splitlines() if line.startswith("normstudy: error: ")]
    assert said == "normstudy: error: norm=foo: input should be 'bn', 'gn', 'ln', 'in' or 'none'"
    assert "Traceback" not in output
    assert [(run.info.status, run.data.metrics) for run in runs()] == [("FAILED", {})]


def test_ctrl_c_leaves_a_study_and_all_its_trials_ended(store: str, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "from normstudy.config import TrainConfig\n\n\ndef trials():\n"
        "    return [TrainConfig(norm=norm, epochs=500, train_size=640) for norm in ('gn', 'ln')]\n"
    )
    process = mlflow_run(store, "-e", "study", *parameters(experiment=tmp_path / "two.py"))
    try:
        wait_until_all_train(2)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    deadline = time.monotonic() + 60  # `mlflow run` does not wait for what its shell started
    while any(run.info.status == "RUNNING" for run in runs()) and time.monotonic() < deadline:
        time.sleep(0.5)
    states = {run.data.tags.get(Tag.NAME): run.info.status for run in runs()}
    assert "Stopped after 0 of 2 trials; the same command resumes the study" in output
    # `mlflow run` sets its own run to FAILED after any command that didn't succeed, whatever the command had set
    assert states == {"study two": "FAILED", "GN, seed 0": "KILLED", "LN, seed 0": "KILLED"}
    assert all("stopped by signal" in run.data.tags[Tag.FAILURE] for run in runs())
