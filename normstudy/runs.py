"""The tracking server to tables. The only reader of runs; it refuses holes."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from PIL import Image

from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.evaluate import ten_worst
from normstudy.tracking import Artifact, Metric, Tag, connect, ten_name

TEST_IMAGES = 10_000
CURVES = (Metric.TRAIN_LOSS, Metric.TRAIN_ACCURACY, Metric.TRAIN_PENALTY, Metric.TEST_LOSS, Metric.TEST_ACCURACY,
          Metric.LEARNING_RATE, Metric.EPOCH_SECONDS)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished run, as the server has it."""

    run_id: str
    parent_id: str | None  # the study that it was trained in
    config: TrainConfig
    parameters: int
    side_by_side: int  # trials that shared the machine
    cores: int
    epochs: pd.DataFrame  # a column a metric, indexed by epoch from 1
    misclassified: pd.DataFrame  # columns as in evaluate.misclassified
    ten: list[np.ndarray]  # 28 x 28, in the order of evaluate.ten_worst


def planned_in(parent_id: str) -> tuple[str, list[TrainConfig]]:
    """Name and configurations that a study's parent run set out to train.

    Raises `ReportError` when the server has no such run, or it is no study.
    """
    connect()
    try:
        plan = mlflow.artifacts.load_dict(f"runs:/{parent_id}/{Artifact.STUDY}")
    except mlflow.MlflowException as error:
        raise ReportError(f"parent={parent_id}: not the run of a study on {mlflow.get_tracking_uri()}") from error
    trials = [{k: v for k, v in trial.items() if k in TrainConfig.model_fields} for trial in plan["trials"]]
    return plan["study"], [TrainConfig.of(**trial) for trial in trials]


def finished_trials(configs: list[TrainConfig], parent_id: str | None) -> list[TrialRecord]:
    """The newest finished run of each configuration: of this study, or (None) of all that the server has.

    Raises `ReportError` naming every configuration whose run is missing, failed, killed or still running.
    """
    connect()
    found = {config.trial_key: _newest(config, parent_id) for config in configs}
    problems = [problem for config in configs if (problem := _problem(config, found[config.trial_key])) is not None]
    if problems:
        raise ReportError(f"nothing was drawn: {'; '.join(problems)} (on {mlflow.get_tracking_uri()})")
    return [_read(run) for run in found.values() if run is not None]


def _search(query: str) -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=query,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return found


def _newest(config: TrainConfig, parent_id: str | None) -> Run | None:
    query = f"tags.`{Tag.TRIAL_KEY}` = '{config.trial_key}'"
    if parent_id:
        query += f" and tags.`{Tag.PARENT}` = '{parent_id}'"
    candidates = _search(query)
    finished = [run for run in candidates if run.info.status == "FINISHED"]
    return next(iter(finished + candidates), None)


def _problem(config: TrainConfig, run: Run | None) -> str | None:
    if run is None:
        return f"{config.variant} is missing (no run with trial key {config.trial_key})"
    if run.info.status == "FINISHED":
        return None
    state = "still running" if run.info.status == "RUNNING" else run.info.status
    reason = run.data.tags.get(Tag.FAILURE)
    return f"{config.variant} is {state} (run {run.info.run_id}{': ' + reason if reason else ''})"


def _read(run: Run) -> TrialRecord:
    run_id = run.info.run_id
    config = TrainConfig.of(**_load(run_id, Artifact.CONFIG))
    epochs = pd.DataFrame({str(metric): _history(run_id, metric, config.epochs) for metric in CURVES})
    table = pd.DataFrame(**_load(run_id, Artifact.MISCLASSIFIED))
    expected = round((1 - epochs[Metric.TEST_ACCURACY].iloc[-1]) * TEST_IMAGES)
    if len(table) != expected:
        raise ReportError(f"run {run_id}: {len(table)} misclassified images are logged, its accuracy says {expected}")
    return TrialRecord(
        run_id=run_id,
        parent_id=run.data.tags.get(Tag.PARENT),
        config=config,
        parameters=int(run.data.params["parameters"]),
        side_by_side=int(run.data.tags.get(Tag.SIDE_BY_SIDE, 1)),
        cores=int(run.data.tags[Tag.CORES]),
        epochs=epochs,
        misclassified=table,
        ten=_ten_images(run_id, table),
    )


def _history(run_id: str, metric: Metric, epochs: int) -> pd.Series:
    """All values of a metric by epoch. A step logged twice, by a resumed run, counts once: the newest."""
    values = mlflow.MlflowClient().get_metric_history(run_id, metric)
    newest = {point.step: point.value for point in sorted(values, key=lambda point: point.timestamp)}
    if holes := [step for step in range(1, epochs + 1) if step not in newest]:
        raise ReportError(f"run {run_id}: {metric} has no value at epoch {', '.join(map(str, holes))}")
    steps = range(1, epochs + 1)
    return pd.Series([newest[step] for step in steps], index=pd.Index(steps, name="epoch"))


def _load(run_id: str, artifact: Artifact) -> dict:  # type: ignore[type-arg]
    try:
        return json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{artifact}"))
    except mlflow.MlflowException as error:
        raise ReportError(f"run {run_id}: artifact {artifact} can't be read") from error


def _ten_images(run_id: str, table: pd.DataFrame) -> list[np.ndarray]:
    names = [ten_name(row) for row in ten_worst(table).itertuples()]
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=Artifact.TEN, dst_path=folder)
        return [np.asarray(Image.open(Path(local) / name)) for name in names]
