"""What the process of a task does: trains the trials that it may, and says of the others why not."""

import os
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext

import torch

from normstudy.config import TrainConfig
from normstudy.errors import Diverged, NormstudyError, Superseded, say
from normstudy.launch import StopSignal, Task, nobody_reads_output
from normstudy.launch.registry import Registry, Trial
from normstudy.launch.state import Outcome
from normstudy.tracking import Tag
from normstudy.tracking.client import Server
from normstudy.tracking.run import Lease, LogTracker
from normstudy.tracking.store import STATE, identity, use
from normstudy.tracking.uploader import Uploader
from normstudy.train import StopCheck, pick_device, train_together


def train_leased(
    registry: Registry,
    configs: Sequence[TrainConfig],
    *,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    force: bool = False,
    stop_signal: StopCheck,
) -> dict[str, Outcome]:
    """Train the trials of a stack that nobody else has, and say of the others why not.

    Trials whose earlier process stopped go on in the stack that they began in: one network has the seeds of all, and
    those that are not to be trained any more log nothing.
    """
    seeds, checkpoints = tuple(config.seed for config in configs), uuid.uuid4().hex
    stacks: dict[str, dict[str, Lease]] = {}
    refused: dict[str, Outcome] = {}
    stopped: list[NormstudyError] = []
    with ExitStack() as locks, Uploader() if registry.server else nullcontext() as uploader:
        for config in configs:
            key, name = config.trial_key, identity(config)[Tag.NAME]
            trial = Trial(key=key, name=name, parent=parent, seeds=seeds, checkpoints=checkpoints)
            begun = registry.begin(trial, force=force)
            if isinstance(begun, Lease):
                locks.callback(begun.lock.release)
                stacks.setdefault(begun.log.begin.checkpoints, {})[key] = begun
            else:
                refused[key] = begun
        with ExitStack() as stack:
            for tracker in [stack.enter_context(LogTracker(own, tags or {}, uploader)) for own in stacks.values()]:
                members = [configs[0].model_copy(update={"seed": seed}) for seed in tracker.seeds]
                try:
                    train_together(members, tracker, stop_signal=stop_signal)
                except (Diverged, Superseded) as error:
                    stopped.append(error)
            if stopped:
                raise stopped[0]
    return refused


def registry_of(task: Task) -> Registry:
    """What to ask, in the process of the task."""
    if task.tracking_uri:
        use(task.tracking_uri)
    server = Server() if task.tracking_uri else None
    return Registry(server=server, experiment=task.experiment, stale=dict(task.stale))


def run_trials(tasks: Iterable[Task]) -> None:
    """What a process does, one task after the other: train into runs that it has the lease of."""
    stop_signal, status = StopSignal(gone=nobody_reads_output), 0
    for task in tasks:
        if task.state:
            os.environ[STATE] = task.state
        registry = registry_of(task)
        try:
            train_leased(
                registry, task.configs, parent=task.parent, tags=task.tags, force=task.force, stop_signal=stop_signal
            )
        except NormstudyError as error:
            say(f"error: {error}")
            status = error.exit_status
        if stop_signal():
            break
    if status:
        sys.exit(status)


def gpus_of(stacks: Sequence[tuple[TrainConfig, ...]]) -> int:
    """How many GPUs there are for trials that all train on one; else 0."""
    on_gpu = all(pick_device(together[0].device).type == "cuda" for together in stacks)
    return torch.cuda.device_count() if on_gpu else 0


def grouped_in_stacks(configs: Sequence[TrainConfig], size: int) -> list[tuple[TrainConfig, ...]]:
    """The trials that differ only in their seed, `size` of them together: each group trains as one stack.

    0 chooses: on a GPU, which one such network leaves idle, as many as leave no other GPU without work (memory sets no
    limit: one network of the recipe keeps 4 MB for its backward pass); one on a CPU, though 2 to 4 together are a sixth
    faster there: a trial's last bits would depend on how many stand beside it.
    """
    same_but_seed: dict[TrainConfig, list[TrainConfig]] = {}
    for config in configs:
        same_but_seed.setdefault(config.model_copy(update={"seed": 0}), []).append(config)
    stacks = []
    for shared, trials in same_but_seed.items():
        step = size or 1
        if not size and pick_device(shared.device).type == "cuda":
            step = max(1, len(configs) // torch.cuda.device_count())
        if shared.held_out_by == "seed":  # each trains on other images
            step = 1
        stacks += [tuple(trials[start : start + step]) for start in range(0, len(trials), step)]
    return stacks
