"""The notebook runs from top to bottom, and is committed executed."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from helpers.project import PROJECT, SMALL, clean_environment
from nbclient import NotebookClient

NOTEBOOK = PROJECT / "notebooks" / "normalization_study.ipynb"
PICTURES = 2 + 3 + 3  # graphs; grids; differences, overlap and common errors of ten seeds


@pytest.mark.faults  # a recipe as a whole
def test_notebook_runs_with_few_epochs_and_images(
    migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = clean_environment(
        f"sqlite:///{tmp_path / 'mlflow.db'}", NORMSTUDY_OVERRIDES=json.dumps({**SMALL, "epochs": 1})
    )
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    NotebookClient(notebook, timeout=380).execute(cwd=str(NOTEBOOK.parent), env=environment)
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == PICTURES


def test_committed_notebook_is_executed_in_order_at_20_epochs_without_errors_and_names_no_folder() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES
    text = NOTEBOOK.read_text()
    assert "Last epoch (20) of n = 1 run each, seed 0" in text
    assert not [output for output in outputs if output.get("name") == "stderr"]
