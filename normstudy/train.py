"""The main job: train one configuration, log it, end its run in a true state. Read top to bottom."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.data import Split, augment, batches, load_data, normalise
from normstudy.errors import ConfigError, Diverged, Interrupted
from normstudy.evaluate import evaluate
from normstudy.model import DigitNet, count_parameters, l1_norm, penalised_weights
from normstudy.tracking import Metric, Tracker

MEMORY_FORMAT = torch.channels_last  # 10 s an epoch against 15 on one CPU core: oneDNN's kernels for few channels
StopSignal = Callable[[], int | None]
Batches = Iterator[tuple[Float[Tensor, "b 1 28 28"], Int64[Tensor, " b"]]]


def train(config: TrainConfig, tracker: Tracker, *, stop_signal: StopSignal = lambda: None) -> DigitNet:
    """Train `config`, log each epoch and the last one's result to `tracker`, return the trained model.

    `stop_signal` is asked at each batch; a signal's number ends the run as KILLED.

    Raises `ConfigError` before a run exists, `Diverged` at a loss that is not finite, `Interrupted` at a signal.
    """
    device = pick_device(config.device)
    make_reproducible(config)
    model = build_model(config).to(device).to(memory_format=MEMORY_FORMAT)
    data = load_data(config, device)
    steps = len(data.train) // config.batch_size * config.epochs
    optimizer, schedule = build_optimizer(model, config, steps)
    stream = TrainingStream(data.train, config)

    with tracker.run(config, data, count_parameters(model), device) as run, progress_bar(config, steps) as bar:
        for epoch in range(1, config.epochs + 1):
            started, learning_rate = time.perf_counter(), float(schedule.get_last_lr()[0])
            metrics = train_epoch(model, optimizer, schedule, watched(stream.epoch(), bar, stop_signal), l1=config.l1)
            test = evaluate(model, data.test, MEMORY_FORMAT)
            metrics |= {Metric.TEST_LOSS: test.loss, Metric.TEST_ACCURACY: test.accuracy}
            if data.val is not None:
                val = evaluate(model, data.val, MEMORY_FORMAT)
                metrics |= {Metric.VAL_LOSS: val.loss, Metric.VAL_ACCURACY: val.accuracy}
            metrics |= {Metric.LEARNING_RATE: learning_rate, Metric.EPOCH_SECONDS: time.perf_counter() - started}
            require_finite(metrics, step=schedule.last_epoch)
            if epoch == config.epochs:
                run.model(model)  # before the epoch's metrics: MLflow links a model to metrics logged after it
            run.epoch(epoch, metrics)
            announce(bar, epoch, config.epochs, metrics)
        run.result(test, data.test)
    return model


def train_epoch(
    model: DigitNet, optimizer: SGD, schedule: OneCycleLR, stream: Batches, *, l1: float
) -> dict[Metric, float]:
    """One pass over the stream. Loss (cross-entropy alone), accuracy and penalty are means over its batches, as the
    model was at each batch, in train mode, augmented.

    Raises `Diverged` at the end of the pass, with the first step whose loss or penalty was not finite: asking at each
    step would make a GPU wait.
    """
    model.train()
    losses, penalties, hits = [], [], []
    images_seen = 0
    for images, labels in stream:
        logits = model(images)
        cross_entropy = functional.cross_entropy(logits, labels)
        penalty = l1 * l1_norm(model) if l1 else torch.zeros_like(cross_entropy)
        optimizer.zero_grad()
        (cross_entropy + penalty).backward()
        optimizer.step()
        schedule.step()
        losses.append(cross_entropy.detach())
        penalties.append(penalty.detach())
        hits.append((logits.detach().argmax(dim=1) == labels).sum())
        images_seen += len(labels)
    loss, penalty, correct = torch.stack(losses), torch.stack(penalties), torch.stack(hits)
    bad_steps = (~torch.isfinite(loss + penalty)).nonzero().flatten().tolist()
    if bad_steps:
        raise Diverged("the training loss", schedule.last_epoch - len(losses) + bad_steps[0] + 1)
    return {
        Metric.TRAIN_LOSS: loss.mean().item(),
        Metric.TRAIN_ACCURACY: correct.sum().item() / images_seen,
        Metric.TRAIN_PENALTY: penalty.mean().item(),
    }


class TrainingStream:
    """Shuffled, augmented, normalised batches, epoch after epoch; order and augmentation are decided by the seed."""

    def __init__(self, split: Split, config: TrainConfig) -> None:
        self.split, self.config = split, config
        self.order = torch.Generator().manual_seed(config.seed)  # on the CPU: the same order on every device
        self.draws = torch.Generator(split.labels.device).manual_seed(config.seed)

    def epoch(self) -> Batches:
        config = self.config
        for images, labels in batches(self.split, config.batch_size, self.order):
            moved = augment(
                normalise(images),
                self.draws,
                rotation=config.rotation,
                translation=config.translation,
                scale=config.scale,
            )
            yield moved.contiguous(memory_format=MEMORY_FORMAT), labels


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` takes CUDA, then MPS, then the CPU. Raises `ConfigError` for one not here."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [device for device, available in here.items() if available]
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise ConfigError(f"device={name}: not available on this machine; choose from auto, {', '.join(present)}")
    return torch.device(name)


def make_reproducible(config: TrainConfig) -> None:
    """Seed torch, pin its threads, and take cuDNN's deterministic kernels."""
    torch.set_num_threads(config.threads)  # 1 and 2 threads sum in another order: other last bits
    torch.manual_seed(config.seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def build_model(config: TrainConfig) -> DigitNet:
    """The configured network. Raises `ConfigError` where groups and channels don't fit."""
    try:
        return DigitNet(config.norm, groups=config.groups)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def build_optimizer(model: DigitNet, config: TrainConfig, steps: int) -> tuple[SGD, OneCycleLR]:
    """SGD with Nesterov momentum on a one-cycle schedule (Smith and Topin 2018, "Super-Convergence")."""
    decayed = penalised_weights(model)
    chosen = {id(weight) for weight in decayed}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    nesterov = config.momentum > 0
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True)
    # momentum stays as configured: cycling it too would make `momentum` a setting without effect
    schedule = OneCycleLR(
        optimizer, config.lr, total_steps=steps + 1, pct_start=config.warmup, cycle_momentum=False
    )  # one more than the steps: the schedule is advanced after each step, the last one too
    return optimizer, schedule


