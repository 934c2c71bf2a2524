"""What an experiment file may be, and what is said of one that is none."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from helpers.project import PROJECT

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError
from normstudy.experiment import About, Experiment, all_experiments, load_experiment
from normstudy.launch.measure import WAYS

EXPERIMENTS = sorted((PROJECT / "experiments").glob("*.py"))
MAIN = PROJECT / "experiments" / "main.py"
START = "from normstudy.config import TrainConfig\n\n\n"
ONE = f"{START}def trials():\n    return [TrainConfig()]\n"
EXPECTED = "expected a list of TrainConfig, at least one"


def written(folder: Path, text: str | bytes, name: str = "some.py") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def returns(what: str) -> str:
    """An experiment file with a `trials()` that returns this; its line is the fifth."""
    return f"{START}def trials():\n    return {what}\n"


def refusal(path: Path, **overrides: str) -> str:
    """What is said of a file that is refused, without its folder: one line."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert str(caught.value).isprintable()
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_states_question_prediction_method_and_command(path: Path) -> None:
    experiment = load_experiment(path, {})
    assert f"python -m normstudy study experiments/{path.name}" in experiment.parts["Command"]
    assert experiment.parts["Question"].partition("?")[1]
    assert all(experiment.parts[part] for part in ("Prediction", "Method"))
    assert len({config.trial_key for config in experiment.configs}) == len(experiment.configs)


@pytest.mark.parametrize(("seeds", "expected"), [(0, {3, 5, 8}), (1, {3}), (2, {3, 5}), (9, {3, 5, 8})])
def test_of_an_experiment_the_lowest_seeds_can_be_chosen(tmp_path: Path, seeds: int, expected: set[int]) -> None:
    (tmp_path / "some.py").write_text(
        "from normstudy.config import TrainConfig\n\n\ndef trials():\n"
        "    return [TrainConfig(norm=norm, seed=seed) for norm in ('gn', 'ln') for seed in (8, 3, 5)]\n"
    )
    configs = load_experiment(tmp_path / "some.py", {}, seeds=seeds).configs
    assert {config.seed for config in configs} == expected
    assert len(configs) == 2 * len(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "some.py: has no function trials() that lists its configurations"),
        ("def trials(:\n", "some.py:1: SyntaxError: "),
        ("\n1 / 0\n", "some.py:2: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found\n", "some.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise ValueError('first\\nsecond')\n", "some.py:1: ValueError: first second"),
        ("import sys\nsys.exit()\n", "some.py:2: it calls sys.exit(None); expected a file that only lists"),
        (returns("[TrainConfig(norm='foo')]"), "some.py:5: norm=foo: input should be 'bn', 'gn', 'ln', 'in' or 'none'"),
        (returns("(TrainConfig(seed=1 / i) for i in range(2))"), "some.py:5: ZeroDivisionError: division by zero"),
        (returns("[TrainConfig().model_copy(update={'lr': 'x'})]"), "some.py: lr=x: input should be a valid number"),
        (returns("None"), f"some.py: trials() returned None; {EXPECTED}"),
        (returns("[]"), f"some.py: trials() returned []; {EXPECTED}"),
        (returns("{TrainConfig()}"), "some.py: trials() returned {TrainConfig("),
        ("def trials(norm):\n    return []\n", "some.py: TypeError: trials() missing 1 required positional argument"),
        (f"{ONE}MAY_DIVERGE = 'no'\n", "some.py: may_diverge=no: input should be a valid boolean"),
        (
            f"{ONE}MEASURES = ['speed']\n",
            "some.py: measures=speed: input should be 'weights', 'statistics', 'shift', 'mnist_c', ",
        ),
        (f"{ONE}REPORT = 'sweeps'\n", "some.py: report=sweeps: input should be 'errors', 'groups', 'baseline', "),
        (f"{ONE}TARGETS = {{'worst': 0.9}}\n", "some.py: targets=worst: input should be 'every', 'best' or 'first'"),
        (b"x = '\xff'\n", "some.py:1: SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_in_one_line_with_where_and_why(
    text: str | bytes, said: str, tmp_path: Path
) -> None:
    assert refusal(written(tmp_path, text)).startswith(f"experiment={said}")


