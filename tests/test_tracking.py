"""What a real run leaves in a real store, and that it always ends in a true state."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.leases import TRIAL, leased
from helpers.project import SMALL
from mlflow.entities import Run
from PIL import Image
from safetensors.torch import load_file

from normstudy.config import L1, TrainConfig
from normstudy.data import Data, load_images
from normstudy.errors import Diverged, Interrupted
from normstudy.evaluate import evaluate
from normstudy.figures import NORM_STYLES
from normstudy.launch.study import single
from normstudy.tracking import Artifact, Metric, Tag, unpacked_tags
from normstudy.tracking.run import LogTracker
from normstudy.train import build_model

CONFIG = TrainConfig(norm="bn", l1=L1, **SMALL)
MODEL = "digitnet-bn-l1-seed0"


def run_of(variant: str) -> Run:
    [run] = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`{Tag.VARIANT}` = '{variant}'", output_format="list"
    )
    return run


def artifact(run: Run, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path))


@pytest.fixture
def run(studied_store: str) -> Run:
    return run_of("BN + L1")


def test_run_has_the_resolved_config_and_its_provenance(run: Run) -> None:
    assert run.info.status == "FINISHED"
    known = {name: str(value) for name, value in CONFIG if name != "groups"}  # which mean nothing to BatchNorm
    assert {name: text for name, text in run.data.params.items() if name != "parameters"} == known
    assert run.data.params["parameters"] == str(sum(p.numel() for p in build_model(CONFIG).parameters()))
    assert json.loads(artifact(run, Artifact.CONFIG).read_text()) == CONFIG.model_dump()
    tags = unpacked_tags(run.data.tags)
    assert tags[Tag.TRIAL_KEY] == CONFIG.trial_key
    assert tags[Tag.COLOR] == NORM_STYLES["BN + L1"]["color"]
    assert tags[Tag.TORCH] == torch.__version__.split("+")[0]
    assert all(tags[tag] for tag in (Tag.GIT_COMMIT, Tag.GIT_DIRTY, Tag.DATA_DIGEST, Tag.DEVICE, Tag.PROCESSOR))
    assert tags["normstudy.version.python"] == platform.python_version()


def test_what_only_programs_ask_for_is_one_tag(run: Run) -> None:
    names = {name.removeprefix("normstudy.") for name in run.data.tags if not name.startswith("mlflow.")}
    of_interest = {"variant", "study", "device", "data_digest"}
    assert names - of_interest == {"trial_key", "record", "heartbeat", "process"}


def test_run_says_what_it_is_what_came_out_and_how_to_repeat_it(run: Run) -> None:
    note = run.data.tags[Tag.NOTE]
    assert "BN + L1" in note
    assert f"test accuracy {100 * run.data.metrics[Metric.TEST_ACCURACY]:.2f} %" in note
    assert CONFIG.command() in note
    assert "python -m normstudy train --norm bn --l1 1e-05 " in note


def test_datasets_are_inputs_of_the_run_with_their_digests(run: Run) -> None:
    assert run.inputs
    inputs = {tag.value: entry.dataset for entry in run.inputs.dataset_inputs for tag in entry.tags}
    assert set(inputs) == {"train", "test"}
    assert inputs["train"].digest == run.data.tags[Tag.DATA_DIGEST]
    assert inputs["test"].digest == load_images()[1].digest


def test_model_from_mlflow_gives_the_logged_accuracy_to_the_digit(run: Run) -> None:
    test = load_images()[1]
    model, pixels = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/{MODEL}"), test.images.numpy()
    answers = np.concatenate([model.predict(pixels[start : start + 500]) for start in range(0, 10_000, 500)])
    assert answers.shape == (10_000, 11)
    assert (answers[:, 0] == test.labels.numpy()).mean() == run.data.metrics[Metric.TEST_ACCURACY]
    assert (answers[:, 1:].argmax(1) == answers[:, 0]).all()
    assert answers[:, 1:].sum(1) == pytest.approx(np.ones(10_000), abs=1e-5)
    assert (model.input_example == pixels[:2]).all()
    with pytest.raises(mlflow.MlflowException, match="Failed to enforce schema"):
        model.predict(pixels[:2] / 255)


def test_logged_model_is_linked_to_the_last_epochs_metrics_and_their_datasets(run: Run) -> None:
    assert run.outputs
    [output] = run.outputs.model_outputs
    model = mlflow.get_logged_model(output.model_id)
    linked = {metric.key: metric for metric in model.metrics or ()}
    assert {name: metric.value for name, metric in linked.items()} == run.data.metrics
    digest = load_images()[1].digest
    assert {linked[name].dataset_digest for name in (Metric.TEST_LOSS, Metric.TEST_ACCURACY)} == {digest}
    assert linked[Metric.TRAIN_LOSS].dataset_digest == run.data.tags[Tag.DATA_DIGEST]
    assert linked[Metric.LEARNING_RATE].dataset_name is None


def test_misclassified_artifacts_are_exactly_the_models_errors(run: Run) -> None:
    model = build_model(CONFIG)
    model.load_state_dict(load_file(artifact(run, Artifact.WEIGHTS)))
    test = load_images()[1]
    found = evaluate(model.to(memory_format=torch.channels_last), test)
    wrong = (found.logits.argmax(1) != test.labels).nonzero().flatten().tolist()
    mlflow.set_experiment("normstudy")  # load_table looks nowhere else
    table = mlflow.load_table(Artifact.MISCLASSIFIED, run_ids=[run.info.run_id])
    assert table["index"].tolist() == wrong
    assert table["true"].tolist() == test.labels[wrong].tolist()
    names = sorted(path.name for path in artifact(run, Artifact.TEN).iterdir())
    worst = table.sort_values("loss", ascending=False).head(10)
    assert names == sorted(
        f"index{row.index}_true{row.true}_predicted{row.predicted}.png" for row in worst.itertuples(index=False)
    )
    first = worst["index"].iloc[0]
    picture = next(path for path in artifact(run, Artifact.TEN).iterdir() if path.name.startswith(f"index{first}_"))
    assert (np.asarray(Image.open(picture)) == test.images[first, 0].numpy()).all()


def test_ten_misclassified_images_are_where_the_ui_shows_them_highest_loss_first(run: Run) -> None:
    assert run.data.tags[Tag.IMAGES] == "True"
    files = {path.name.split("+")[2]: path for path in artifact(run, "images").iterdir() if path.suffix == ".png"}
    table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{Artifact.MISCLASSIFIED}")
    worst = sorted(table["data"], key=lambda row: -row[5])[:10]
    test = load_images()[1]
    for place, row in enumerate(worst):
        assert (np.asarray(Image.open(files[str(place)]))[4::8, 4::8] == test.images[row[0], 0].numpy()).all()
    assert len(list(artifact(run, "images").iterdir())) == 20  # each whole and compressed


def test_table_for_people_has_thumbnails_and_the_highest_loss_first(run: Run) -> None:
    assert json.loads(run.data.tags[Tag.TABLES])[0] == {"path": Artifact.BY_LOSS, "type": "table"}
    table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{Artifact.BY_LOSS}")
    rows = pd.DataFrame(table["data"], columns=table["columns"])
    assert rows["loss"].is_monotonic_decreasing
    assert (rows["loss"].round(3) == rows["loss"]).all()
    test = load_images()[1]
    for cell, index in zip(rows["image"], rows["index"], strict=True):
        thumbnail = np.asarray(Image.open(artifact(run, cell["filepath"])))
        assert (thumbnail[2::4, 2::4] == test.images[index, 0].numpy()).all()


def test_system_metrics_are_logged_where_asked_for_and_hinder_no_resume(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    config, asked = TrainConfig(epochs=2, train_size=640, device="cpu"), iter(range(1_000))
    with pytest.raises(Interrupted):
        single(config, stop_signal=lambda: 15 if next(asked) > 30 else None)  # in the second epoch
    single(config)
    run = run_of("GN")
    assert run.info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in run.data.metrics
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, Metric.TEST_LOSS)
    assert [point.step for point in history] == [1, 2]
    assert run.outputs
    model = mlflow.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert {metric.key for metric in model.metrics or ()} == {name for name in run.data.metrics if name in set(Metric)}


def test_grid_and_confusion_matrix_are_logged(run: Run) -> None:
    assert Image.open(artifact(run, Artifact.GRID)).size[0] > 300
    counts = np.array(json.loads(artifact(run, Artifact.CONFUSION).read_text())["data"])
    assert counts.sum() == 10_000
    assert np.trace(counts) / 10_000 == run.data.metrics[Metric.TEST_ACCURACY]
    assert artifact(run, Artifact.CONFUSION_FIGURE).stat().st_size > 5_000


def test_diverged_run_ends_failed_with_its_step_and_no_result(store: str) -> None:
    with pytest.raises(Diverged, match="not finite") as caught:
        single(TrainConfig(norm="none", lr=1e9, epochs=2, train_size=640, device="cpu"))
    run = run_of("NONE")
    assert run.info.status == "FAILED"
    assert run.data.tags[Tag.FAILURE_STEP] == str(caught.value.step)
    assert "not finite" in run.data.tags[Tag.FAILURE]
    assert "No result" in run.data.tags[Tag.NOTE]
    assert Metric.TEST_ACCURACY not in run.data.metrics
    assert not run.outputs or not run.outputs.model_outputs


def test_a_run_that_goes_on_on_another_device_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path))
    lease = leased(None, trial=replace(TRIAL, key=CONFIG.trial_key))
    test = load_images()[1].take(torch.arange(4))
    for device in ("cuda", "cpu", "cpu"):
        tracker = LogTracker({CONFIG.trial_key: lease}, {}, None)
        tracker.start(CONFIG, Data(train=test, val=None, test=test), 1, torch.device(device), stack=1)
    assert lease.log.state.tags[Tag.DEVICE] == "cuda, cpu"
