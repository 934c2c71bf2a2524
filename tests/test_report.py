"""The report: from sqlite and from a real HTTP server, complete or not at all, README and tables in agreement."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, SMALL, clean_environment, using
from PIL import Image

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.experiments import load_experiment
from normstudy.report import END, START, Tables, render, report, tables_of
from normstudy.runs import _bulk, finished_trials, planned_in
from normstudy.tracking import Artifact, Metric, Tag
from normstudy.train import train
from normstudy.trial_log import MlflowTracker

CONFIGS = list(load_experiment(PROJECT / "experiments" / "assignment.py", SMALL).configs)
VARIANTS = ["GN", "LN", "BN + L1"]


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


def copy_of_a_run(config: TrainConfig, steps: list[int], accuracy: float = 1.0) -> str:
    """A finished run with only what the reader asks for first, at these steps."""
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", tags={Tag.TRIAL_KEY: config.trial_key, Tag.CORES: "2"}).info.run_id
    for name, value in {**config.model_dump(), "parameters": 7522}.items():
        client.log_param(run_id, name, value)
    for metric in Metric:
        for step in steps:
            client.log_metric(run_id, metric, accuracy + 0.001 * step, step=step, timestamp=step)
    client.log_dict(run_id, {"columns": ["index", "true", "predicted", "loss"], "data": []}, Artifact.MISCLASSIFIED)
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "served")]
    environment = clean_environment("", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_writer_and_report_work_the_same_through_a_real_http_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [TrainConfig.of(**{**config.model_dump(), "device": "cpu"}) for config in CONFIGS]
    with using(server, tmp_path, monkeypatch):
        for config in configs:
            train(config, MlflowTracker())
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
