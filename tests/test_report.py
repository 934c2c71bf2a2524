"""The report: from sqlite and from a real HTTP server, complete or not at all, README and tables in agreement."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers.project import using
from helpers.servers import tracking_server
from helpers.studied import EXPERIMENT, all_runs, finished_run, study_run
from helpers.tables import made
from PIL import Image

from normstudy.config import TrainConfig
from normstudy.errors import ReportError, StorageError
from normstudy.experiment import About, Experiment
from normstudy.launch.study import single
from normstudy.report import END, START, report, report_from
from normstudy.report.pages import answer_block, readme_block
from normstudy.report.tables import ErrorTables, Tables
from normstudy.tracking import Metric, Tag, unpacked_tags
from normstudy.tracking.client import Server

CONFIGS = list(EXPERIMENT.configs)
VARIANTS = ["GN", "LN", "BN + L1"]


def write_report(tmp_path: Path, configs: list[TrainConfig], parent_id: str | None) -> tuple[Path, str]:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    planned = Experiment(name="main", question="Which?", configs=tuple(configs))
    report(planned, parent_id=parent_id, out=Path("report"), readme=readme, export=tmp_path / "kept", allow_dirty=True)
    return tmp_path / "report", readme.read_text()


def test_report_writes_every_figure_and_table_and_every_number_is_one_that_the_runs_logged(
    studied_store: str, tmp_path: Path
) -> None:
    folder, readme = write_report(tmp_path, CONFIGS, study_run())
    names = ["test_loss", "test_accuracy", "shared_statistics", *(f"misclassified_{n}" for n in ("gn", "ln", "bn_l1"))]
    for name in names:
        assert min(Image.open(folder / f"{name}.png").size) > 300
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    assert {path.name for path in folder.glob("*.csv")} == {f"{name}.csv" for name in ErrorTables.names()}
    assert all(f"report/{name}.png" in readme for name in names if name != "shared_statistics")
    assert readme.startswith(f"before\n{START}\n")
    assert readme.endswith(f"{END}\nafter\n")
    assert "old" not in readme
    rows = dict(re.findall(r"^\| ((?:GN|LN|BN)[^|]*?) \|(.*)\|$", readme, re.MULTILINE))
    runs = all_runs()
    assert list(rows) == VARIANTS
    for variant, row in rows.items():
        [run] = [run for run in runs if run.data.tags.get(Tag.VARIANT) == variant]
        assert f"`{run.info.run_id}`" in readme
        cells = [cell.strip() for cell in row.split("|")]
        metrics = run.data.metrics
        assert cells[0].replace(",", "") == run.data.params["parameters"]
        assert cells[1].startswith(f"{100 * metrics[Metric.TEST_ACCURACY]:.2f} %")
        assert cells[2] == f"{metrics[Metric.TEST_LOSS]:.4f}"
        assert cells[3] == f"{100 * metrics[Metric.TRAIN_ACCURACY]:.2f} %"
        assert int(cells[4]) == round(10_000 * (1 - metrics[Metric.TEST_ACCURACY]))
    loaded = ErrorTables.load(folder)
    assert answer_block(loaded, figures_at=Path("report")).strip() in readme
    for row in loaded.provenance.itertuples():
        [tags] = [unpacked_tags(run.data.tags) for run in runs if run.info.run_id == row.run_id]
        assert (row.git_commit, row.processor) == (tags[Tag.GIT_COMMIT], tags[Tag.PROCESSOR])
    report_from(tmp_path / "kept", out=tmp_path / "again")
    live, kept, again = (
        {path.name: path.read_bytes() for path in where.iterdir()}
        for where in (folder, tmp_path / "kept" / "main", tmp_path / "again" / "main")
    )
    assert {Path(name).suffix for name in live} == {".csv", ".json", ".md", ".png", ".svg"}
    assert [name for name in live if live[name] != again.get(name)] == []
    assert live.keys() == again.keys()
    assert kept == {name: live[name] for name in kept}


def test_runs_of_a_changed_tree_are_not_exported_unless_asked_for(store: str, tmp_path: Path) -> None:
    variant = TrainConfig(norm="gn", epochs=2)
    configs = tuple(variant.model_copy(update={"seed": seed}) for seed in range(2))
    first, second = (finished_run(config, steps=[1, 2]) for config in configs)
    for run_id, dirty in ((first, "false"), (second, "true")):
        mlflow.MlflowClient().set_tag(run_id, Tag.GIT_COMMIT, "0123456789ab")
        mlflow.MlflowClient().set_tag(run_id, Tag.GIT_DIRTY, dirty)
    make = partial(report, Experiment(name="small", question="Which?", configs=configs), parent_id=None)
    with pytest.raises(ReportError, match=f"^export=.*: 1 of 2 runs were made with changes .*, such as {second}"):
        make(out=tmp_path / "report", export=tmp_path / "kept")
    assert not (tmp_path / "report").exists()
    make(out=tmp_path / "report", export=tmp_path / "kept", allow_dirty=True)
    kept = Tables.load(tmp_path / "kept" / "small").provenance
    assert kept[["run_id", "git_dirty", "device"]].to_numpy().tolist() == [
        [first, "false", "unknown"],
        [second, "true", "unknown"],
    ]
    said = "Code: commit 0123456, clean tree for 1 of 2 runs; commit 0123456, changed tree for 1 of 2 runs."
    assert said in (tmp_path / "report" / "index.md").read_text()


def test_a_full_disk_leaves_readme_and_tables_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, readme = tmp_path / "report", tmp_path / "README.md"
    made(CONFIGS, lambda config: 0.98).save(tmp_path / "kept" / "main")
    (out / "main").mkdir(parents=True)
    for path in (readme, out / "main" / "results.csv", out / "main" / "index.md"):
        path.write_text(f"old\n{START}\n{END}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(path: Path, content: bytes) -> None:
        raise StorageError(f"can't write {path}")

    monkeypatch.setattr("normstudy.report.tables.write_atomically", full)
    with pytest.raises(StorageError, match=r"^can't write .*results\.csv$"):
        report_from(tmp_path / "kept", out=out, readme=readme)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_readme_needs_an_experiment_of_errors(tmp_path: Path) -> None:
    nothing = pd.DataFrame()
    frames = dict.fromkeys(("results", "epochs", "misclassified", "provenance"), nothing)
    tables = Tables(**frames, about=About(report="groups"))
    with pytest.raises(ReportError, match="the export has no experiment of the kind 'errors'; it has small"):
        readme_block({"small": tables}, figures_at=tmp_path)


def test_cells_that_a_spreadsheet_would_compute_are_text(tmp_path: Path) -> None:
    tables = made(CONFIGS, lambda config: 0.98)
    replace(tables, results=tables.results.assign(study="=cmd|' /C calc'!A1", variant="@x")).save(tmp_path)
    saved = pd.read_csv(tmp_path / "results.csv")
    assert set(saved["study"]) == {"'=cmd|' /C calc'!A1"}
    assert set(saved["variant"]) == {"'@x"}


def test_readme_without_marks_is_refused_before_anything_is_written(studied_store: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no marks")
    with pytest.raises(ReportError, match="needs the marks"):
        report(EXPERIMENT, parent_id=None, out=tmp_path / "report", readme=readme, export=tmp_path / "kept")
    assert readme.read_text() == "no marks"
    assert {path.name for path in tmp_path.iterdir()} == {"README.md"}


@pytest.fixture
def server(migrated_store: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a real `mlflow server` that also serves the artifacts."""
    database = tmp_path / "server.db"
    database.write_bytes(migrated_store.read_bytes())
    with tracking_server(f"sqlite:///{database}", tmp_path) as running:
        yield running.address


def test_writer_and_report_work_the_same_through_a_real_http_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(norm="ln", epochs=2, train_size=640, device="cpu")
    with using(server, tmp_path, monkeypatch):
        single(config)
        folder, readme = write_report(tmp_path, [config], parent_id=None)
        [run] = all_runs()
        assert f"{100 * run.data.metrics[Metric.TEST_ACCURACY]:.2f} %" in readme
        model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/digitnet-ln-seed0")
        assert model.predict(np.zeros((3, 1, 28, 28), np.uint8)).shape == (3, 11)
        for _ in range(2):  # the second as after a kill
            Server().register(run.info.run_id, "digitnet-ln")
        [version] = mlflow.MlflowClient().search_model_versions("name = 'digitnet-ln'")
        assert version.run_id == run.info.run_id
        assert mlflow.MlflowClient().get_model_version_by_alias("digitnet-ln", "newest").version == version.version
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, Metric.TEST_LOSS)
        assert pd.read_csv(folder / "epochs.csv")[Metric.TEST_LOSS].tolist() == [point.value for point in history]
    assert (tmp_path / "served").is_dir()
