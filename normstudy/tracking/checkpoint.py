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

from normstudy.errors import CheckpointError, say
from normstudy.files import write_atomically

KEPT = 2  # the newest, and the one before it in case the newest is damaged
DIGEST_SIZE = hashlib.sha256().digest_size

ANEW = "to begin it anew, remove its folder in records/, beside checkpoints/"
ENTRIES = ("model", "optimizer", "schedule", "generators", "torch", "cuda")  # of a state, as `snapshot` makes it

State = dict[str, Any]


class Checkpoints:
    """The newest checkpoints of one job in a folder of its own.

    A file is the SHA-256 of the rest, then what `torch.save` made of the state and of `key`, which says which
    configurations it belongs to. One of a later epoch than `newest` is not read: a copied record may lack that epoch.
    """

    def __init__(self, folder: Path, key: str, *, newest: int | None = None) -> None:
        self.folder, self.key, self.limit = folder, key, newest

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
                say(f"{error}; the one before it is used")
                continue
            if found["key"] != self.key:
                raise CheckpointError(f"{file}: of another configuration ({found['key']}, expected {self.key})")
            if self.limit is None or found["epoch"] <= self.limit:
                return found["epoch"], found["state"]
        return 0, {}

    def delete(self) -> None:
        """They have served: the trial has finished."""
        for file in self._files():
            file.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*.pt"), reverse=True)


def read_checkpoint(file: Path) -> State:
    """What a checkpoint holds: key, epoch and state. Tensors and plain values only; no code in it is run. The state
    gets the file's name as `file`, for the errors of `restore`.

    Raises `CheckpointError` when it is truncated, changed, or holds anything else.
    """
    content = file.read_bytes()
    digest, payload = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{file}: damaged checkpoint (checksum)")
    try:
        found: State = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        kinds = {name: type(value) for name, value in found.items()}
        if kinds != {"key": str, "epoch": int, "state": dict}:
            raise ValueError("other contents")
    except Exception as error:  # what torch raises for a foreign file has no common type
        raise CheckpointError(f"{file}: no checkpoint ({type(error).__name__})") from error
    found["state"]["file"] = str(file)
    return found


def snapshot(
    model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, generators: Sequence[torch.Generator]
) -> State:
    """All that decides the epochs to come: weights, momentum, place on the schedule, every random generator in use;
    and the device that they were on."""
    device = device_of(model)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generators": [generator.get_state() for generator in generators],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device == "cuda" else [],
        "device": device,
    }


def restore(
    state: State, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, generators: Sequence[torch.Generator]
) -> None:
    """The same training, as it was at `snapshot`.

    Raises `CheckpointError` before anything is changed: for a state that was written on another kind of device, where
    other random numbers would be drawn, and for one that isn't of this training.
    """
    name = state.get("file", "checkpoint")
    try:
        require_same_device(name, state, device_of(model))
        require_fit(state, model, optimizer, schedule, generators)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # as torch's parts raise them
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: not of this training: {reason}; {ANEW}") from error
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # a captured step reads it on its own device
            group["lr"] = group["lr"].to(group["params"][0].device)
    schedule.load_state_dict(state["schedule"])
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)
    torch.set_rng_state(state["torch"])
    for place, saved in enumerate(visible(state["cuda"])):
        torch.cuda.set_rng_state(saved, place)


def device_of(model: nn.Module) -> str:
    """The kind of device that a model is on."""
    return next(model.parameters()).device.type


def visible(states: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of the states of all GPUs where a checkpoint was written, those of as many as are here: one is trained on."""
    return states[: torch.cuda.device_count()]


def require_same_device(name: str, state: State, here: str) -> None:
    """Raises `CheckpointError` for a state of another kind of device. One from before states named theirs shows by its
    CUDA generators where it can't go on."""
    written = state.get("device", here)
    if state.get("cuda") and not torch.cuda.is_available():
        written = "cuda"
    if written != here:
        raise CheckpointError(
            f"{name}: written on {written}, and this trial would go on on {here}; "
            f"resume it on a machine with {written}; {ANEW}"
        )


def require_fit(
    state: State, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, generators: Sequence[torch.Generator]
) -> None:
    """Raises `ValueError`, or what torch raises, where a state can't be that of this training."""
    if missing := [entry for entry in ENTRIES if entry not in state]:
        raise ValueError(f"it has no {', '.join(missing)}")
    require_alike(model.state_dict(), state["model"], "model")
    require_alike(schedule.state_dict(), state["schedule"], "schedule")
    require_alike(optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], "optimizer.param_groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    momenta = state["optimizer"]["state"]  # a new optimiser has none to compare with
    if any(group.get("momentum") for group in optimizer.param_groups) and set(momenta) != set(range(len(parameters))):
        raise ValueError(f"it has the momenta of {len(momenta)} parameters, expected {len(parameters)}")
    for index, buffers in momenta.items():
        for kind, buffer in buffers.items():
            if buffer is not None:
                require_alike(parameters[index], buffer, f"optimizer.state.{index}.{kind}")
    if len(state["generators"]) != len(generators):
        raise ValueError(f"it has {len(state['generators'])} random generators, expected {len(generators)}")
    places = [*(generator.device for generator in generators), torch.device("cpu")]
    places += [torch.device("cuda", index) for index in range(len(visible(state["cuda"])))]
    for place, saved in zip(places, [*state["generators"], state["torch"], *visible(state["cuda"])], strict=True):
        torch.Generator(place).set_state(saved)  # torch says what is wrong with it


def require_alike(expected: Any, found: Any, where: str) -> None:
    """Raises `ValueError` where two states differ in more than their numbers: in entries, shapes or types."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            raise ValueError(f"{where} has other entries: {sorted(map(str, expected.keys() ^ found.keys()))}")
        for key, value in expected.items():
            require_alike(value, found[key], f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, value in enumerate(expected):
            require_alike(value, found[index], f"{where}.{index}")
    elif form(expected) != form(found):
        raise ValueError(f"{where} is {form(found)}, expected {form(expected)}")


def form(value: Any) -> str:
    """What a value is, in words, whatever its number."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, dict | list):
        return f"{'dict' if isinstance(value, dict) else 'list'} of {len(value)}"
    return "number" if isinstance(value, int | float) else type(value).__name__
