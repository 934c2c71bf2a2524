"""The report: from sqlite and from a real HTTP server, complete or not at all, README and tables in agreement."""

import io
import json
import re
import time
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, SMALL, using
from PIL import Image, PngImagePlugin
from servers import tracking_server

from normstudy import plots
from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.experiments import load_experiment
from normstudy.launch import single
from normstudy.report import END, START, Tables, render, report, tables_of
from normstudy.runs import _bulk, finished_trials, planned_in
from normstudy.tracking import Artifact, Metric, Tag
from normstudy.untrusted import COLUMNS, logged_image, logged_table

CONFIGS = list(load_experiment(PROJECT / "experiments" / "assignment.py", SMALL).configs)
VARIANTS = ["GN", "LN", "BN + L1"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ROW = [17, 3, 5, 0.9, 0.05, 3.0]  # of the table of misclassified images


def write_report(tmp_path: Path, configs: list[TrainConfig], parent_id: str | None) -> tuple[Path, str]:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    report("assignment", configs, parent_id=parent_id, out=Path("report"), readme=readme)
    return tmp_path / "report", readme.read_text()


def study_run() -> str:
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    [parent_id] = {run.data.tags[Tag.PARENT] for run in runs if Tag.PARENT in run.data.tags}
    return parent_id


def test_report_writes_every_figure_as_png_and_svg_and_every_table(studied_store: str, tmp_path: Path) -> None:
    parent_id = study_run()
    folder, readme = write_report(tmp_path, CONFIGS, parent_id)
    names = ["test_loss", "test_accuracy", "shared_statistics", *(f"misclassified_{n}" for n in ("gn", "ln", "bn_l1"))]
    for name in names:
        assert min(Image.open(folder / f"{name}.png").size) > 300
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    assert {path.name for path in folder.glob("*.csv")} == {"results.csv", "epochs.csv", "misclassified.csv"}
    assert all(f"report/{name}.png" in readme for name in names if name != "shared_statistics")
    assert readme.startswith(f"before\n{START}\n")
    assert readme.endswith(f"{END}\nafter\n")
    assert "old" not in readme
    page = mlflow.artifacts.download_artifacts(run_id=parent_id, artifact_path="interactive.html")
    assert all(variant in Path(page).read_text() for variant in VARIANTS)
    assert mlflow.get_run(parent_id).info.status == "FINISHED"


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
    assert render(Tables.load(folder), figures_at=Path("report")).strip() in readme


def test_tables_hold_the_history_to_the_digit(studied_store: str, tmp_path: Path) -> None:
    tables = tables_of("assignment", finished_trials(CONFIGS, None))
    tables.save(tmp_path)
    for name, table in vars(Tables.load(tmp_path)).items():
        pd.testing.assert_frame_equal(table, getattr(tables, name), check_dtype=False, check_exact=True)
    client = mlflow.MlflowClient()
    for (run_id,), rows in tables.epochs.groupby(["run_id"]):
        history = client.get_metric_history(run_id, Metric.TEST_LOSS)
        assert rows[Metric.TEST_LOSS].tolist() == [point.value for point in history]


def test_same_runs_give_the_same_files_byte_for_byte(studied_store: str, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        report("assignment", CONFIGS, parent_id=None, out=tmp_path / name, readme=None)
        files = sorted(path for path in (tmp_path / name).iterdir() if path.suffix != ".html")
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_a_parent_run_knows_what_it_planned(studied_store: str) -> None:
    parent_id = study_run()
    assert planned_in(parent_id) == ("assignment", CONFIGS)
    with pytest.raises(ReportError, match="parent=0123: not the run of a study"):
        planned_in("0123")


@pytest.mark.parametrize("parent_id", ["../../x", "x' OR '1' = '1", "/etc", "a\nb", "runs:/x"])
def test_a_parent_that_is_no_run_id_is_refused_in_one_line(parent_id: str) -> None:
    with pytest.raises(ReportError, match=r"^parent=[^\n]*: not a run id$"):
        planned_in(parent_id)


def copy_of_a_run(config: TrainConfig, steps: list[int], accuracy: float = 1.0) -> str:
    """A finished run with only what the reader asks for first, at these steps."""
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key, Tag.CORES: "2"}).info.run_id
    for name, value in {**config.model_dump(), "parameters": 7522}.items():
        client.log_param(run_id, name, value)
    for metric in Metric:
        for step in steps:
            client.log_metric(run_id, metric, accuracy + 0.001 * step, step=step, timestamp=step)
    client.log_dict(run_id, {"columns": [*COLUMNS], "data": []}, Artifact.MISCLASSIFIED)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def test_missing_failed_killed_and_running_variants_are_named_and_nothing_is_written(
    store: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    states = {"bn": "FAILED", "ln": "KILLED", "in": "RUNNING", "gn": None}
    configs = [TrainConfig(norm=norm) for norm in states]
    for config, state in zip(configs, states.values(), strict=True):
        if state:
            run = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key, Tag.FAILURE: f"reason {config.norm}"})
            if state != "RUNNING":
                client.set_terminated(run.info.run_id, state)
    with pytest.raises(ReportError, match="nothing was drawn") as caught:
        report("assignment", configs, parent_id=None, out=tmp_path / "report", readme=None)
    message = str(caught.value)
    assert re.search(r"BN is FAILED \(run [0-9a-f]{32}: reason bn\)", message)
    assert re.search(r"LN is KILLED \(run [0-9a-f]{32}: reason ln\)", message)
    assert re.search(r"IN is still running \(run [0-9a-f]{32}", message)
    assert "GN is missing" in message
    assert message.endswith(f"(on {store})")
    assert "\n" not in message
    assert not (tmp_path / "report").exists()


