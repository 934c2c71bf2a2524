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
from packaging.requirements import Requirement

FOLDERS = ("normstudy", "experiments", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
HEAVY = {"mlflow", "matplotlib", "sqlalchemy"}


def test_layers_and_the_few_files_that_know_a_library_are_kept() -> None:
    assert lint_imports(config_filename=str(PROJECT / "pyproject.toml"), no_cache=True) == 0


def test_the_training_loop_loads_no_tracking_library() -> None:
    code = "import sys, normstudy.train; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & HEAVY


def test_a_report_and_a_comparison_are_made_without_torch_which_takes_two_seconds_to_import() -> None:
    code = "import sys, normstudy.report, normstudy.comparison.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_a_name_means_one_thing_in_the_whole_package() -> None:
    places: dict[str, list[str]] = {}
    for path in [path for path in FILES if path.is_relative_to(PROJECT / "normstudy")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                places.setdefault(node.name, []).append(path.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def locked(file: str) -> dict[str, str]:
    """The version of each package that a lock names."""
    return {name.lower(): version for name, version in PINNED.findall((PROJECT / file).read_text())}


LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-cluster.txt")


def test_further_locks_add_to_the_first_agree_and_hold_hashes_and_no_index() -> None:
    first, dev, cluster = map(locked, LOCKS)
    assert first.items() <= dev.items()
    assert first.items() <= cluster.items()
    assert all(cluster[name] == dev[name] for name in cluster.keys() & dev.keys())
    assert "ray" not in dev  # 240 MB that only a cluster needs
    for file in LOCKS:
        text = (PROJECT / file).read_text()
        assert text.count("\n    --hash=sha256:") >= len(locked(file))
        assert "://" not in text
        assert "--index" not in text


def test_locks_and_conda_environment_hold_a_version_that_the_project_allows_of_each_dependency() -> None:
    extras = PROJECT_TABLE["optional-dependencies"]
    for file, names in {
        "requirements.txt": PROJECT_TABLE["dependencies"],
        "requirements-dev.txt": [*extras["dev"], *extras["server"]],
        "requirements-cluster.txt": [*extras["ray"], *extras["cluster"]],
    }.items():
        for wanted in map(Requirement, names):
            assert locked(file)[wanted.name.lower()] in wanted.specifier, wanted
    dependencies = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    [pip] = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    names = [Requirement(text).name for text in PROJECT_TABLE["dependencies"]]
    assert pip == [f"{name}=={locked('requirements.txt')[name]}" for name in names]
    assert "pip" in dependencies
