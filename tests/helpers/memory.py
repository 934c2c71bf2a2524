"""A tracker that keeps everything in lists, for tests of the training loop alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from normstudy.config import TrainConfig
from normstudy.data import Data, Split
from normstudy.evaluate import Evaluation
from normstudy.model import DigitNet
from normstudy.tracking import Metric
from normstudy.tracking.checkpoint import Checkpoints, Training


class MemoryRun:
    def __init__(self, config: TrainConfig, parameters: int) -> None:
        self.config, self.parameters = config, parameters
        self.epochs: list[dict[Metric, float]] = []
        self.steps: list[int] = []
        self.evaluation: Evaluation | None = None
        self.model: DigitNet | None = None
        self.ended_by: list[BaseException | None] = []

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None:
        self.steps.append(epoch)
        self.epochs.append(dict(metrics))

    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None:
        self.epoch(epoch, metrics)
        self.model, self.evaluation = model, test

    def end(self, error: BaseException | None) -> None:
        self.ended_by.append(error)


class NoCheckpoints(Checkpoints):
    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), "")

    def save(self, epoch: int, training: Training) -> None:
        pass


class MemoryTracker:
    """`runs`, in the order of their start; checkpoints in a folder, if one is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.runs: list[MemoryRun] = []
        self.folder = folder

    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints:
        key = "+".join(config.trial_key for config in configs)
        return Checkpoints(self.folder, key) if self.folder else NoCheckpoints()

    def start(self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int) -> MemoryRun:
        self.runs.append(MemoryRun(config, parameters))
        return self.runs[-1]
