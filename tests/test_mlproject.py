"""`mlflow run`: its entry points are the commands, and it trains, under `local` and `uv`."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.project import PROJECT, clean_environment
from helpers.studied import all_runs

from normstudy.cli import build_app
from normstudy.config import TrainConfig
from normstudy.tracking import Metric, Tag

PROJECT_FILE = yaml.safe_load((PROJECT / "MLproject").read_text())
# beside the packages, so that uv links them from its cache; kept between test runs
ENVIRONMENTS = Path(sys.prefix) / "mlflow-environments"


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
    values = {"norm": "ln", "lr": "6e-2", "l1": "0", "epochs": 1, "train_size": 640}
    options = [word for name, value in values.items() for word in ("-P", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", env_manager, *options],
        cwd=PROJECT,
        env=clean_environment(store, MLFLOW_ENV_ROOT=str(ENVIRONMENTS), PYTHONPATH=""),
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = all_runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "6e-2"
    assert run.data.tags[Tag.TRIAL_KEY] == TrainConfig(norm="ln", lr=0.06, epochs=1, train_size=640).trial_key
    assert 0 < run.data.metrics[Metric.TEST_ACCURACY] < 1
