"""The report: from sqlite and from a real HTTP server, complete or not at all, README and tables in agreement."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers.project import PROJECT, using
from helpers.servers import tracking_server
from helpers.studied import EXPERIMENT, study_run
from PIL import Image

from benchmarks.fake_runs import log_fake_runs
from normstudy.config import L1, TrainConfig
from normstudy.errors import ConfigError, ReportError, StorageError
from normstudy.experiment import Experiment
from normstudy.launch.study import single
from normstudy.report import END, START, render, render_all, report, report_from
from normstudy.report.collect import tables_of
from normstudy.report.read import _bulk
from normstudy.report.runs import finished_trials
from normstudy.report.tables import ErrorTables, Tables
from normstudy.tracking import Metric, Tag

CONFIGS = list(EXPERIMENT.configs)
VARIANTS = ["GN", "LN", "BN + L1"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def write_report(tmp_path: Path, configs: list[TrainConfig], parent_id: str | None) -> tuple[Path, str]:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    planned = Experiment(name="assignment", question="Which?", configs=tuple(configs))
    report(planned, parent_id=parent_id, out=Path("report"), readme=readme)
    return tmp_path / "report", readme.read_text()


def test_report_writes_every_figure_as_png_and_svg_and_every_table(studied_store: str, tmp_path: Path) -> None:
    parent_id = study_run()
    folder, readme = write_report(tmp_path, CONFIGS, parent_id)
    names = ["test_loss", "test_accuracy", "shared_statistics", *(f"misclassified_{n}" for n in ("gn", "ln", "bn_l1"))]
    for name in names:
        assert min(Image.open(folder / f"{name}.png").size) > 300
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    tables = {"results.csv", "epochs.csv", "misclassified.csv", "images.csv"}
    assert {path.name for path in folder.glob("*.csv")} == tables
    assert all(f"report/{name}.png" in readme for name in names if name != "shared_statistics")
    assert readme.startswith(f"before\n{START}\n")
    assert readme.endswith(f"{END}\nafter\n")
    assert "old" not in readme


def test_every_number_of_the_readme_is_one_that_the_runs_logged(studied_store: str, tmp_path: Path) -> None:
    folder, readme = write_report(tmp_path, CONFIGS, study_run())
    rows = dict(re.findall(r"^\| ((?:GN|LN|BN)[^|]*?) \|(.*)\|$", readme, re.MULTILINE))
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
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
    assert render(ErrorTables.load(folder), figures_at=Path("report")).strip() in readme


def test_tables_hold_the_history_to_the_digit(studied_store: str, tmp_path: Path) -> None:
    tables = tables_of(ErrorTables, "assignment", finished_trials(CONFIGS, None))
    tables.save(tmp_path)
    found = ErrorTables.load(tmp_path).frames()
    assert found.keys() == tables.frames().keys()
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, getattr(tables, name), check_dtype=False, check_exact=True)
    client = mlflow.MlflowClient()
    for (run_id,), rows in tables.epochs.groupby(["run_id"]):
        history = client.get_metric_history(run_id, Metric.TEST_LOSS)
        assert rows[Metric.TEST_LOSS].tolist() == [point.value for point in history]


def test_same_runs_give_the_same_files_byte_for_byte(studied_store: str, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        report(EXPERIMENT, parent_id=None, out=tmp_path / name)
        contents.append(contents_of(tmp_path / name))
    assert len(contents[0]) > 10
    assert contents[0] == contents[1]


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files of a report."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".html"}


def test_a_report_from_an_export_is_the_report_of_the_runs_byte_for_byte(store: str, tmp_path: Path) -> None:
    variants = [TrainConfig(norm="gn", epochs=2), TrainConfig(norm="bn", l1=L1, epochs=2)]
    log_fake_runs(variants, seeds=3)
    configs = tuple(config.model_copy(update={"seed": seed}) for seed in range(3) for config in variants)
    planned = Experiment(name="assignment", question="Which?\nBet: none.\nCommand: run it", configs=configs)
    readme = tmp_path / "README.md"
    readme.write_text(f"{START}\n{END}\n")
    report(planned, parent_id=None, out=tmp_path / "live" / "assignment", export=tmp_path / "kept")
    report_from(tmp_path / "kept", out=tmp_path / "again", readme=readme)
    live, again = (contents_of(tmp_path / name / "assignment") for name in ("live", "again"))
    assert {Path(name).suffix for name in live} == {".csv", ".json", ".md", ".png", ".svg"}
    assert [name for name in live if live[name] != again.get(name)] == []
    assert live.keys() == again.keys()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept" / "assignment").iterdir()}
    assert kept == {name: live[name] for name in kept}
    assert {"means.png", "differences.png", "errors_overlap.png", "errors_common.png"} <= live.keys()
    pictures = re.findall(r"\]\((\S*?\.png)\)", readme.read_text())
    assert len(pictures) == 5  # both graphs, a grid for each variant, the images that defeat every run
    assert all(Path(picture).is_file() for picture in pictures)


@pytest.mark.parametrize("files", [[], ["results.csv"], ["results.csv", "epochs.csv"]])
def test_a_folder_that_is_no_whole_export_is_refused_and_nothing_is_written(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "kept" / "assignment").mkdir(parents=True)
    for name in files:
        (tmp_path / "kept" / "assignment" / name).write_text("group\n")
    missing = r"(epochs|misclassified)\.csv is missing" if files else r"\(no \*/results\.csv\)"
    with pytest.raises(ReportError, match=f"holds no (whole )?export of an experiment.*{missing}"):
        report_from(tmp_path / "kept", out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_full_disk_leaves_readme_and_tables_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_files import refusing

    kept, out, readme = tmp_path / "kept" / "assignment", tmp_path / "report", tmp_path / "README.md"
    shutil.copytree(PROJECT / "results" / "assignment", kept)
    (out / "assignment").mkdir(parents=True)
    for path in (readme, out / "assignment" / "results.csv", out / "assignment" / "index.md"):
        path.write_text(f"old\n{START}\n{END}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refusing(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match=r"^can't write .*results\.csv: No space left on device$"):
        report_from(kept.parent, out=out, readme=readme)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", ["out", "export"])
def test_a_report_to_a_file_is_refused_before_the_server_is_asked(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normstudy.report.finished_trials", None)  # not to be called
    (tmp_path / "file").write_text("mine")
    places = {"out": tmp_path / "report", option: tmp_path / "file"}
    with pytest.raises(
        ConfigError, match=rf"^{option}={tmp_path}/file: {tmp_path}/file is no folder; expected a folder"
    ):
        report(EXPERIMENT, parent_id=None, **places)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_readme_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xff")
    with pytest.raises(ReportError, match=r"README\.md: can't be read as text in UTF-8 \('utf-8' codec"):
        report(EXPERIMENT, parent_id=None, out=tmp_path / "report", readme=tmp_path / "README.md")


def test_a_readme_needs_an_export_of_the_assignment(tmp_path: Path) -> None:
    nothing = pd.DataFrame()
    tables = {"small": Tables(results=nothing, epochs=nothing, misclassified=nothing)}
    with pytest.raises(ReportError, match="the export has no experiment 'assignment'; it has small"):
        render_all(tables, figures_at=tmp_path)


def tags(page: str) -> list[Any]:
    """The tags of a page, with the names of their attributes."""
    found: list[Any] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, [name for name, _ in attributes]))  # type: ignore[method-assign]
    parser.feed(page)
    return found


def test_names_in_the_readme_and_in_tables_are_text(tmp_path: Path) -> None:
    from test_summary import tables_from  # which imports this file

    tables = tables_from({f"{HOSTILE}|`](javascript:alert(3))\n{END}": [3], "=1+1": [4]})
    tables.results["run_id"] = ["`<b>", "@x"]
    tables.results["study"] = "=cmd|' /C calc'!A1"
    block = render(tables, figures_at=Path("report"))
    assert not re.search(r"<[a-z/!]|(?<!\\)\](?=\(javascript)|`<b>", block, re.IGNORECASE)
    assert {line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")} == {8}
    assert all(re.fullmatch(r"report/[a-z0-9_]+\.png", path) for path in re.findall(r"(?<!\\)\]\((.*?)\)", block))
    tables.save(tmp_path)
    text = pd.read_csv(tmp_path / "results.csv")
    assert text["study"].tolist() == ["'=cmd|' /C calc'!A1"] * 2
    assert text["group"].tolist()[1] == "'=1+1"
    assert text["run_id"].tolist()[1] == "'@x"


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
    configs = [TrainConfig.of(**{**config.model_dump(), "device": "cpu"}) for config in CONFIGS]
    with using(server, tmp_path, monkeypatch):
        for config in configs:
            single(config)
        folder, readme = write_report(tmp_path, configs, parent_id=None)
        runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
        [run] = [run for run in runs if run.data.tags[Tag.VARIANT] == "LN"]
        assert f"{100 * run.data.metrics[Metric.TEST_ACCURACY]:.2f} %" in readme
        model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        assert model.predict(np.zeros((3, 1, 28, 28), np.float32)).shape == (3, 10)
        epochs, client = pd.read_csv(folder / "epochs.csv"), mlflow.MlflowClient()
        for run_id, rows in epochs.groupby("run_id"):
            history = client.get_metric_history(run_id, Metric.TEST_LOSS)
            assert rows[Metric.TEST_LOSS].tolist() == [point.value for point in history]
        # all runs in one request: the server still answers it, and nothing fell back to one request a run
        assert len(_bulk(list(epochs["run_id"].unique()), Metric.TEST_LOSS)) == len(epochs)
    assert Image.open(folder / "test_accuracy.png").size[0] > 300
    assert len(pd.read_csv(folder / "epochs.csv")) == 2 * len(configs)
    assert (tmp_path / "served").is_dir()
