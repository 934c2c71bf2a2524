"""The main job: train one configuration, log it, end its run in a true state. Read top to bottom."""

import ctypes
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.data import Batches, Data, TrainingStream, load_data
from normstudy.errors import ConfigError, Diverged, Interrupted
from normstudy.evaluate import evaluate_stack
from normstudy.model import CLASSES, DigitNet, count_parameters, l1_norms, penalised_weights, stacked, unstacked
from normstudy.tracking import Metric
from normstudy.trial_log import RunLog, Tracker

MEMORY_FORMAT = torch.channels_last  # 7 s an epoch against 10 on one CPU core: oneDNN's kernels for few channels
StopSignal = Callable[[], int | None]
Step = Callable[[Float[Tensor, "b seeds 28 28"], Int64[Tensor, "b seeds"]], Float[Tensor, "3 seeds"]]


def train(config: TrainConfig, tracker: Tracker, *, stop_signal: StopSignal = lambda: None) -> DigitNet:
    """Train `config`, log each epoch and the last one's result to `tracker`, return the trained model.

    `stop_signal` is asked at each batch; a signal's number ends the run as KILLED.

    Raises `ConfigError` before a run exists, `Diverged` at a loss that is not finite, `Interrupted` at a signal.
    """
    return train_together([config], tracker, stop_signal=stop_signal)[0]


def train_together(
    configs: Sequence[TrainConfig], tracker: Tracker, *, stop_signal: StopSignal = lambda: None
) -> list[DigitNet]:
    """`train`, for configurations that differ in nothing but the seed, in lock-step as one stacked network.

    Each seed has its own initial weights, data order, augmentation and run, and diverges alone: the others go on, and
    the first `Diverged` is raised when they have ended. Raises `ConfigError` where more than the seed differs.
    """
    config, seeds = configs[0], [config.seed for config in configs]
    require_same_but_seed(configs)
    device = pick_device(config.device)
    make_reproducible(config)
    keep_freed_memory()
    model = stacked([initial_model(config) for config in configs]).to(device).to(memory_format=MEMORY_FORMAT)
    data = load_data(config, device)
    steps = len(data.train) // config.batch_size * config.epochs
    optimizer, schedule = build_optimizer(model, config, steps)
    step = training_step(model, optimizer, config)
    stream = TrainingStream(data.train, config, seeds, MEMORY_FORMAT)
    diverged: list[Diverged] = []

    with open_runs(configs, tracker, data, model, device) as runs, progress_bar(config, seeds, steps) as bar:
        for epoch in range(1, config.epochs + 1):
            started, learning_rate = time.perf_counter(), float(schedule.get_last_lr()[0])
            model.train()
            outcomes = train_epoch(step, schedule, watched(stream.epoch(), bar, stop_signal))
            tests = evaluate_stack(model, data.test, MEMORY_FORMAT, stack=len(seeds))
            vals = evaluate_stack(model, data.val, MEMORY_FORMAT, stack=len(seeds)) if data.val is not None else None
            networks = unstacked(model) if epoch == config.epochs else []
            shared = {Metric.LEARNING_RATE: learning_rate, Metric.EPOCH_SECONDS: time.perf_counter() - started}
            for place, run in list(runs.items()):
                try:
                    metrics = training_metrics(outcomes[:, :, place], config, schedule.last_epoch)
                    metrics |= {Metric.TEST_LOSS: tests[place].loss, Metric.TEST_ACCURACY: tests[place].accuracy}
                    if vals is not None:
                        metrics |= {Metric.VAL_LOSS: vals[place].loss, Metric.VAL_ACCURACY: vals[place].accuracy}
                    require_finite(metrics, step=schedule.last_epoch)
                except Diverged as error:
                    diverged.append(error)
                    runs.pop(place).end(error)
                    continue
                if epoch < config.epochs:
                    run.epoch(epoch, metrics | shared)
                else:
                    run.finish(epoch, metrics | shared, networks[place], tests[place], data.test)
                announce(bar, config, epoch, seeds[place], metrics | shared)
            if not runs:
                break
    if diverged:
        raise diverged[0]
    return networks


def train_epoch(step: Step, schedule: OneCycleLR, stream: Batches) -> Float[Tensor, "steps 3 seeds"]:
    """One pass over the stream; what each step says, read by nobody yet: asking at a step would make a GPU wait."""
    outcomes = []
    for images, labels in stream:
        outcomes.append(step(images, labels))
        schedule.step()
    return torch.stack(outcomes)


