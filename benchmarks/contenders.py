"""What is compared: our epoch, the bare limit and the usual loop. Lightning's is in lightning_loop.py.

A contender is a function of a configuration that prepares a training and returns its epoch: a function that trains on
`train_size` images, evaluates the same share of the test images, and returns the mean training loss.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from normstudy.config import TRAIN_IMAGES, TrainConfig
from normstudy.data import MEAN, MEMORY_FORMAT, STANDARD_DEVIATION, Batches, Data, Split, TrainingStream, load_data
from normstudy.errors import Interrupted
from normstudy.evaluate import Evaluation, evaluate_stack
from normstudy.files import archives, unpacked
from normstudy.model import DigitNet, l1_norms
from normstudy.step import build_optimizer, training_step
from normstudy.tracking import Metric
from normstudy.tracking.checkpoint import Checkpoints, Training
from normstudy.train import initial_model, keep_freed_memory, make_reproducible, pick_device, train, train_epoch

OURS, BARE, LIGHTNING = "normstudy", "bare limit", "Lightning"
USUAL, USUAL_WORKERS, LIGHTNING_WORKERS = "usual loop", "usual loop, 2 workers", "Lightning, 2 workers"
TEST_IMAGES, EVALUATION_BATCH = 10_000, 1_000
CPU = torch.device("cpu")
Epoch = Callable[[], dict[str, float]]


def take_turn(name: str, config: TrainConfig) -> dict[str, float]:
    """One epoch of a contender, in the process that this is called in; the next turn trains the same network on.

    `seconds`, `loss` (mean over the steps), and of ours the seconds of each part.
    """
    epoch = prepared(name, config)
    torch.set_num_threads(config.threads)
    begin = time.perf_counter()
    result = epoch()
    return {"seconds": time.perf_counter() - begin, **result}


@cache
def prepared(name: str, config: TrainConfig) -> Epoch:
    """The epoch of a contender, ready to run."""
    make_reproducible(config)
    return contenders()[name](config)


def contenders() -> dict[str, Callable[[TrainConfig], Epoch]]:
    """All that can run here, by name, in the order of the page."""
    found: dict[str, Callable[[TrainConfig], Epoch]] = {BARE: bare_limit, OURS: ours}
    found |= {USUAL: usual_loop, USUAL_WORKERS: partial(usual_loop, workers=2)}
    if find_spec("lightning"):
        from benchmarks.lightning_loop import lightning_loop

        found |= {LIGHTNING: lightning_loop, LIGHTNING_WORKERS: partial(lightning_loop, workers=2)}
    return found


def ours(config: TrainConfig) -> Epoch:
    """The epoch of `normstudy.train`, with a clock on its parts."""
    keep_freed_memory()
    model, data = initial_model(config).to(memory_format=MEMORY_FORMAT["cpu"]), load_data(config, CPU)
    optimizer, schedule = build_optimizer(model, config, total_steps(config))
    stream, step = TrainingStream(data.train, config, [config.seed]), training_step(model, optimizer, config)
    test = data.test.take(torch.arange(test_images(config)))
    parts = Parts(model, optimizer)

    def epoch() -> dict[str, float]:
        parts.restart()
        model.train()
        outcomes = train_epoch(step, schedule, parts.of_batches(stream.epoch()))
        loss = outcomes[:, 0].mean().item()
        parts.lap("rest")
        evaluate_stack(model, test)
        parts.lap("evaluation")
        return {"loss": loss, **parts.seconds}

    return epoch


class Parts:
    """The seconds of an epoch by part, told apart where a batch is made and by hooks of the model and the optimiser."""

    def __init__(self, model: DigitNet, optimizer: Optimizer) -> None:
        self.restart()
        model.register_forward_hook(lambda model, *_: self.lap("forward") if model.training else None)
        optimizer.register_step_pre_hook(lambda *_: self.lap("loss and backward"))
        optimizer.register_step_post_hook(lambda *_: self.lap("optimiser"))

    def restart(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """The time since the last call was this part's."""
        now = time.perf_counter()
        self.seconds[part] += now - self.last  # type: ignore[assignment]  # a Counter of seconds
        self.last = now

    def of_batches(self, batches: Batches) -> Batches:
        """The same batches: making them is a part, what follows a step is the rest."""
        for batch in batches:
            self.lap("batches, augmented")
            yield batch
            self.lap("rest")


