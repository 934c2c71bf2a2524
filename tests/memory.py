"""A tracker that keeps everything in lists, for tests of the training loop alone."""

from collections.abc import Mapping

import torch

from normstudy.config import TrainConfig
from normstudy.data import Data, Split
from normstudy.evaluate import Evaluation
from normstudy.model import DigitNet
from normstudy.tracking import Metric


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


class MemoryTracker:
    """`runs`, in the order of their start."""

    def __init__(self) -> None:
        self.runs: list[MemoryRun] = []

    def start(self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int) -> MemoryRun:
        self.runs.append(MemoryRun(config, parameters))
        return self.runs[-1]