def training_step(model: DigitNet, optimizer: SGD, config: TrainConfig) -> Step:
    """A function that takes one step for each network of the stack, on its own batch.

    It answers, for each: cross-entropy, mean over the batch, as the model was before the step; penalty; right answers.
    """

    def step(images: Float[Tensor, "b seeds 28 28"], labels: Int64[Tensor, "b seeds"]) -> Float[Tensor, "3 seeds"]:
        logits = model(images).view(*labels.shape, CLASSES)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        cross_entropy = losses.view_as(labels).mean(0)
        penalty = config.l1 * l1_norms(model, stack=model.stack) if config.l1 else torch.zeros_like(cross_entropy)
        optimizer.zero_grad()
        # no network's loss depends on another's weights: the gradient of the sum is each one's own
        (cross_entropy + penalty).sum().backward()
        optimizer.step()
        hits = (logits.argmax(dim=2) == labels).sum(0)
        return torch.stack([cross_entropy, penalty, hits]).detach()

    if not next(model.parameters()).is_cuda:
        return step
    return captured(step, model, optimizer, (config.batch_size, model.stack))


def captured(step: Step, model: DigitNet, optimizer: SGD, shape: tuple[int, int]) -> Step:
    """The step as one CUDA graph: a replay is one launch instead of over a hundred, which cost more than the work.

    Capturing needs some real steps first; their effect on weights, statistics and momentum is undone.
    """
    device = next(model.parameters()).device
    images = torch.zeros(*shape, 28, 28, device=device).to(memory_format=MEMORY_FORMAT)
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = step(images, labels)
    model.load_state_dict(before)
    for state in optimizer.state.values():
        if (momentum := state.get("momentum_buffer")) is not None:
            momentum.zero_()  # the first step then leaves the gradient itself there, as a fresh optimiser does

    def replay(new_images: Tensor, new_labels: Tensor) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return outcome.clone()

    return replay


@contextmanager
def open_runs(
    configs: Sequence[TrainConfig], tracker: Tracker, data: Data, model: DigitNet, device: torch.device
) -> Iterator[dict[int, RunLog]]:
    """The run of each configuration by its place; those still in the dictionary end as the block ends."""
    runs: dict[int, RunLog] = {}
    parameters = count_parameters(model) // len(configs)
    try:
        for place, config in enumerate(configs):
            runs[place] = tracker.start(config, data, parameters, device, stack=len(configs))
        yield runs
    except BaseException as error:
        for run in runs.values():
            run.end(error)
        raise
    for run in runs.values():
        run.end(None)


def training_metrics(outcomes: Float[Tensor, "steps 3"], config: TrainConfig, last_step: int) -> dict[Metric, float]:
    """An epoch's loss (cross-entropy alone), accuracy and penalty: means over its batches, in train mode, augmented.

    Raises `Diverged` with the first step whose loss or penalty was not finite.
    """
    loss, penalty, hits = outcomes.unbind(1)
    bad_steps = (~torch.isfinite(loss + penalty)).nonzero().flatten().tolist()
    if bad_steps:
        raise Diverged("the training loss", last_step - len(outcomes) + bad_steps[0] + 1)
    return {
        Metric.TRAIN_LOSS: loss.mean().item(),
        Metric.TRAIN_ACCURACY: hits.sum().item() / (len(outcomes) * config.batch_size),
        Metric.TRAIN_PENALTY: penalty.mean().item(),
    }


def require_same_but_seed(configs: Sequence[TrainConfig]) -> None:
    """Raises `ConfigError` for configurations that can't train in lock-step."""
    if len({config.model_copy(update={"seed": 0}) for config in configs}) > 1:
        raise ConfigError("stack: trials in lock-step may differ in nothing but the seed")
    if len({config.seed for config in configs}) < len(configs):
        raise ConfigError("stack: two trials have the same seed")


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
    return build_model(config)


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
    if decayed[0].is_cuda:  # a CUDA graph reads the learning rate where it lies; a number would be captured for good
        groups = [{**group, "lr": torch.tensor(config.lr, device=decayed[0].device)} for group in groups]
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


def progress_bar(config: TrainConfig, seeds: list[int], steps: int) -> "tqdm[Any]":
    """A bar on a terminal; elsewhere it stays silent and `announce` prints a line an epoch and run."""
    name = config.variant if len(seeds) == 1 else f"{config.variant}, {len(seeds)} seeds"
    return tqdm(total=steps, desc=name, unit="step", disable=None)


def watched(stream: Batches, bar: "tqdm[Any]", stop_signal: StopSignal) -> Batches:
    """The same batches, counted on the bar. Raises `Interrupted` once a stop was asked for."""
    for batch in stream:
        if signal_number := stop_signal():
            raise Interrupted(signal_number)
        yield batch
        bar.update()


def announce(bar: "tqdm[Any]", config: TrainConfig, epoch: int, seed: int, metrics: dict[Metric, float]) -> None:
    """What an epoch came to: on the bar where there is one, else as a line."""
    accuracy, seconds = f"{100 * metrics[Metric.TEST_ACCURACY]:.2f} %", f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
    if bar.disable:
        loss = f"train loss {metrics[Metric.TRAIN_LOSS]:.4f}"
        print(f"epoch {epoch}/{config.epochs}  seed {seed}  {loss}  test accuracy {accuracy}  {seconds}", flush=True)
    else:
        bar.set_postfix_str(f"epoch {epoch}/{config.epochs}, test accuracy {accuracy}")
