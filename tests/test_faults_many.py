"""Many processes at once on one store: nothing is lost, nothing is made twice."""

from pathlib import Path

import pytest
from helpers.faults_tools import THREE_TRIALS, Place, stopping
from helpers.project import only_line
from mlflow.entities import ViewType

from normstudy.config import TrainConfig
from normstudy.tracking import Tag

pytest_plugins = ["helpers.faults_fixtures"]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
EIGHT_TRIALS = '''"""Do eight trials that write at the same time all arrive whole?"""

from normstudy.config import TrainConfig


def trials():
    return [TrainConfig(norm="none", seed=seed, epochs=3, train_size=640, device="cpu") for seed in range(8)]
'''


def test_six_processes_at_once_make_the_tables_of_a_missing_store(tmp_path: Path) -> None:
    configs = [TrainConfig(norm="none", epochs=1, train_size=640, device="cpu", seed=seed) for seed in range(6)]
    with stopping(Place(folder=tmp_path, store=f"sqlite:///{tmp_path / 'mlflow.db'}")) as place:
        trials = [place.train(config) for config in configs]
        statuses = [trial.wait() for trial in trials]
    assert statuses == [0] * 6, [trial.told for trial in trials]
    assert [trial.told for trial in trials] == [[]] * 6
    runs = place.runs(view=ViewType.ALL)
    assert sorted(run.data.tags[Tag.TRIAL_KEY] for run in runs) == sorted(config.trial_key for config in configs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.info.experiment_id for run in runs}) == 1


def test_eight_trials_write_at_once_to_sqlite_and_all_arrive(place: Place) -> None:
    file = place.folder / "eight.py"
    file.write_text(EIGHT_TRIALS)
    done = place.run("study", str(file), "--workers", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "normstudy: " not in done.stderr + done.stdout
    runs = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'", ViewType.ALL)
    assert sorted(run.data.params["seed"] for run in runs) == [str(seed) for seed in range(8)]
    for run in runs:
        assert run.info.status == "FINISHED"
        history = place.client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [point.step for point in history] == [1, 2, 3]


def test_one_trial_started_four_times_at_once_is_one_run(place: Place) -> None:
    config = TrainConfig(norm="none", epochs=3, train_size=640, device="cpu")
    trials = [place.train(config) for _ in range(4)]
    statuses = [trial.wait() for trial in trials]
    assert statuses.count(0) >= 1, [trial.err for trial in trials]
    [run] = place.runs(f"tags.`{Tag.TRIAL_KEY}` = '{config.trial_key}'")
    for trial, status in zip(trials, statuses, strict=True):
        if status:
            said = only_line("\n".join(line for _, line in trial.err))
            assert said == f"normstudy: error: NONE, seed 0: running elsewhere (run {run.info.run_id})"
    assert run.info.status == "FINISHED"


def test_six_studies_of_the_same_trials_at_once_train_each_once(place: Place) -> None:
    file = place.folder / "three.py"
    file.write_text(THREE_TRIALS.format(epochs=3))
    studies = [place.start("study", str(file)) for _ in range(6)]
    statuses = [study.wait(400) for study in studies]
    assert statuses == [0] * 6, [study.told for study in studies]
    assert [study.told for study in studies] == [[]] * 6
    lines = [line for study in studies for _, line in study.out]
    for variant in ("BN", "GN", "LN"):
        assert [sum(line.startswith(f"{variant:8s} epoch {epoch}/") for line in lines) for epoch in (1, 2, 3)] == [
            1
        ] * 3
    runs = place.runs(view=ViewType.ALL)
    assert {run.info.status for run in runs} == {"FINISHED"}
    trials = [run for run in runs if Tag.TRIAL_KEY in run.data.tags and run.info.lifecycle_stage == "active"]
    assert sorted(run.data.tags[Tag.VARIANT] for run in trials) == ["BN", "GN", "LN"]
    assert len(runs) - len(trials) <= 6
    for run in trials:
        history = place.client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [point.step for point in history] == [1, 2, 3]
    assert not list(place.state.glob("records/*"))
    again = place.run("study", str(file))
    assert again.returncode == 0
    assert again.stdout == "3 of 3 trials are left as they are\n"
