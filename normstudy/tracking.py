"""Names of what a run logs, and its life on the tracking server: created, ended in a true state."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Param, RunTag
from mlflow.tracking.context.registry import resolve_tags

from normstudy.config import TrainConfig
from normstudy.errors import Diverged, Interrupted
from normstudy.provenance import PROJECT


class Metric(StrEnum):
    """Names of the metrics of a run. Losses are mean cross-entropies in nats, accuracies fractions."""

    TRAIN_LOSS = "train/loss"
    TRAIN_ACCURACY = "train/accuracy"
    TRAIN_PENALTY = "train/penalty"
    VAL_LOSS = "val/loss"
    VAL_ACCURACY = "val/accuracy"
    TEST_LOSS = "test/loss"
    TEST_ACCURACY = "test/accuracy"
    LEARNING_RATE = "learning_rate"
    EPOCH_SECONDS = "epoch_seconds"


class Tag(StrEnum):
    """Names of the tags that reader and writer share."""

    TRIAL_KEY = "normstudy.trial_key"
    VARIANT = "normstudy.variant"
    STUDY = "normstudy.study"
    SIDE_BY_SIDE = "normstudy.side_by_side"
    CORES = "normstudy.cores"
    STACK = "normstudy.stack"
    FAILURE = "normstudy.failure"
    FAILURE_STEP = "normstudy.failure_step"
    NOTE = "mlflow.note.content"
    NAME = "mlflow.runName"
    PARENT = "mlflow.parentRunId"


class Artifact(StrEnum):
    """Paths of a run's artifacts."""

    CONFIG = "config.json"
    STUDY = "study.json"
    WEIGHTS = "weights/model.safetensors"
    MISCLASSIFIED = "misclassified/table.json"
    GRID = "misclassified/grid.png"
    TEN = "misclassified/images"
    CONFUSION = "confusion_matrix.json"
    CONFUSION_FIGURE = "confusion_matrix.png"


def connect() -> str:
    """Point MLflow at `MLFLOW_TRACKING_URI`, or at `mlflow.db` in the project; return the URI.

    A server that is away is asked for half a minute, not MLflow's four.
    """
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{PROJECT / 'mlflow.db'}")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return os.environ["MLFLOW_TRACKING_URI"]


def where(uri: str | None = None) -> str:
    """This tracking URI, else the one in use, for messages: without user and password."""
    return re.sub(r"(?<=://)[^/]*@", "", uri or mlflow.get_tracking_uri())


def chosen_experiment() -> str:
    """Id of the experiment that the environment names, else of `normstudy`."""
    if experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return experiment_id
    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "normstudy"))
    return str(experiment.experiment_id)


def create_run(experiment_id: str, tags: Mapping[str, str]) -> str:
    """A new run, RUNNING, with these tags and MLflow's own on user and source; its id."""
    return str(mlflow.MlflowClient().create_run(experiment_id, tags=resolve_tags(dict(tags))).info.run_id)


def end_run(run_id: str, error: BaseException | None) -> None:
    """End a run as FINISHED, or by this error: KILLED at a signal, FAILED at any other, with the reason as a tag."""
    client = mlflow.MlflowClient()
    if error is None:
        client.set_terminated(run_id, "FINISHED")
        return
    first_line = next(iter(str(error).splitlines()), "")
    client.set_tag(run_id, Tag.FAILURE, f"{type(error).__name__}: {first_line}")
    if isinstance(error, Diverged):
        client.set_tag(run_id, Tag.FAILURE_STEP, error.step)
    client.set_terminated(run_id, "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED")


@contextmanager
def open_study(
    name: str, question: str, configs: Sequence[TrainConfig], side_by_side: int
) -> Iterator[tuple[str, list[str]]]:
    """A parent run, ended as its block ends, with one nested run for each configuration; gives its id and theirs.

    One process creates them all, so the trials never race for an empty store.
    """
    connect()
    parent_id = os.environ.pop("MLFLOW_RUN_ID", None) or create_run(chosen_experiment(), {})
    run_ids: list[str] = []
    try:
        client, experiment_id = mlflow.MlflowClient(), mlflow.get_run(parent_id).info.experiment_id
        trials = [{"variant": config.variant, **config.model_dump()} for config in configs]
        client.log_dict(parent_id, {"study": name, "trials": trials}, Artifact.STUDY)
        log_tags(parent_id, {Tag.NAME: f"study {name}", Tag.STUDY: name, Tag.NOTE: question})
        shared: dict[str, str] = {Tag.PARENT: parent_id, Tag.STUDY: name, Tag.SIDE_BY_SIDE: str(side_by_side)}
        run_ids += [create_run(experiment_id, {**identity(config), **shared}) for config in configs]
        yield parent_id, run_ids
    except BaseException as error:
        end_run(parent_id, error)
        raise
    else:
        end_run(parent_id, None)
    finally:
        for run_id in run_ids:
            end_if_left_running(run_id)


def log_tags(run_id: str, tags: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> None:
    """Tags and parameters of a run, in one request."""
    mlflow.MlflowClient().log_batch(
        run_id,
        tags=[RunTag(name, str(value)) for name, value in tags.items()],
        params=[Param(name, str(value)) for name, value in (params or {}).items()],
    )


def identity(config: TrainConfig) -> dict[str, str]:
    """Tags that say which trial a run is."""
    return {
        Tag.NAME: f"{config.variant}, seed {config.seed}",
        Tag.TRIAL_KEY: config.trial_key,
        Tag.VARIANT: config.variant,
    }


def end_if_left_running(run_id: str) -> None:
    """Ends as KILLED a run whose process is gone without having ended it, or never started."""
    if status_of(run_id) in ("RUNNING", "SCHEDULED"):
        client = mlflow.MlflowClient()
        client.set_tag(run_id, Tag.FAILURE, "its process ended without a word, or never started")
        client.set_terminated(run_id, "KILLED")


def status_of(run_id: str) -> str:
    """RUNNING, FINISHED, FAILED, KILLED or SCHEDULED."""
    return mlflow.get_run(run_id).info.status


def log_to_run(run_id: str, artifact: Path) -> None:
    """Add a file to a run that has ended, and leave its state as it is."""
    connect()
    mlflow.MlflowClient().log_artifact(run_id, str(artifact))


def ten_name(row: Any) -> str:
    """File name of one of the ten images; `row` is its row of the table."""
    return f"index{row.index}_true{row.true}_predicted{row.predicted}.png"
