"""A tracker that keeps everything in lists, for tests of the training loop alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from normstudy.config import TrainConfig
from normstudy.data import Data, Split
from normstudy.evaluate import Evaluation
from normstudy.model import DigitNet
from normstudy.tracking import Metric


class MemoryTracker:
    def __init__(self) -> None:
        self.epochs: list[dict[Metric, float]] = []
        self.steps: list[int] = []
        self.parameters = 0
        self.evaluation: Evaluation | None = None
        self.ended_by: BaseException | None = None

    @contextmanager
    def run(self, config: TrainConfig, data: Data, parameters: int, device: torch.device) -> Iterator["MemoryTracker"]:
        self.parameters = parameters
        try:
            yield self
        except BaseException as error:
            self.ended_by = error
            raise

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None:
        self.steps.append(epoch)
        self.epochs.append(dict(metrics))

    def model(self, model: DigitNet) -> None:
        pass

    def result(self, test: Evaluation, split: Split) -> None:
        self.evaluation = test
