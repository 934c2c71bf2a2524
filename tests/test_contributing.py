"""The two recipes of CONTRIBUTING.md, each followed in a copy of the project."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import PROJECT, SMALL_OPTIONS, clean_environment

EXPERIMENT = '''"""Does a smaller batch help?

Prediction: it does not.
Method: two batch sizes, GN, one seed.
Scale-down: one epoch of 640 images.
Command: python -m normstudy study experiments/mine.py
"""

from normstudy.config import TrainConfig

TITLE = "A smaller batch"
NUMBER = 90


def trials() -> list[TrainConfig]:
    """Both batch sizes."""
    return [TrainConfig(batch_size=size, epochs=1, train_size=640) for size in (32, 64)]
'''
NAV = """
from mkdocs.config import load_config

print(load_config("mkdocs.yml").plugins.on_config(load_config("mkdocs.yml"))["nav"])
"""
# a second name for LayerNorm is enough: what counts is that everything takes it up
NORM = {
    "normstudy/model.py": ('"ln": layer_norm,', '"ln": layer_norm,\n    "mine": layer_norm,'),
    "normstudy/config.py": ('Literal["bn", "gn", "ln",', 'Literal["bn", "gn", "ln", "mine",'),
    "normstudy/figures.py": (
        '    "IN": {',
        '    "MINE": {"color": "#56B4E9", "linestyle": "-", "marker": "*"},\n    "IN": {',
    ),
    "tests/test_model.py": ('    "ln": (1,', '    "mine": (1, (1, 2, 3, 4)),\n    "ln": (1,'),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files that a contributor changes, and what they need."""
    for name in ("normstudy", "experiments", "docs", "tests", ".ci"):
        shutil.copytree(PROJECT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "mkdocs.yml", "MLproject"):
        shutil.copy(PROJECT / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def run(copy: Path, *command: str) -> str:
    environment = clean_environment(f"sqlite:///{copy / 'mlflow.db'}", PYTHONPATH=str(copy))
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.faults
def test_an_experiment_is_one_file(copy: Path) -> None:
    (copy / "experiments" / "mine.py").write_text(EXPERIMENT)
    run(copy, "normstudy", "study", "experiments/mine.py")
    run(copy, "normstudy", "report", "experiments/mine.py", "--export", "results", "--allow-dirty")
    run(copy, "normstudy", "report", "--from", "results", "--out", "docs/experiments", "--readme")
    page = (copy / "docs" / "experiments" / "mine" / "index.md").read_text()
    assert page.startswith("# Does a smaller batch help?")
    assert "**Prediction.** It does not." in page
    assert (copy / "docs" / "experiments" / "mine" / "test_loss.png").is_file()
    assert "docs/experiments/mine/index.md" in (copy / "README.md").read_text()
    assert run(copy, "normstudy", "experiments", "--commands").endswith("study experiments/mine.py\n")
    (copy / "nav.py").write_text(NAV)
    assert "'A smaller batch': 'experiments/mine/index.md'" in run(copy, "nav")


def replace(copy: Path, file: str) -> None:
    before, after = NORM[file]
    text = (copy / file).read_text()
    assert text.count(before) == 1, file
    (copy / file).write_text(text.replace(before, after))


@pytest.mark.faults
def test_a_norm_is_one_row_and_tests_say_what_else_it_needs(copy: Path) -> None:
    tests = [
        "pytest",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(f"tests/test_{name}.py" for name in ("model", "figures", "config")),
    ]
    replace(copy, "normstudy/model.py")
    with pytest.raises(AssertionError, match="3 failed"):
        run(copy, *tests, "-k", "marker or formula or choices")
    for file in list(NORM)[1:]:
        replace(copy, file)
    run(copy, *tests, "-k", "marker or formula or stack or choices")
    assert "test accuracy" in run(copy, "normstudy", "train", "--norm", "mine", *SMALL_OPTIONS)
