"""How many trials run at once, and what an experiment file may be."""

from pathlib import Path

import pytest
from conftest import PROJECT

from normstudy import launch
from normstudy.config import TrainConfig
from normstudy.errors import ConfigError
from normstudy.experiments import load_experiment


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
    experiment = load_experiment(PROJECT / "experiments" / "assignment.py", {})
    assert [config.variant for config in experiment.configs] == ["GN", "LN", "BN + L1"]
    recipes = {config.model_copy(update={"norm": "gn", "l1": 0.0}) for config in experiment.configs}
    assert recipes == {TrainConfig()}
    assert "Bet:" in experiment.question


@pytest.mark.parametrize("path", sorted((PROJECT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_states_question_command_and_bet(path: Path) -> None:
    experiment = load_experiment(path, {})
    assert f"python -m normstudy study experiments/{path.name}" in experiment.question
    assert "Bet:" in experiment.question
    assert len({config.trial_key for config in experiment.configs}) == len(experiment.configs)


def test_overrides_hold_for_every_trial_and_are_checked() -> None:
    path = PROJECT / "experiments" / "assignment.py"
    assert {config.epochs for config in load_experiment(path, {"epochs": "3"}).configs} == {3}
    with pytest.raises(ConfigError, match="epochs=x"):
        load_experiment(path, {"epochs": "x"})


def test_file_that_is_no_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty.py: has no function trials\(\)"):
        load_experiment(tmp_path / "empty.py", {})
