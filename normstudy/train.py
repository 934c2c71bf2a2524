"""The main job: train one configuration, log it, end its run in a true state. Read top to bottom."""

import ctypes
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.data import MEMORY_FORMAT, Batches, Data, TrainingStream, load_data
from normstudy.errors import ConfigError, Diverged, Interrupted, Superseded
from normstudy.evaluate import Evaluation, evaluate_stack
from normstudy.model import DigitNet, count_parameters, penalised_weights, stacked, unstacked
from normstudy.step import Step, build_optimizer, moving_average, training_step
from normstudy.tracking import Metric, RunLog, Tracker

StopCheck = Callable[[], int | None]  # the number of a signal that asked to stop, once one did


def train(config: TrainConfig, tracker: Tracker, *, stop_signal: StopCheck = lambda: None) -> DigitNet:
    """Train `config`, log each epoch and the last one's result to `tracker`, return the trained model, or with
    `ema_decay` the moving average of its weights, which is what is evaluated then.

    `stop_signal` is asked at each batch; a signal's number ends the run as KILLED.

    Raises `ConfigError` before a run exists, `Diverged` at a loss that is not finite, `Interrupted` at a signal.
    """
    return train_together([config], tracker, stop_signal=stop_signal)[0]


def train_together(
    configs: Sequence[TrainConfig], tracker: Tracker, *, stop_signal: StopCheck = lambda: None
) -> list[DigitNet]:
    """`train`, for configurations that differ in nothing but the seed, together as one stacked network.

    Each seed has its own initial weights, data order, augmentation and run, and diverges alone, or is taken over by
    another process: the others go on, and the first error is raised when they have ended. Raises `ConfigError` where
    more than the seed differs.
    """
    require_same_but_seed(configs)
    config, seeds = configs[0], [config.seed for config in configs]
    device = set_up_process(config)
    model = stacked([initial_model(config) for config in configs]).to(device)
    model.to(memory_format=MEMORY_FORMAT[device.type])
    data = load_data(config, device)
    steps = len(data.train) // config.batch_size * config.epochs
    optimizer, schedule = build_optimizer(model, config, steps)
    stream = TrainingStream(data.train, config, seeds)
    average = moving_average(model, config.ema_decay)
    result = cast(DigitNet, average.module) if average else model
    training = (nn.ModuleList([model, average]) if average else model, optimizer, schedule, stream.generators())
    stopped: list[Diverged | Superseded] = []

    with open_runs(configs, tracker, data, model, device) as runs, progress_bar(config, seeds, steps) as bar:
        checkpoints = tracker.checkpoints(configs)
        done = checkpoints.restore(training)
        announce_resumed(bar, done, config, steps)
        step = training_step(model, optimizer, config, average)
        for epoch in range(done + 1, config.epochs + 1):
            started, learning_rate = time.perf_counter(), float(schedule.get_last_lr()[0])
            model.train()
            outcomes = train_epoch(step, schedule, watched(stream.epoch(), bar, stop_signal))
            tests = evaluate_stack(result, data.test)
            vals = evaluate_stack(result, data.val) if data.val is not None else [None] * len(seeds)
            networks = unstacked(result) if epoch == config.epochs else []
            shared = {Metric.LEARNING_RATE: learning_rate, Metric.EPOCH_SECONDS: time.perf_counter() - started}
            for place, run in list(runs.items()):
                answers = outcomes[:, :, place], tests[place], vals[place]
                try:
                    metrics = compute_metrics(*answers, config.batch_size, schedule.last_epoch) | shared
                    if epoch < config.epochs:
                        run.epoch(epoch, metrics)
                    else:
                        run.finish(epoch, metrics, networks[place], tests[place], data.test)
                        runs.pop(place).end(None)  # it is whole: what stops the others costs it nothing
                except (Diverged, Superseded) as error:
                    stopped.append(error)
                    runs.pop(place).end(error)
                else:
                    announce(bar, config, epoch, seeds[place], metrics)
            if not runs:
                break
            checkpoints.save(epoch, training)
    checkpoints.delete()
    if stopped:
        raise stopped[0]
    return networks


def train_epoch(step: Step, schedule: OneCycleLR, stream: Batches) -> Float[Tensor, "steps 3 seeds"]:
    """One pass over the stream; what each step says, read by nobody yet: asking at a step would make a GPU wait."""
    outcomes = []
    for images, labels in stream:
        outcomes.append(step(images, labels))
        schedule.step()
    return torch.stack(outcomes)


@contextmanager
def open_runs(
    configs: Sequence[TrainConfig], tracker: Tracker, data: Data, model: DigitNet, device: torch.device
) -> Iterator[dict[int, RunLog]]:
    """The run of each configuration by its place; those still in the dictionary end with the error that ends the
    block."""
    runs: dict[int, RunLog] = {}
    parameters = count_parameters(model) // len(configs)
    try:
        for place, config in enumerate(configs):
            if run := tracker.start(config, data, parameters, device, stack=len(configs)):
                runs[place] = run
        yield runs
    except BaseException as error:
        for run in runs.values():
            run.end(error)
        raise


