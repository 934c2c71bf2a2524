"""Checkpoints at epoch boundaries: written atomically, verified when read, exact to the bit."""

import hashlib
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normstudy.errors import CheckpointError
from normstudy.spool import write_atomically

KEPT = 2  # the newest, and the one before it in case the newest is damaged
DIGEST_SIZE = hashlib.sha256().digest_size

State = dict[str, Any]


class Checkpoints:
    """The newest checkpoints of one job in a folder of its own.

    A file is the SHA-256 of the rest, then what `torch.save` made of the state and of `key`, which says which
    configurations it belongs to.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def save(self, epoch: int, state: State) -> None:
        """Keep the state after `epoch`. Raises `StorageError` when it can't be written; the ones before stay."""
        buffer = io.BytesIO()
        torch.save({"key": self.key, "epoch": epoch, "state": state}, buffer)
        content = buffer.getvalue()
        write_atomically(self.folder / f"epoch_{epoch:05d}.pt", hashlib.sha256(content).digest() + content)
        for old in self._files()[KEPT:]:
            old.unlink()

    def newest(self) -> tuple[int, State]:
        """The newest whole checkpoint as (epoch, state); (0, {}) where there is none. A damaged one is named on
        standard error, and the one before it is taken.

        Raises `CheckpointError` for a checkpoint of another configuration.
        """
        for file in self._files():
            try:
                found = read_checkpoint(file)
            except CheckpointError as error:
                print(f"normstudy: {error}; the one before it is used", file=sys.stderr, flush=True)
                continue
            if found["key"] != self.key:
                raise CheckpointError(f"{file}: of another configuration ({found['key']}, expected {self.key})")
            return found["epoch"], found["state"]
        return 0, {}

    def delete(self) -> None:
        """They have served: the trial has finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*.pt"), reverse=True)


def read_checkpoint(file: Path) -> State:
    """What a checkpoint holds: key, epoch and state. Tensors and plain values only; no code in it is run.

    Raises `CheckpointError` when it is truncated, changed, or holds anything else.
    """
    content = file.read_bytes()
    digest, payload = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{file}: damaged checkpoint (checksum)")
    try:
        found: State = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        if set(found) != {"key", "epoch", "state"}:
            raise ValueError("other contents")
    except Exception as error:  # what torch raises for a foreign file has no common type
        raise CheckpointError(f"{file}: no checkpoint ({type(error).__name__})") from error
    return found


def snapshot(
    model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, generators: Sequence[torch.Generator]
) -> State:
    """All that decides the epochs to come: weights, momentum, place on the schedule, every random generator in use."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generators": [generator.get_state() for generator in generators],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(
    state: State, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, generators: Sequence[torch.Generator]
) -> None:
    """The same training, as it was at `snapshot`."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # a captured step reads it on its own device
            group["lr"] = group["lr"].to(group["params"][0].device)
    schedule.load_state_dict(state["schedule"])
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
