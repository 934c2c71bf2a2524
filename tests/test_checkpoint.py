"""Checkpoints: exact to the bit, whole or refused."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.memory import MemoryTracker
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from normstudy.config import TrainConfig
from normstudy.errors import CheckpointError, Interrupted
from normstudy.tracking import Metric
from normstudy.tracking.checkpoint import KEPT, Checkpoints, Training, load_state, read_checkpoint, state_of
from normstudy.train import train

SMALL = {"epochs": 3, "train_size": 320, "device": "cpu"}
pytestmark = pytest.mark.usefixtures("small_test_set")
Parts = tuple[nn.Module, SGD, OneCycleLR, list[torch.Generator]]


def after(batches: int) -> Callable[[], int | None]:
    """A stop signal that comes after so many batches."""
    asked = iter(range(batches))
    return lambda: None if next(asked, None) is not None else 15


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(average: float, tmp_path: Path) -> None:
    config = TrainConfig.of(norm="bn", l1=1e-5, val_size=100, ema_decay=average, **SMALL)
    whole = MemoryTracker(tmp_path / "whole")
    expected = train(config, whole)
    broken = MemoryTracker(tmp_path / "broken")
    with pytest.raises(Interrupted, match="signal 15"):
        train(config, broken, stop_signal=after(14))  # in the second epoch of 10 batches
    torch.manual_seed(1234)  # whatever was drawn in between
    found = train(config, broken)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert [run.steps for run in broken.runs] == [[1], [2, 3]]
    epochs = [metrics for run in broken.runs for metrics in run.epochs]
    for ours, theirs in zip(epochs, whole.runs[0].epochs, strict=True):
        assert ours | {Metric.EPOCH_SECONDS: 0} == theirs | {Metric.EPOCH_SECONDS: 0}
    evaluations = [tracker.runs[-1].evaluation for tracker in (whole, broken)]
    assert torch.equal(*[evaluation.logits for evaluation in evaluations if evaluation is not None])
    assert not (tmp_path / "broken").exists()


def training(steps: int = 0, *, width: int = 4, learning_rate: float | Tensor = 0.1) -> Parts:
    """A small training after so many steps. On CUDA the learning rate is a tensor."""
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    groups = [{"params": list(layer.parameters()), "lr": copy.deepcopy(learning_rate)} for layer in model]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    schedule = OneCycleLR(optimizer, 0.1, total_steps=9, cycle_momentum=False)
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        model(torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule, [generator]


def everything(of: Parts) -> list[Tensor]:
    """All that decides how a training goes on, and torch's own generator."""
    model, optimizer, schedule, generators = of
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    rates = [torch.as_tensor(rate) for rate in schedule.get_last_lr()]
    states = [torch.get_rng_state(), *(generator.get_state() for generator in generators)]
    return [tensor.clone() for tensor in (*model.state_dict().values(), *momenta, *rates, *states)]


RATES = (0.1, torch.tensor(0.1))


@pytest.mark.parametrize("own", RATES, ids=["number", "tensor"])
@pytest.mark.parametrize("saved", RATES, ids=["from a number", "from a tensor"])
def test_a_checkpoint_brings_back_all_of_a_training_on_any_device(
    saved: float | Tensor, own: float | Tensor, tmp_path: Path
) -> None:
    trained = training(4, learning_rate=saved)
    Checkpoints(tmp_path, "key").save(1, trained)
    expected = everything(trained)
    torch.manual_seed(99)
    again = training(learning_rate=own)
    assert Checkpoints(tmp_path, "key").restore(again) == 1
    assert all(torch.equal(one, other) for one, other in zip(expected, everything(again), strict=True))
    for group, before in zip(again[1].param_groups, trained[1].param_groups, strict=True):
        assert isinstance(group["lr"], type(own))
        assert float(group["lr"]) == pytest.approx(float(before["lr"]), abs=0 if type(own) is type(saved) else 1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")], ids=" to ".join)
def test_a_training_goes_on_on_another_device_with_the_batches_that_it_would_have_had(
    devices: tuple[str, str], tmp_path: Path
) -> None:
    whole, broken = MemoryTracker(), MemoryTracker(tmp_path)
    train(TrainConfig.of(norm="bn", **SMALL), whole)
    first, second = (TrainConfig.of(**{**SMALL, "norm": "bn", "device": device}) for device in devices)
    with pytest.raises(Interrupted):
        train(first, broken, stop_signal=after(14))
    train(second, broken)
    for ours, theirs in zip([*broken.runs[0].epochs, *broken.runs[1].epochs], whole.runs[0].epochs, strict=True):
        assert ours[Metric.TRAIN_LOSS] == pytest.approx(theirs[Metric.TRAIN_LOSS], rel=0.02)


def saved(folder: Path, epochs: int) -> Checkpoints:
    """Checkpoints of a training of one step an epoch."""
    checkpoints = Checkpoints(folder, "key")
    for epoch in range(1, epochs + 1):
        checkpoints.save(epoch, training(epoch))
    return checkpoints


def steps_of(restored: Training) -> int:
    return restored[2].last_epoch


def test_only_the_newest_are_kept_and_there_is_none_to_begin_with(tmp_path: Path) -> None:
    again = training()
    assert Checkpoints(tmp_path / "none", "key").restore(again) == 0
    assert saved(tmp_path, 5).restore(again) == steps_of(again) == 5
    assert len(list(tmp_path.iterdir())) == KEPT


def test_a_checkpoint_of_an_epoch_that_the_log_lacks_is_passed_over(tmp_path: Path) -> None:
    again = training()
    saved(tmp_path, 2)
    assert Checkpoints(tmp_path, "key", limit=1).restore(again) == steps_of(again) == 1
    assert Checkpoints(tmp_path, "key", limit=0).restore(again) == 0


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints, again = saved(tmp_path, 2), training()
    newest = tmp_path / "epoch_00002.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    damaged: dict[str, bytes | bytearray] = {"truncated": content[:-7], "one bit": content, "empty": b""}
    newest.write_bytes(damaged[damage])
    assert checkpoints.restore(again) == steps_of(again) == 1
    assert f"normstudy: {newest}: damaged checkpoint" in capsys.readouterr().err


def test_checkpoint_of_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"epoch_00001.pt: of another configuration \(key, expected ours\)"):
        Checkpoints(tmp_path, "ours").restore(training())


@pytest.mark.parametrize("content", [{"key": "key", "epoch": 1, "state": [1]}, {"key": "key"}, [1, 2, 3]])
def test_file_with_a_right_checksum_but_other_contents_is_no_checkpoint(content: object, tmp_path: Path) -> None:
    file = tmp_path / "epoch_00001.pt"
    torch.save(content, file)
    file.write_bytes(hashlib.sha256(file.read_bytes()).digest() + file.read_bytes())
    with pytest.raises(CheckpointError, match=r"^\S*epoch_00001.pt: no checkpoint \((Type|Key)Error\)$"):
        read_checkpoint(file)


def test_a_checkpoint_of_other_code_is_refused_in_one_line_with_what_to_do(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"^\S*epoch_00001.pt: not of this training: .*size mismatch") as refused:
        Checkpoints(tmp_path, "key").restore(training(width=5))
    assert str(refused.value).endswith("; to begin it anew, remove its folder in records/, beside checkpoints/")
    assert "\n" not in str(refused.value)
    for entry in ("model", "optimizer", "generators", "torch", "schedule"):
        state = state_of(training())
        del state[entry]
        with pytest.raises(CheckpointError, match=f"^not of this training: '{entry}'$"):
            load_state(state, training())
