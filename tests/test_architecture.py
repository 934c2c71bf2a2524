"""The rules of the house."""

import ast
import re
import tomllib

import pytest
import yaml
from conftest import PROJECT

FILES = sorted((PROJECT / "normstudy").glob("*.py"))
FOLDERS = ("normstudy", "experiments", "benchmarks", "tests")
# a file imports only files to its left; the README's tree lists them in this order
ORDER = [
    "errors",
    "files",
    "signals",
    "provenance",
    "config",
    "experiments",
    "stats",
    "processes",
    "event_log",
    "checkpoint",
    "tracking",
    "data",
    "model",
    "evaluate",
    "measure",
    "plots",
    "charts",
    "error_charts",
    "error_sets",
    "untrusted",
    "logged_model",
    "client",
    "upload",
    "uploader",
    "registry",
    "maintenance",
    "trial_log",
    "step",
    "train",
    "table_checks",
    "tables",
    "reading",
    "runs",
    "measuring",
    "summary",
    "answers",
    "sweeps",
    "penalties",
    "behaviour",
    "errors_as_data",
    "graphs",
    "pages",
    "collect",
    "report",
    "worker",
    "launch",
    "ray_engine",
    "cli",
    "__main__",
    "__init__",
]


def imported_by(name: str) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse((PROJECT / "normstudy" / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def test_every_file_has_its_place() -> None:
    assert {path.stem for path in FILES} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_before_it(name: str) -> None:
    ours = {module.split(".")[1] for module in imported_by(name) if module.startswith("normstudy.")}
    assert ours & set(ORDER) <= set(ORDER[: ORDER.index(name)])


def test_model_needs_no_other_file() -> None:
    assert not [module for module in imported_by("model") if module.startswith("normstudy")]


def test_only_writer_and_reader_know_mlflow() -> None:
    assert {name for name in ORDER if any(m.split(".")[0] == "mlflow" for m in imported_by(name))} == {
        "tracking",
        "logged_model",
        "client",
        "trial_log",
        "reading",
        "runs",
    }


def test_only_the_engine_knows_ray() -> None:
    assert {name for name in ORDER if any(m.split(".")[0] == "ray" for m in imported_by(name))} == {"ray_engine"}


@pytest.mark.parametrize(
    "path",
    [path for folder in FOLDERS for path in sorted((PROJECT / folder).glob("*.py"))],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_files_and_functions_stay_readable(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    assert len(text.splitlines()) <= 320
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