def require_finite(metrics: dict[Metric, float], *, step: int) -> None:
    """Raises `Diverged` naming the first metric that is not finite."""
    for name, value in metrics.items():
        if not torch.isfinite(torch.tensor(value)):
            raise Diverged(name, step)


def progress_bar(config: TrainConfig, steps: int) -> "tqdm[Any]":
    """A bar on a terminal; elsewhere it stays silent and `announce` prints a line an epoch."""
    return tqdm(total=steps, desc=config.variant, unit="step", disable=None)


def watched(stream: Batches, bar: "tqdm[Any]", stop_signal: StopSignal) -> Batches:
    """The same batches, counted on the bar. Raises `Interrupted` once a stop was asked for."""
    for batch in stream:
        if signal_number := stop_signal():
            raise Interrupted(signal_number)
        yield batch
        bar.update()


def announce(bar: "tqdm[Any]", epoch: int, epochs: int, metrics: dict[Metric, float]) -> None:
    """What an epoch came to: on the bar where there is one, else as a line."""
    accuracy, seconds = f"{100 * metrics[Metric.TEST_ACCURACY]:.2f} %", f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
    if bar.disable:
        loss = f"train loss {metrics[Metric.TRAIN_LOSS]:.4f}"
        print(f"epoch {epoch}/{epochs}  {loss}  test accuracy {accuracy}  {seconds}", flush=True)
    else:
        bar.set_postfix_str(f"epoch {epoch}/{epochs}, test accuracy {accuracy}")