def bare_limit(config: TrainConfig) -> Epoch:
    """The step alone, on batches that were prepared before: no data to load, nothing kept, no evaluation."""
    keep_freed_memory()
    model = initial_model(config).to(memory_format=MEMORY_FORMAT["cpu"])
    optimizer, schedule = build_optimizer(model, config, total_steps(config))
    batches = list(TrainingStream(load_data(config, CPU).train, config, [config.seed]).epoch())

    def epoch() -> dict[str, float]:
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = objective(model, model(images), labels[:, 0], config)
            loss.backward()
            optimizer.step()
            schedule.step()
        return {"loss": loss.item()}

    return epoch


def usual_loop(config: TrainConfig, workers: int = 0) -> Epoch:
    """torchvision's dataset and transforms, a DataLoader, and a training loop as in most tutorials."""
    device = pick_device(config.device)
    model = initial_model(config).to(device)
    optimizer, schedule = build_optimizer(model, config, total_steps(config))
    training, test = usual_loaders(config, workers)

    def epoch() -> dict[str, float]:
        model.train()
        running = 0.0
        for images, labels in training:
            optimizer.zero_grad()
            logits = model(images.to(device))
            loss = objective(model, logits, labels.to(device), config)
            loss.backward()
            optimizer.step()
            schedule.step()
            running += loss.item()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in test:
                correct += (model(images.to(device)).argmax(dim=1) == labels.to(device)).sum().item()
        return {"loss": running / len(training)}

    return epoch


def objective(model: DigitNet, logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """What every contender minimises: mean cross-entropy, and the L1 penalty where there is one."""
    loss = functional.cross_entropy(logits, labels)
    return loss + config.l1 * l1_norms(model).sum() if config.l1 else loss


def usual_loaders(config: TrainConfig, workers: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """MNIST the usual way, with our augmentation: training images, shuffled, and test images.

    Worker processes stay from epoch to epoch, so that a short epoch doesn't pay for their start.
    """
    to_tensor = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STANDARD_DEVIATION,))]
    shift = config.translation / 28
    moved = transforms.RandomAffine(
        config.rotation,
        translate=(shift, shift),
        scale=(1 - config.scale, 1 + config.scale),
        interpolation=transforms.InterpolationMode.BILINEAR,
    )
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, content in unpacked("mnist", archives("mnist")):
            (raw / name).write_bytes(content)
        train: Dataset[Any] = datasets.MNIST(root, transform=transforms.Compose([moved, *to_tensor]))
        test: Dataset[Any] = datasets.MNIST(root, train=False, transform=transforms.Compose(to_tensor))
    train, test = Subset(train, range(config.training_images)), Subset(test, range(test_images(config)))
    options: dict[str, Any] = {"num_workers": workers}
    if workers:
        options |= {"persistent_workers": True, "multiprocessing_context": "fork"}  # Linux's default
    return (
        DataLoader(train, batch_size=config.batch_size, shuffle=True, drop_last=True, **options),
        DataLoader(test, batch_size=EVALUATION_BATCH, **options),
    )


def total_steps(config: TrainConfig) -> int:
    """Of the learning rate's schedule."""
    return config.training_images // config.batch_size * config.epochs


def test_images(config: TrainConfig) -> int:
    """As large a share of the test images as `train_size` is of the training images."""
    return round(TEST_IMAGES * config.training_images / TRAIN_IMAGES)


def shipped_epoch(config: TrainConfig, *, tracked: bool) -> float:
    """Seconds of the first epoch of `normstudy.train` as it is shipped, from its first batch to the next epoch's.

    Tracked, the run goes to the MLflow store of the environment, as by `python -m normstudy train`. It is stopped after
    the epoch: the last one would also log the model.
    """
    clock = EpochClock(config)
    with suppress(Interrupted):
        if tracked:
            from normstudy.launch.study import single

            single(config, stop_signal=clock)
        else:
            train(config, NoTracker(), stop_signal=clock)
    begin, end = clock.begins
    return end - begin


class EpochClock:
    """A stop signal, asked at each batch, that notes when an epoch begins and stops at the second one's first batch."""

    def __init__(self, config: TrainConfig) -> None:
        self.steps, self.batches = config.training_images // config.batch_size, 0
        self.begins: list[float] = []

    def __call__(self) -> int | None:
        if self.batches % self.steps == 0:
            self.begins.append(time.perf_counter())
        self.batches += 1
        return SIGTERM if len(self.begins) == 2 else None


class NoTracker:
    """Keeps nothing: it is the tracker, the log of each run, and the checkpoints."""

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> "NoTracker":
        return self

    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints:
        return NoCheckpoints(Path("nowhere"), "")

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None: ...
    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


class NoCheckpoints(Checkpoints):
    """None is written, so there is none to go on from."""

    def save(self, epoch: int, training: Training) -> None: ...
