"""Checkpoints at epoch boundaries: written atomically, verified when read, exact to the bit."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normstudy.errors import CheckpointError, one_line, say
from normstudy.files import write_atomically

KEPT = 2  # the newest, and the one before it in case the newest is damaged
DIGEST_SIZE = hashlib.sha256().digest_size
ANEW = "to begin it anew, remove its folder in records/, beside checkpoints/"

Training = tuple[nn.Module, Optimizer, LRScheduler, Sequence[torch.Generator]]


class Checkpoints:
    """The newest checkpoints of one task in a folder of its own.

    A file is the SHA-256 of the rest, then what `torch.save` made of the training's state and of `key`, which names its
    configurations. None of a later epoch than `limit` is restored: a copied record may lack that epoch.
    """

    def __init__(self, folder: Path, key: str, *, limit: int | None = None) -> None:
        self.folder, self.key, self.limit = folder, key, limit

    def save(self, epoch: int, training: Training) -> None:
        """Keep its state after `epoch`. Raises `StorageError` when it can't be written; the ones before stay."""
        buffer = io.BytesIO()
        torch.save({"key": self.key, "epoch": epoch, "state": state_of(training)}, buffer)
        content = buffer.getvalue()
        write_atomically(self.folder / f"epoch_{epoch:05d}.pt", hashlib.sha256(content).digest() + content)
        for old in self._files()[KEPT:]:
            old.unlink()

    def restore(self, training: Training) -> int:
        """Bring a training to where the newest whole checkpoint has it; the epoch, 0 where there is none. A damaged one
        is named on standard error, and the one before it is taken.

        Raises `CheckpointError` for a checkpoint of another configuration or of other code.
        """
        for file in self._files():
            try:
                key, epoch, state = read_checkpoint(file)
            except CheckpointError as error:
                say(f"{error}; the one before it is used")
                continue
            if key != self.key:
                raise CheckpointError(f"{file}: of another configuration ({key}, expected {self.key})")
            if self.limit is None or epoch <= self.limit:
                try:
                    load_state(state, training)
                except CheckpointError as error:
                    raise CheckpointError(f"{file}: {error}; {ANEW}") from None
                return epoch
        return 0

    def delete(self) -> None:
        """They have served: the trial has finished."""
        for file in self._files():
            file.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*.pt"), reverse=True)


def read_checkpoint(file: Path) -> tuple[str, int, dict[str, Any]]:
    """Key, epoch and state of a checkpoint. Tensors and plain values only; no code in it is run.

    Raises `CheckpointError` when it is truncated, changed, or holds anything else.
    """
    content = file.read_bytes()
    digest, payload = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{file}: damaged checkpoint (checksum)")
    try:
        found = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        return str(found["key"]), int(found["epoch"]), dict(found["state"])
    except Exception as error:  # what torch raises for a foreign file has no common type
        raise CheckpointError(f"{file}: no checkpoint ({type(error).__name__})") from error


def state_of(training: Training) -> dict[str, Any]:
    """All that decides the epochs to come: weights, momentum, place on the schedule, every random generator in use.

    All generators are on the CPU, so a training goes on on any device with the batches that it would have had.
    """
    model, optimizer, schedule, generators = training
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generators": [generator.get_state() for generator in generators],
        "torch": torch.get_rng_state(),
    }


def load_state(state: dict[str, Any], training: Training) -> None:
    """The same training as it was at `state_of`.

    Raises `CheckpointError` for a state of other code: the checksum tells that it is whole, not that it fits.
    """
    model, optimizer, schedule, generators = training
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(optimizer.param_groups, rates, strict=True):
            # a captured step reads the rate in a tensor on its own device; elsewhere it is a number
            rate = float(group["lr"])
            group["lr"] = torch.full_like(own, rate) if isinstance(own, Tensor) else rate
        schedule.load_state_dict(state["schedule"])
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved)
        torch.set_rng_state(state["torch"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # as torch's parts raise them
        raise CheckpointError(f"not of this training: {one_line(str(error))}") from error