def test_a_path_that_is_no_python_file_is_refused_with_the_choices(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)
    (tmp_path / "folder").mkdir()
    choices = "choose from some.py"
    assert refusal(tmp_path / "none.py") == f"experiment=none.py: no such file; {choices}"
    assert refusal(tmp_path / "folder") == f"experiment=folder: a folder; {choices}"
    assert refusal(tmp_path / "no\nne\x1b.py") == f"experiment=no ne .py: no such file; {choices}"
    assert refusal(tmp_path / ("x" * 300)).endswith(": can't be read: File name too long")
    assert refusal(path.rename(tmp_path / "some.txt")).startswith("experiment=some.txt: not a Python file; expected a ")
    assert refusal(written(tmp_path, ONE, "a\nb.py")).startswith("experiment=a b.py: not a Python file; expected a ")


def test_a_trial_that_is_listed_several_times_is_one_trial_in_the_place_of_its_first(tmp_path: Path) -> None:
    listed = "TrainConfig(seed=2), TrainConfig(), TrainConfig(l1=-0.0, device='cpu'), TrainConfig(seed=2)"
    path = written(tmp_path, returns(f"[{listed}, TrainConfig(lr=0.1)]"))
    assert load_experiment(path, {}).configs == (TrainConfig(seed=2), TrainConfig(), TrainConfig(lr=0.1))


def test_of_what_the_trials_differ_in_nothing_is_overridden(tmp_path: Path) -> None:
    path = written(tmp_path, returns("[TrainConfig(seed=s, lr=0.1 * (s + 1)) for s in range(3)]"))
    assert refusal(path, lr="1").startswith("lr=1: the trials of some differ in it (0.1, 0.2, 0.3")
    assert refusal(path, seed="1") == "seed=1: the trials of some differ in it (0, 1, 2); --seeds N takes the N lowest"


def test_one_of_ours_is_found_by_its_name_in_any_folder_and_any_other_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, ONE, "main.py")
    (tmp_path / "main").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load_experiment("main", {}).configs) == 30
    assert len(load_experiment("main.py", {}).configs) == 1


def test_what_is_said_of_a_part_of_an_experiment_is_said_of_that_part() -> None:
    whole, part = load_experiment(MAIN, {}), load_experiment("main", {"epochs": "1", "train_size": "640"}, seeds=1)
    assert "Scale-down" not in whole.parts
    assert "30 trials (GN, LN, BN + L1), 10 seeds (0 to 9); 60,000 training images of MNIST, 20" in whole.description
    assert set(part.parts) == {"Question", "Prediction", "What ran", "Command"}
    assert part.parts["What ran"] == "3 trials (GN, LN, BN + L1), seed 0; 640 training images of MNIST, 1 epoch."
    assert part.parts["Command"] == "normstudy study main --epochs 1 --train-size 640 --seeds 1"
    assert part.about.parts == part.parts
    assert not re.search("ten|60,000|20 epochs|nothing", part.description)


def test_a_file_says_all_of_its_experiment(tmp_path: Path) -> None:
    assert set(get_args(get_args(get_type_hints(Experiment)["measures"])[0])) == set(WAYS)
    said = "TITLE = 'A'\nNUMBER = 2\nREPORT = 'groups'\nTARGETS = {'best': 0.9}\n"
    said += "MEASURES = ['shift']\nMAY_DIVERGE = True\n"
    docstring = '"""Which: A or B?\n\nPrediction: A,\nby this rule: far.\nScale-down: to one.\n"""\n'
    experiment = load_experiment(written(tmp_path, docstring + ONE + said), {})
    assert (experiment.measures, experiment.may_diverge, experiment.command) == (("shift",), True, "")
    parts = {"Question": "Which: A or B?", "Prediction": "A, by this rule: far.", "Scale-down": "to one."}
    assert experiment.about == About(title="A", number=2, report="groups", targets={"best": 0.9}, parts=parts)


def test_experiments_stand_in_the_order_of_their_numbers_and_those_without_one_last(tmp_path: Path) -> None:
    for name, number in (("a", ""), ("b", "NUMBER = 3\n"), ("c", "NUMBER = 1\n")):
        written(tmp_path, ONE + number, f"{name}.py")
    assert [experiment.name for experiment in all_experiments(tmp_path)] == ["c", "b", "a"]
    ours = all_experiments(PROJECT / "experiments")
    assert [experiment.number for experiment in ours] == list(range(1, len(ours) + 1))
