"""What the training loop tells of a run, and the names under which a run keeps it. Imports no MLflow."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import BaseModel

from normstudy.config import TrainConfig

if TYPE_CHECKING:  # torch takes 2 s to import, and a report needs none of it
    import torch

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


SYSTEM = "system/"  # of the metrics of MLflow's own monitor


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
    GIT_COMMIT = "mlflow.source.git.commit"
    GIT_DIRTY = "mlflow.source.git.dirty"
    DATA_DIGEST = "normstudy.data_digest"
    DEVICE = "normstudy.device"
    TORCH = "normstudy.version.torch"  # other libraries have such a tag, too
    PROCESS = "normstudy.process"
    STACK = "normstudy.stack"
    FAILURE = "normstudy.failure"
    FAILURE_STEP = "normstudy.failure_step"
    NOTE = "mlflow.note.content"
    NAME = "mlflow.runName"
    PARENT = "mlflow.parentRunId"
    TABLES = "mlflow.loggedArtifacts"
    IMAGES = "mlflow.loggedImages"
    COLOR = "mlflow.runColor"


# What only programs ask for is one tag of a run, `Tag.PROCESS`, as JSON. Tags of their own are those that the server
# searches by (keys, record), and those that others than the one sending thread write: the heartbeat, by a thread of its
# own, and `SUPERSEDED_BY`, by the process that takes a run over. In one tag, one writer would undo the other's.
VERSION = "normstudy.version."
PROCESS = frozenset(
    [Tag.MACHINE, Tag.HOST, Tag.LAUNCHER, Tag.REPLACES, Tag.SIDE_BY_SIDE, Tag.STACK, Tag.CORES, Tag.PROCESSOR]
)
PREFIX = "normstudy."
BEFORE = {Tag.GIT_COMMIT: "normstudy.git_commit", Tag.GIT_DIRTY: "normstudy.git_dirty"}  # of runs until 0.6


def is_of_process(tag: str) -> bool:
    """Whether a run keeps it in `Tag.PROCESS`."""
    return tag in PROCESS or tag.startswith(VERSION)


def packed_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as a run keeps them."""
    process = {name.removeprefix(PREFIX): value for name, value in tags.items() if is_of_process(name)}
    own = {str(name): value for name, value in tags.items() if not is_of_process(name)}
    return {**own, str(Tag.PROCESS): json.dumps(process, sort_keys=True)} if process else own


def unpacked_tags(kept: Mapping[str, str]) -> dict[str, str]:
    """Each tag by its own name, of a run of any version of normstudy; what is no such JSON is left out."""
    try:
        found = json.loads(kept.get(Tag.PROCESS, "{}"))
    except (ValueError, RecursionError):
        found = {}
    process = {f"{PREFIX}{name}": text for name, text in found.items()} if isinstance(found, dict) else {}
    before = {str(tag): kept[old] for tag, old in BEFORE.items() if old in kept}
    return {**kept, **before, **{n: text for n, text in process.items() if is_of_process(n) and isinstance(text, str)}}


class Artifact(StrEnum):
    """Paths of a run's artifacts."""

    CONFIG = "config.json"
    STUDY = "study.json"
    WEIGHTS = "weights/model.safetensors"
    MISCLASSIFIED = "misclassified/table.json"
    BY_LOSS = "misclassified/by_loss.json"
    THUMBNAILS = "misclassified/thumbnails"
    GRID = "misclassified/grid.png"
    TEN = "misclassified/images"
    CONFUSION = "confusion_matrix.json"
    CONFUSION_FIGURE = "confusion_matrix.png"
    GROUPS = "summary/groups.json"
    TRIALS = "summary/trials.json"


class Measure(StrEnum):
    """What a trained network is measured for beside its accuracy; each is a table among the run's artifacts."""

    WEIGHTS = "weights"
    STATISTICS = "statistics"
    SHIFT = "shift"
    MNIST_C = "mnist_c"
    CALIBRATION = "calibration"
    RELIABILITY = "reliability"
    TRAINING = "training"
    CROSSFIT = "crossfit"

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
        self, epoch: int, metrics: Mapping[Metric, float], model: "DigitNet", test: "Evaluation", split: "Split"
    ) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Opens runs; whoever opens one ends it, as FINISHED without an error, as KILLED or FAILED with one."""

    def start(
        self, config: TrainConfig, data: "Data", parameters: int, device: "torch.device", *, stack: int
    ) -> RunLog | None:
        """None for a configuration that only trains beside others, and logs nothing."""

    def checkpoints(self, configs: Sequence[TrainConfig]) -> "Checkpoints": ...
