"""Our epoch: `normstudy.train` as shipped, into the MLflow store of the environment, and what its parts cost.

The epoch is the last of `--epochs`, from the end of one epoch's logging to the end of the next, so that training,
augmentation, evaluation and tracking are in it. The run is configured for one epoch more and stopped when that begins:
a run's last epoch also logs the model, which is no part of an epoch.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from statistics import mean
from typing import Annotated, Any

import torch
import typer

from benchmarks.measurement import BATCH_SIZE, STILL, print_result, seconds_of, startup_seconds
from benchmarks.ours import evaluate_once, run_until_stopped, time_epochs, training_batches
from normstudy.config import TRAIN_IMAGES, TrainConfig
from normstudy.data import load_data


class Clock:
    """Notes when the first epoch begins, and when each epoch's logging begins and ends."""

    def __init__(self) -> None:
        self.startup = 0.0
        self.ends: list[float] = []
        self.logging_seconds: list[float] = []

    def training(self, train_epoch: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        self.startup = self.startup or startup_seconds()
        return train_epoch(*arguments, **keywords)

    def logging(self, log_epoch: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        begin = time.perf_counter()
        log_epoch(*arguments, **keywords)
        self.ends.append(time.perf_counter())
        self.logging_seconds.append(self.ends[-1] - begin)

    def stop_after(self, epochs: int) -> int | None:
        """The stop signal, once so many epochs are logged."""
        return signal.SIGTERM if len(self.ends) >= epochs else None


def main(
    norm: str = "gn",
    threads: int = 1,
    images: int = TRAIN_IMAGES,
    epochs: Annotated[int, typer.Option(min=2, help="the last is measured")] = 2,
) -> None:
    """Time an epoch, then apart from it the augmentation, the evaluation and the tracking of one."""
    train_size = images % TRAIN_IMAGES  # 0 stands for all
    config = TrainConfig(
        norm=norm, threads=threads, train_size=train_size, epochs=epochs + 1, batch_size=BATCH_SIZE, device="cpu"
    )
    clock = Clock()
    time_epochs(clock.training, clock.logging)
    run_until_stopped(config, lambda: clock.stop_after(epochs))
    data = load_data(config, torch.device("cpu"))
    plain = config.model_copy(update=STILL)
    evaluation = evaluate_once(config, data.test)
    evaluation()  # warms up
    augmented, unaugmented = (pass_seconds(training_batches(data.train, each)) for each in (config, plain))
    print_result(
        epoch_seconds=clock.ends[-1] - clock.ends[-2],
        startup_seconds=clock.startup,
        augmentation_seconds=augmented - unaugmented,
        evaluation_seconds=seconds_of(evaluation),
        tracking_seconds=mean(clock.logging_seconds),
    )


def pass_seconds(batches: Iterable[Any]) -> float:
    """Wall time of making all batches, each thrown away."""
    return seconds_of(lambda: deque(batches, maxlen=0))


if __name__ == "__main__":
    typer.run(main)
