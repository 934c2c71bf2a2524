"""The rules of the house."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.project import PROJECT
from importlinter.cli import lint_imports

FOLDERS = ("normstudy", "experiments", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
HEAVY = {"mlflow", "matplotlib", "sqlalchemy"}


def test_layers_and_the_few_files_that_know_a_library_are_kept() -> None:
    assert lint_imports(config_filename=str(PROJECT / "pyproject.toml"), no_cache=True) == 0


def test_the_training_loop_loads_no_tracking_library() -> None:
    code = "import sys, normstudy.train; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_conda_environment_repeats_the_projects_dependencies() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    dependencies = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    [pip] = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pip == project["dependencies"]
    assert "pip" in dependencies


def test_lock_holds_the_projects_dependencies_with_hashes_and_no_index() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lock = (PROJECT / "requirements.txt").read_text()
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["dev"], *extras["ray"], *extras["server"]]:
        requirement = re.sub(r"\[.*\]", "", requirement)
        assert re.search(rf"^{re.escape(requirement)}( ;|\s)", lock, re.MULTILINE | re.IGNORECASE), requirement
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "--index" not in lock
