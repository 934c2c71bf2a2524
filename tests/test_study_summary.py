"""What the run of a study says itself, and what people meet first in MLflow's UI."""

import mlflow
import pandas as pd
import pytest
from helpers.studied import finished_run

from normstudy.cli import ui_command
from normstudy.config import TrainConfig
from normstudy.experiment import Experiment
from normstudy.launch import study as launch
from normstudy.report.read import finished_trials
from normstudy.tracking import Artifact, Metric, Tag
from normstudy.tracking.ui import MOST, charts, description, link

VARIANTS = [TrainConfig(norm=norm, epochs=2) for norm in ("gn", "ln")]


def study_of(seeds: int, name: str = "second") -> Experiment:
    configs = tuple(config.model_copy(update={"seed": seed}) for config in VARIANTS for seed in range(seeds))
    return Experiment(name=name, question="Which is better?", configs=configs)


def test_trials_that_were_there_are_listed_in_the_study_that_uses_them(store: str) -> None:
    for config in study_of(3).configs:
        finished_run(config, steps=[1, 2])
    parent_id = launch.study(study_of(3))
    parent, records = mlflow.get_run(parent_id), finished_trials(study_of(3).configs, None)
    assert parent.info.status == "FINISHED"
    for record in records:
        assert f"`{record.run_id}`" in parent.data.tags[Tag.NOTE]
    mean = sum(record.epochs[Metric.TEST_ACCURACY].iloc[-1] for record in records[:3]) / 3
    assert parent.data.metrics["variants/GN mean"] == pytest.approx(mean, abs=1e-12)
    assert parent.data.metrics["variants/GN n"] == 3
    assert parent.data.metrics["variants/GN low"] <= mean <= parent.data.metrics["variants/GN high"]
    table = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/{Artifact.TRIALS}")
    rows = pd.DataFrame(table["data"], columns=table["columns"])
    assert set(rows["run"]) == {record.run_id for record in records}
    assert set(rows["trained"]) == {"before this study"}
    assert launch.study(study_of(3)) == ""  # the same again is no other study


def test_experiment_names_its_studies_with_their_answers_and_keeps_what_somebody_wrote(store: str) -> None:
    for config in study_of(2).configs:
        finished_run(config, steps=[1, 2])
    client = mlflow.MlflowClient()
    first, second = launch.study(study_of(1, "first")), launch.study(study_of(2))
    experiment = client.get_experiment_by_name("normstudy")
    assert experiment
    note = experiment.tags[Tag.NOTE]
    assert f"/runs/{first}): Which is better? " in note
    assert f"/runs/{second}): Which is better? " in note
    assert "(mean test accuracy)" in note
    client.set_experiment_tag(experiment.experiment_id, Tag.NOTE, "mine")
    launch.study(study_of(2, "third"))
    assert client.get_experiment(experiment.experiment_id).tags[Tag.NOTE] == "mine"


def test_ui_prints_the_link_and_starts_mlflows_own_on_the_store(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: started.append(arguments))
    ui_command()
    assert [arguments[1:] for arguments in started] == [["-m", "mlflow", "ui", "--backend-store-uri", store]]
    experiment = mlflow.get_experiment_by_name("normstudy")
    assert experiment
    assert capsys.readouterr().out == f"compare the runs: http://127.0.0.1:5000/{charts(experiment.experiment_id)}\n"


def test_the_link_leads_to_the_server_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://user:secret@mlflow.example.org/")
    assert link("7").startswith("https://mlflow.example.org/#/experiments/7/runs?workflowType=machine_learning&")


def test_a_description_is_never_longer_than_mlflow_takes() -> None:
    studies: dict[str, dict[str, str]] = {
        f"{place:032x}": {Tag.STUDY: f"study {place}", Tag.NOTE: "?" * 100} for place in range(100)
    }
    assert MOST - 300 < len(description("1", studies)) <= MOST
