"""How many trials run at once, and what an experiment file may be."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from conftest import PROJECT, SMALL

from normstudy import launch
from normstudy.config import TrainConfig
from normstudy.data import load_images, normalise
from normstudy.errors import ConfigError, StudyError
from normstudy.experiments import Experiment, load_experiment
from normstudy.runs import finished_trials, planned_in
from normstudy.tracking import Measure, Tag
from normstudy.trials import Claim, State

EXPERIMENTS = sorted((PROJECT / "experiments").glob("*.py"))
ASSIGNMENT = PROJECT / "experiments" / "assignment.py"


@pytest.mark.parametrize(
    ("trials", "cores", "threads", "expected"),
    [(3, 2, 1, 3), (4, 2, 1, 2), (10, 2, 1, 2), (3, 1, 1, 1), (3, 16, 1, 3), (3, 4, 2, 3), (8, 4, 2, 2), (1, 1, 8, 1)],
)
def test_trials_share_the_cores_unless_they_fill_two_rounds(
    trials: int, cores: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: cores)
    assert launch.side_by_side((TrainConfig(threads=threads),) * trials) == expected


def test_assignment_is_the_three_main_variants_on_one_recipe() -> None:
    configs = load_experiment(ASSIGNMENT, {}).configs
    assert [(config.seed, config.variant) for config in configs] == [
        (seed, variant) for seed in range(10) for variant in ("GN", "LN", "BN + L1")
    ]
    assert {config.model_copy(update={"norm": "gn", "l1": 0.0, "seed": 0}) for config in configs} == {TrainConfig()}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_states_question_bet_method_and_command(path: Path) -> None:
    experiment = load_experiment(path, {})
    assert f"python -m normstudy study experiments/{path.name}" in experiment.parts["Command"]
    assert experiment.parts["Question"].partition("?")[1]
    assert all(experiment.parts[part] for part in ("Bet", "Method"))
    assert set(experiment.measures) <= set(Measure)
    assert len({config.trial_key for config in experiment.configs}) == len(experiment.configs)


def test_parts_are_what_stands_behind_a_word_and_a_colon_at_a_lines_start() -> None:
    question = "Which: A or B?\n\nBet: A,\nby this rule: far.\nMethod: both: once.\nand B again\n"
    parts = Experiment(name="a", question=question, configs=()).parts
    assert parts == {
        "Question": "Which: A or B?", "Bet": "A, by this rule: far.", "Method": "both: once. and B again",
    }  # fmt: skip


@pytest.mark.parametrize(("seeds", "expected"), [(0, {3, 5, 8}), (1, {3}), (2, {3, 5}), (9, {3, 5, 8})])
def test_of_an_experiment_the_lowest_seeds_can_be_chosen(tmp_path: Path, seeds: int, expected: set[int]) -> None:
    (tmp_path / "some.py").write_text(
        "from normstudy.config import TrainConfig\n\n\ndef trials():\n"
        "    return [TrainConfig(norm=norm, seed=seed) for norm in ('gn', 'ln') for seed in (8, 3, 5)]\n"
    )
    configs = load_experiment(tmp_path / "some.py", {}, seeds=seeds).configs
    assert {config.seed for config in configs} == expected
    assert len(configs) == 2 * len(expected)


def test_overrides_hold_for_every_trial_and_are_checked() -> None:
    assert {config.epochs for config in load_experiment(ASSIGNMENT, {"epochs": "3"}).configs} == {3}
    with pytest.raises(ConfigError, match="epochs=x"):
        load_experiment(ASSIGNMENT, {"epochs": "x"})


def test_file_that_is_no_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty.py: has no function trials\(\)"):
        load_experiment(tmp_path / "empty.py", {})


def test_jobs_hold_the_trials_that_differ_only_in_their_seed() -> None:
    configs = [TrainConfig(norm=norm, seed=seed, device="cpu") for seed in range(5) for norm in ("gn", "ln")]
    jobs = launch.lock_steps(configs, 2)
    assert [[(config.norm, config.seed) for config in job] for job in jobs] == [
        [("gn", 0), ("gn", 1)], [("gn", 2), ("gn", 3)], [("gn", 4)],
        [("ln", 0), ("ln", 1)], [("ln", 2), ("ln", 3)], [("ln", 4)],
    ]  # fmt: skip
    assert [len(job) for job in launch.lock_steps(configs, 0)] == [1] * 10  # on a CPU


def test_work_for_a_machine_elsewhere_is_the_same_there() -> None:
    claim = Claim(key="key", attempt="a", experiment="1", run_id="r", token="host:1:x", tags={"tag": "value"})
    trials = ((TrainConfig(norm="bn", l1=1e-5), claim), (TrainConfig(seed=1), claim))
    work = launch.Work(trials=trials, tracking_uri="http://user:secret@host", store="http://host")
    assert launch.Work.from_json(work.to_json()) == work


def test_study_in_lock_step_logs_each_seed_as_its_own_finished_run(store: str) -> None:
    configs = tuple(TrainConfig(norm="bn", seed=seed, device="cpu", **SMALL) for seed in (0, 1))
    parent_id = launch.study(Experiment(name="pair", question="?", configs=configs), stack=2)
    records = finished_trials(list(configs), parent_id)
    assert [record.config.seed for record in records] == [0, 1]
    assert len({record.run_id for record in records}) == 2
    for record in records:
        run = mlflow.get_run(record.run_id)
        assert run.data.tags[Tag.STACK] == "2"
        model = mlflow.pyfunc.load_model(f"runs:/{record.run_id}/model")
        logits = model.predict(normalise(load_images()[1].images[:500]).numpy())
        wrong = set((logits.argmax(1) != load_images()[1].labels[:500].numpy()).nonzero()[0])
        assert len(wrong ^ {index for index in record.misclassified["index"] if index < 500}) <= 1


def test_a_study_that_may_diverge_finishes_and_knows_the_step(store: str) -> None:
    diverging = TrainConfig(norm="none", lr=1e9, device="cpu", **SMALL)
    planned = Experiment(
        name="edge", question="Where?\nBet: here.", configs=(diverging,), may_diverge=True, measures=("weights",)
    )
    parent_id = launch.study(planned)
    [record] = finished_trials([diverging], parent_id, may_diverge=True)
    assert mlflow.get_run(record.run_id).data.tags[Tag.FAILURE_STEP] == str(record.diverged_at)
    assert planned_in(parent_id) == planned
    with pytest.raises(StudyError, match=r"study edge: NONE, seed 0 is diverged \(run [0-9a-f]{32}: Diverged: "):
        launch.study(replace(planned, may_diverge=False))


@pytest.mark.parametrize("state", [state for state in State if state not in (State.FINISHED, State.DIVERGED)])
def test_nothing_but_divergence_is_expected_of_a_study_that_may_diverge(state: State) -> None:
    configs = (TrainConfig(), TrainConfig(seed=1))
    planned = Experiment(name="edge", question="?", configs=configs, may_diverge=True)
    outcomes = {configs[0].trial_key: (State.DIVERGED, ""), configs[1].trial_key: (state, "why")}
    with pytest.raises(StudyError, match=rf"^study edge: GN, seed 1 is {state} \(why\)$"):
        launch.require_finished(planned, outcomes)


def test_process_that_dies_is_named_and_its_run_ends_killed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.Processes, "run", lambda *_: None)
    configs = (TrainConfig(device="cpu", **SMALL),)
    with pytest.raises(StudyError, match=r"study lost: GN, seed 0 is unfinished \(run [0-9a-f]{32}: its process ended"):
        launch.study(Experiment(name="lost", question="?", configs=configs))