def test_history_with_a_hole_is_refused(store: str) -> None:
    config = TrainConfig(epochs=4)
    copy_of_a_run(config, steps=[1, 2, 4])
    with pytest.raises(ReportError, match="has no value at epoch 3"):
        finished_trials([config], None)


def test_errors_that_disagree_with_the_accuracy_are_refused(store: str) -> None:
    config = TrainConfig(epochs=1)
    copy_of_a_run(config, steps=[1], accuracy=0.989)
    with pytest.raises(ReportError, match="0 misclassified images are logged, its accuracy says 100"):
        finished_trials([config], None)


def test_step_logged_twice_counts_once_with_its_newest_value(store: str) -> None:
    config = TrainConfig(epochs=2)
    run_id = copy_of_a_run(config, steps=[1, 2], accuracy=0.998)
    mlflow.MlflowClient().log_metric(run_id, Metric.TRAIN_LOSS, 7.0, step=1, timestamp=99)
    [record] = finished_trials([config], None)
    assert record.epochs[Metric.TRAIN_LOSS].tolist() == [7.0, pytest.approx(1.0)]


def test_newest_finished_run_is_taken_over_older_and_unfinished_ones(store: str) -> None:
    config = TrainConfig(epochs=2)
    copy_of_a_run(config, steps=[1, 2], accuracy=0.998)
    time.sleep(0.01)
    newest = copy_of_a_run(config, steps=[1, 2], accuracy=0.998)
    time.sleep(0.01)
    mlflow.MlflowClient().create_run("0", tags={Tag.TRIAL_KEY: config.trial_key})
    assert [record.run_id for record in finished_trials([config], None)] == [newest]


def table(*rows: list[Any]) -> bytes:
    return json.dumps({"columns": [*COLUMNS], "data": rows}).encode()


def picture(mode: str = "L", size: tuple[int, int] = (28, 28), form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


NO_INDEX = ["../../evil", 10_000, -1, 2**70, 17.0, None]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        *[(table([index, *ROW[1:]]), "index is not a whole number from 0 to 9999") for index in NO_INDEX],
        (table([1, True, *ROW[2:]]), "true is not a whole number from 0 to 9"),
        (table([*ROW[:3], float("nan"), *ROW[4:]]), "confidence is not a number from 0 to 1"),
        (table([*ROW[:5], float("inf")]), "loss is not a number from 0"),
        (table(ROW, ROW), "it has an index twice"),
        (table(ROW[:5]), "it is not rows of 6 values"),
        (b'{"columns": ["index"], "data": [[1]]}', "its columns are not index, true, predicted, confidence"),
        (b'{"columns": [], "data": [], "index": []}', "it is not a table of columns and data"),
        (b"[" * 100_000, "it is not JSON"),
    ],
)
def test_a_table_that_no_trial_logs_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logged_table(content)


def bomb() -> bytes:
    """A text chunk of 64 MiB, compressed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * 2**26, zip=True)
    return picture(pnginfo=text)


def claiming(side: int) -> bytes:
    """An image whose header claims a size that its pixels don't have."""
    content, header = picture(), b"IHDR" + 2 * side.to_bytes(4, "big") + picture()[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


NO_PNG = [picture(form="JPEG"), picture()[:50], bomb(), b"", claiming(60_000)]  # the last: beyond Pillow's own limit
OTHER_PNG = [picture(size=(28, 29)), picture(mode="RGB"), claiming(9_000)]


@pytest.mark.parametrize("content", NO_PNG + OTHER_PNG, ids=len)
def test_an_image_that_is_no_small_grey_png_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no PNG that can be read" if content in NO_PNG else "not 28 x 28 grey pixels"):
        logged_image(content)


def tags(page: str) -> list[Any]:
    """The tags of a page, with the names of their attributes."""
    found: list[Any] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, [name for name, _ in attributes]))  # type: ignore[method-assign]
    parser.feed(page)
    return found


def test_names_in_the_page_are_text_and_close_no_script() -> None:
    def page(name: str) -> str:
        curves = {name: pd.DataFrame({0: [0.9, 0.99]}, index=[1, 2])}
        return plots.interactive(curves, curves, name)

    assert tags(page(HOSTILE)) == tags(page("GN"))
    assert "&lt;img src=x" in page(HOSTILE)  # Plotly itself takes some tags for markup
    assert tags(f"<script>{HOSTILE}</script>") != tags("<script></script>")  # this is how one would show


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
        report("assignment", CONFIGS, parent_id=None, out=tmp_path / "report", readme=readme)
    assert readme.read_text() == "no marks"
    assert not (tmp_path / "report").exists()


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
