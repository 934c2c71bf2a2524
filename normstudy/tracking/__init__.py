"""What the training loop tells of a run, and the names under which a run keeps it. Imports no MLflow."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from pydantic import BaseModel

from normstudy.config import TrainConfig
from normstudy.data import Data, Split
from normstudy.evaluate import Evaluation
from normstudy.model import DigitNet
from normstudy.tracking.checkpoint import Checkpoints


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
    STUDY_KEY = "normstudy.study_key"
    RECORD = "normstudy.record"
    MACHINE = "normstudy.machine"
    LAUNCHER = "normstudy.launcher"
    REPLACES = "normstudy.replaces"
    SUPERSEDED_BY = "normstudy.superseded_by"
    HEARTBEAT = "normstudy.heartbeat"
    HOST = "normstudy.host"
    VARIANT = "normstudy.variant"
    STUDY = "normstudy.study"
    SIDE_BY_SIDE = "normstudy.side_by_side"
    CORES = "normstudy.cores"
    PROCESSOR = "normstudy.processor"
    GIT_COMMIT = "normstudy.git_commit"
    GIT_DIRTY = "normstudy.git_dirty"
    DATA_DIGEST = "normstudy.data_digest"
    DEVICE = "normstudy.device"
    TORCH = "normstudy.version.torch"  # other libraries have such a tag, too
    STACK = "normstudy.stack"
    FAILURE = "normstudy.failure"
    FAILURE_STEP = "normstudy.failure_step"
    NOTE = "mlflow.note.content"
    NAME = "mlflow.runName"
    PARENT = "mlflow.parentRunId"
    TABLES = "mlflow.loggedArtifacts"


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


class Measure(StrEnum):
    """What a trained network is measured for beside its accuracy; each is a table among the run's artifacts."""

    WEIGHTS = "weights"
    STATISTICS = "statistics"
    SHIFT = "shift"
    CALIBRATION = "calibration"
    RELIABILITY = "reliability"

    @property
    def path(self) -> str:
        """Of the artifact."""
        return f"measures/{self}.json"


class TrainedModel(BaseModel):
    """A network whose weights are a file of its event, trained for `step` epochs."""

    norm: str
    network: str
    groups: int
    weights: str
    step: int
    name: str = "model"
    registered: str = ""  # the registered model that it becomes the newest version of
    description: str = ""  # as Markdown
    example: str = ""  # two images or more as hexadecimal digits, two for each pixel


@runtime_checkable  # lets the tests check the type of what is passed
class RunLog(Protocol):
    """What the training loop tells of one run."""

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None: ...
    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Opens runs; whoever opens one ends it, as FINISHED without an error, as KILLED or FAILED with one."""

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> RunLog | None:
        """None for a configuration that only trains beside others, and logs nothing."""

    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints: ...
