"""The two recipes of CONTRIBUTING.md, each followed in a copy of the project."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
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
REPORT = "groups"


def trials() -> list[TrainConfig]:
    """Both batch sizes."""
    return [TrainConfig(batch_size=size, epochs=1, train_size=640) for size in (32, 64)]
'''
NORM = '''
def root_mean_square_norm(channels: int, *, groups: int, stack: int = 1) -> nn.Module:
    """No norm at all, which is enough for this test."""
    return ChannelAffine(stack * channels)


NORMS:'''


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files that a contributor changes, and what they need."""
    for name in ("normstudy", "experiments", "results/assignment", "docs", "tests", ".ci"):
        shutil.copytree(PROJECT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "mkdocs.yml", "MLproject"):
        shutil.copy(PROJECT / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def run(copy: Path, *command: str) -> str:
    environment = clean_environment(f"sqlite:///{copy / 'mlflow.db'}", PYTHONPATH=str(copy))
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_experiment_is_one_file(copy: Path) -> None:
    (copy / "experiments" / "mine.py").write_text(EXPERIMENT)
    run(copy, "normstudy", "study", "experiments/mine.py")
    run(copy, "normstudy", "report", "experiments/mine.py", "--out", "report", "--export", "results")
    run(copy, "normstudy", "report", "--from", "results", "--out", "docs/experiments", "--readme")
    page = (copy / "docs" / "experiments" / "mine" / "index.md").read_text()
    assert page.startswith("# Does a smaller batch help?")
    assert "**Prediction.** It does not." in page
    assert (copy / "docs" / "experiments" / "mine" / "means.png").is_file()
    assert "Does a smaller batch help?" in (copy / "README.md").read_text()
    assert len(pd.read_csv(copy / "results" / "mine" / "results.csv")) == 2
    assert "mine " in run(copy, "normstudy", "experiments")
    run(copy, "mkdocs", "build", "--quiet", "--site-dir", "site")
    assert ">A smaller batch<" in (copy / "site" / "index.html").read_text()