def compute_metrics(
    outcomes: Float[Tensor, "steps 3"], test: Evaluation, val: Evaluation | None, batch_size: int, last_step: int
) -> dict[Metric, float]:
    """An epoch's loss (cross-entropy alone), accuracy and penalty, means over its batches, in train mode, augmented;
    loss and accuracy on the test images and, where some are held out, on these.

    Raises `Diverged` with the first step whose loss or penalty was not finite, or, for another metric, the last.
    """
    loss, penalty, hits = outcomes.unbind(1)
    bad_steps = (~torch.isfinite(loss + penalty)).nonzero().flatten().tolist()
    if bad_steps:
        raise Diverged("the training loss", last_step - len(outcomes) + bad_steps[0] + 1)
    metrics = {
        Metric.TRAIN_LOSS: loss.mean().item(),
        Metric.TRAIN_ACCURACY: hits.sum().item() / (len(outcomes) * batch_size),
        Metric.TRAIN_PENALTY: penalty.mean().item(),
        Metric.TEST_LOSS: test.loss,
        Metric.TEST_ACCURACY: test.accuracy,
    }
    if val is not None:
        metrics |= {Metric.VAL_LOSS: val.loss, Metric.VAL_ACCURACY: val.accuracy}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(name, last_step)
    return metrics


def require_same_but_seed(configs: Sequence[TrainConfig]) -> None:
    """Raises `ConfigError` for configurations that can't train together."""
    if len({config.model_copy(update={"seed": 0}) for config in configs}) > 1:
        raise ConfigError("stack: trials that train together may differ in nothing but the seed")
    if len({config.seed for config in configs}) < len(configs):
        raise ConfigError("stack: two trials have the same seed")
    if len(configs) > 1 and configs[0].held_out_by == "seed":
        raise ConfigError("stack: trials with held_out_by seed train on different images, each alone")


def pick_device(name: str, kernels: str = "exact") -> torch.device:
    """The device of this name; `auto` takes CUDA, then MPS, then the CPU. Raises `ConfigError` for one not here, or
    without such kernels."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [device for device, available in here.items() if available]
    if name != "auto" and name not in present:
        raise ConfigError(f"device={name}: not available on this machine; choose from auto, {', '.join(present)}")
    device = torch.device(present[0] if name == "auto" else name)
    if kernels == "fast" and device.type != "cuda":
        raise ConfigError(f"kernels=fast: needs CUDA, and the device is {device.type}; choose exact")
    return device


def set_up_process(config: TrainConfig) -> torch.device:
    """Make this process train as the configuration says; its device. Raises `ConfigError` as `pick_device` does."""
    device = pick_device(config.device, config.kernels)
    make_reproducible(config)
    keep_freed_memory()
    return device


def make_reproducible(config: TrainConfig) -> None:
    """Seed torch, pin its threads, and take cuDNN's deterministic kernels in full float32, unless fast ones are asked
    for."""
    torch.set_num_threads(config.threads)  # 1 and 2 threads sum in another order, so results differ slightly
    torch.manual_seed(config.seed)
    fast = config.kernels == "fast"
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = not fast, fast
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = fast


def keep_freed_memory() -> None:
    """Let glibc keep the blocks that a step frees. It gives them back to the kernel, and the next step's page faults
    take up to a tenth of its time."""
    if platform.libc_ver()[0] == "glibc":
        libc, (trim_threshold, top_pad, mmap_threshold) = ctypes.CDLL(None), (-1, -2, -3)  # as in <malloc.h>
        for setting, size in ((mmap_threshold, 2**25), (trim_threshold, 2**30), (top_pad, 2**26)):
            libc.mallopt(setting, size)


def initial_model(config: TrainConfig) -> DigitNet:
    """The network as its seed begins it, whatever was drawn before."""
    torch.manual_seed(config.seed)
    model = build_model(config)
    if config.init == "he":  # He et al. 2015, "Delving Deep into Rectifiers", section 2.2
        for weight in penalised_weights(model)[:-1]:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    return model


def build_model(config: TrainConfig) -> DigitNet:
    """The configured network. Raises `ConfigError` where groups and channels don't fit."""
    try:
        return DigitNet(config.norm, network=config.network, groups=config.groups, ghost=config.ghost_batch_size)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def progress_bar(config: TrainConfig, seeds: list[int], steps: int) -> "tqdm[Any]":
    """A bar on a terminal; elsewhere it stays silent and `announce` prints a line an epoch and run."""
    name = config.variant if len(seeds) == 1 else f"{config.variant}, {len(seeds)} seeds"
    return tqdm(total=steps, desc=name, unit="step", disable=None)


def watched(stream: Batches, bar: "tqdm[Any]", stop_signal: StopCheck) -> Batches:
    """The same batches, counted on the bar. Raises `Interrupted` once a stop was asked for."""
    for batch in stream:
        if signal_number := stop_signal():
            raise Interrupted(signal_number)
        yield batch
        bar.update()


def announce_resumed(bar: "tqdm[Any]", done: int, config: TrainConfig, steps: int) -> None:
    """Where a trial goes on, if it was interrupted after `done` epochs."""
    bar.update(steps // config.epochs * done)
    if done and bar.disable:
        print(f"epoch {done}/{config.epochs}  resumed after it", flush=True)


def announce(bar: "tqdm[Any]", config: TrainConfig, epoch: int, seed: int, metrics: dict[Metric, float]) -> None:
    """What an epoch came to: on the bar where there is one, else as a line."""
    accuracy, seconds = f"{100 * metrics[Metric.TEST_ACCURACY]:.2f} %", f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
    if bar.disable:
        loss = f"train loss {metrics[Metric.TRAIN_LOSS]:.4f}"
        print(f"epoch {epoch}/{config.epochs}  seed {seed}  {loss}  test accuracy {accuracy}  {seconds}", flush=True)
    else:
        bar.set_postfix_str(f"epoch {epoch}/{config.epochs}, test accuracy {accuracy}")
