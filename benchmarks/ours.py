"""Every name of `normstudy` that the benchmarks measure or time; one that is gone stops the benchmark.

The package changes; a benchmark that measures nothing must not pass for one that did.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional
from torch.optim import SGD

from normstudy import data, evaluate
from normstudy import train as training
from normstudy.config import TrainConfig
from normstudy.data import Split
from normstudy.errors import Interrupted
from normstudy.launch import registry
from normstudy.launch import study as launch
from normstudy.model import DigitNet
from normstudy.tracking import checkpoint, uploader
from normstudy.tracking import run as trial_log

SHARES = (  # name of the share, and the function whose time it is, less that of those below it that it calls
    ("asking for the run", launch, "open_registry"),
    ("asking for the run", registry.Registry, "begin"),
    ("data loading", training, "load_data"),
    ("opening the record", trial_log.LogTracker, "start"),
    ("training steps", training, "train_epoch"),
    ("augmentation", data, "affine_maps"),
    ("augmentation", data, "resample"),
    ("evaluation", training, "evaluate_stack"),
    ("record of epochs", trial_log.TrialRun, "epoch"),
    ("checkpoints", checkpoint.Checkpoints, "save"),
    ("record of the result", trial_log.TrialRun, "finish"),
    ("sending the rest", uploader.Uploader, "__exit__"),
)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put `around(function, *arguments, **keywords)` in the place of the function `owner.name`.

    Raises `AttributeError` when there is no such function.
    """
    function = getattr(owner, name, None)
    if not callable(function):
        raise AttributeError(f"{getattr(owner, '__name__', owner)} has no function {name!r} to measure")

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        return around(function, *arguments, **keywords)

    setattr(owner, name, wrapped)


def model_and_optimizer(config: TrainConfig, steps: int) -> tuple[DigitNet, SGD]:
    """As `normstudy.train` makes them, in a process with the same settings."""
    training.make_reproducible(config)
    training.keep_freed_memory()
    model = training.build_model(config).to(memory_format=data.MEMORY_FORMAT)
    return model, training.build_optimizer(model, config, steps)[0]


def step_on_one_batch(config: TrainConfig) -> Callable[[], object]:
    """A function that takes one training step, as `normstudy.train` does, always on the same batch."""
    _, step = bare_and_our_step(config)
    images = in_our_format(torch.randn(config.batch_size, 1, 28, 28))
    labels = torch.randint(10, (config.batch_size, 1))
    return lambda: step(images, labels)


def bare_and_our_step(config: TrainConfig) -> tuple[Callable[..., object], Callable[..., object]]:
    """Two functions of a batch that step the same model: the bare one, and the one of `normstudy.train`."""
    model, optimizer = model_and_optimizer(config, steps=1)
    model.train()

    def bare(images: torch.Tensor, labels: torch.Tensor) -> None:
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return bare, training.training_step(model, optimizer, config)


def in_our_format(images: torch.Tensor) -> torch.Tensor:
    """The images in the memory format that `normstudy.train` uses."""
    return images.contiguous(memory_format=data.MEMORY_FORMAT)


def run_until_stopped(config: TrainConfig, stop_signal: Callable[[], int | None]) -> None:
    """Train into the MLflow store of the environment until the signal comes."""
    try:
        launch.single(config, stop_signal=stop_signal)
    except Interrupted:
        return
    raise AssertionError("the run ended before it was stopped")


def training_batches(split: Split, config: TrainConfig) -> Iterator[Any]:
    """The shuffled, augmented, normalised batches of one epoch."""
    return data.TrainingStream(split, config, [config.seed]).epoch()


def evaluate_once(config: TrainConfig, split: Split) -> Callable[[], object]:
    """A function that evaluates a fresh model on the split."""
    model = training.build_model(config).to(memory_format=data.MEMORY_FORMAT)
    return lambda: evaluate.evaluate(model, split)


def time_epochs(around_training: Callable[..., Any], around_logging: Callable[..., Any]) -> None:
    """From now on, the first stands around each epoch's steps, the second around each epoch's logging: see `wrap`."""
    wrap(training, "train_epoch", around_training)
    wrap(trial_log.TrialRun, "epoch", around_logging)
