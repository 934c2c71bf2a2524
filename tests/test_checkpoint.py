"""Checkpoints: exact to the bit, whole or refused."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.memory import MemoryTracker
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from normstudy.config import TrainConfig
from normstudy.errors import CheckpointError, Interrupted
from normstudy.model import NORMS
from normstudy.tracking import Metric
from normstudy.tracking.checkpoint import KEPT, Checkpoints, State, read_checkpoint, restore, snapshot
from normstudy.train import train, train_together

SMALL = {"epochs": 3, "train_size": 640, "device": "cpu"}


def after(batches: int) -> object:
    """A stop signal that comes after so many batches."""
    asked = iter(range(batches))
    return lambda: None if next(asked, None) is not None else 15


@pytest.mark.parametrize("norm", NORMS)
def test_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(norm: str, tmp_path: Path) -> None:
    config = TrainConfig.of(norm=norm, l1=1e-5, val_size=100, **SMALL)
    whole = MemoryTracker(tmp_path / "whole")
    expected = train(config, whole)
    broken = MemoryTracker(tmp_path / "broken")
    with pytest.raises(Interrupted, match="signal 15"):
        train(config, broken, stop_signal=after(29))  # in the second epoch of 20 batches
    torch.manual_seed(1234)  # whatever was drawn in between
    found = train(config, broken)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert [run.steps for run in broken.runs] == [[1], [2, 3]]
    for run, epochs in zip(broken.runs, (whole.runs[0].epochs[:1], whole.runs[0].epochs[1:]), strict=True):
        for ours, theirs in zip(run.epochs, epochs, strict=True):
            assert without_time(ours) == without_time(theirs)
    evaluations = [tracker.runs[-1].evaluation for tracker in (whole, broken)]
    assert torch.equal(*[evaluation.logits for evaluation in evaluations if evaluation is not None])
    assert not (tmp_path / "broken").exists()


def without_time(metrics: dict[Metric, float]) -> dict[Metric, float]:
    return {name: value for name, value in metrics.items() if name != Metric.EPOCH_SECONDS}


def test_seeds_in_lock_step_resume_exactly_too(tmp_path: Path) -> None:
    configs = [TrainConfig.of(norm="bn", seed=seed, **SMALL) for seed in (3, 4)]
    expected = train_together(configs, MemoryTracker(tmp_path / "whole"))
    broken = MemoryTracker(tmp_path / "broken")
    with pytest.raises(Interrupted, match="signal 15"):
        train_together(configs, broken, stop_signal=after(50))
    found = train_together(configs, broken)
    assert broken.runs[-1].steps == [3]
    for one, other in zip(expected, found, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def saved(folder: Path, epochs: int, key: str = "key") -> Checkpoints:
    checkpoints = Checkpoints(folder, key)
    for epoch in range(1, epochs + 1):
        checkpoints.save(epoch, {"weights": torch.full((3,), float(epoch))})
    return checkpoints


def weights(state: dict[str, Tensor]) -> list[float]:
    return state["weights"].tolist()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    epoch, state = saved(tmp_path, 5).newest()
    assert (epoch, weights(state)) == (5, [5.0] * 3)
    assert len(list(tmp_path.iterdir())) == KEPT


def test_there_is_none_to_begin_with(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", "key").newest() == (0, {})


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = saved(tmp_path, 2)
    newest = tmp_path / "epoch_00002.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:-7], "one bit": content, "empty": b""}[damage])
    epoch, state = checkpoints.newest()
    assert (epoch, weights(state)) == (1, [1.0] * 3)
    assert f"normstudy: {newest}: damaged checkpoint" in capsys.readouterr().err


def test_checkpoint_of_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    saved(tmp_path, 1, key="theirs")
    with pytest.raises(CheckpointError, match=r"epoch_00001.pt: of another configuration \(theirs, expected ours\)"):
        Checkpoints(tmp_path, "ours").newest()


def test_file_with_a_right_checksum_but_other_contents_is_no_checkpoint(tmp_path: Path) -> None:
    for number, content in enumerate((b"text", b"")):
        file = tmp_path / f"epoch_0000{number}.pt"
        file.write_bytes(hashlib.sha256(content).digest() + content)
        with pytest.raises(CheckpointError, match="no checkpoint"):
            read_checkpoint(file)


def test_a_state_knows_its_file(tmp_path: Path) -> None:
    assert saved(tmp_path, 1).newest()[1]["file"] == str(tmp_path / "epoch_00001.pt")


@pytest.mark.parametrize(
    "content",
    [{"key": "key", "epoch": 1, "state": [1]}, {"key": "key", "epoch": "1", "state": {}}, {"key": "key"}, [1, 2, 3]],
)
def test_file_of_other_entries_or_types_is_no_checkpoint(content: object, tmp_path: Path) -> None:
    file = tmp_path / "epoch_00001.pt"
    torch.save(content, file)
    file.write_bytes(hashlib.sha256(file.read_bytes()).digest() + file.read_bytes())
    with pytest.raises(CheckpointError, match=r"^\S*epoch_00001.pt: no checkpoint \((Value|Attribute)Error\)$"):
        read_checkpoint(file)


Training = tuple[nn.Module, SGD, OneCycleLR, list[torch.Generator]]
CUDA_GENERATOR = torch.zeros(16, dtype=torch.uint8)  # the size of a CUDA generator's state


def training(learning_rate: float | Tensor = 0.1, steps: int = 0) -> Training:
    """A small training after so many steps. On CUDA the learning rate is a tensor."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = [{"params": list(layer.parameters()), "lr": copy.deepcopy(learning_rate)} for layer in model]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    made: Training = (model, optimizer, OneCycleLR(optimizer, 0.1, total_steps=9, cycle_momentum=False), [])
    made[3].append(torch.Generator().manual_seed(5))
    for _ in range(steps):
        model(torch.randn(8, 3, generator=made[3][0])).square().sum().backward()
        optimizer.step()
        made[2].step()
    return made


def everything(of: Training) -> list[Tensor]:
    """All that decides how a training goes on, and torch's own generator."""
    model, optimizer, schedule, generators = of
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    rates = [torch.as_tensor(rate) for rate in schedule.get_last_lr()]
    states = [torch.get_rng_state(), *(generator.get_state() for generator in generators)]
    return [tensor.clone() for tensor in (*model.state_dict().values(), *momenta, *rates, *states)]


def require_unchanged(before: list[Tensor], of: Training) -> None:
    after = everything(of)
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("learning_rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_a_state_brings_back_all_of_a_training(learning_rate: float | Tensor, tmp_path: Path) -> None:
    trained = training(learning_rate, steps=4)
    Checkpoints(tmp_path, "key").save(1, snapshot(*trained))
    expected = everything(trained)
    torch.manual_seed(99)
    again = training(learning_rate)
    restore(Checkpoints(tmp_path, "key").newest()[1], *again)
    require_unchanged(expected, again)


def test_a_state_from_before_states_named_their_device_is_still_good() -> None:
    trained = training(steps=4)
    state = snapshot(*trained)
    assert state.pop("device") == "cpu"
    again = training()
    restore(state, *again)
    require_unchanged(everything(trained), again)


def on_cuda(state: State) -> State:
    """The state as it is written on a machine with a GPU."""
    return {**state, "device": "cuda", "cuda": [CUDA_GENERATOR], "generators": [CUDA_GENERATOR]}


@pytest.mark.parametrize("named", [True, False])
def test_a_checkpoint_of_a_gpu_is_refused_where_there_is_none_with_what_to_do(named: bool, tmp_path: Path) -> None:
    written = on_cuda(snapshot(*training(steps=4)))
    if not named:
        del written["device"]
    Checkpoints(tmp_path, "key").save(1, written)
    here = training(steps=1)
    before = everything(here)
    with pytest.raises(CheckpointError) as refused:
        restore(Checkpoints(tmp_path, "key").newest()[1], *here)
    assert str(refused.value) == (
        f"{tmp_path / 'epoch_00001.pt'}: written on cuda, and this trial would go on on cpu; "
        "resume it on a machine with cuda; to begin it anew, remove its folder in records/, beside checkpoints/"
    )
    require_unchanged(before, here)


def test_a_trial_begun_on_a_gpu_ends_in_one_line_where_there_is_none(tmp_path: Path) -> None:
    tracker = MemoryTracker(tmp_path)
    config = TrainConfig.of(norm="bn", **SMALL)
    with pytest.raises(Interrupted):
        train(config, tracker, stop_signal=after(12))
    checkpoints = tracker.checkpoints([config])
    checkpoints.save(1, on_cuda(checkpoints.newest()[1]))
    with pytest.raises(CheckpointError, match=r"epoch_00001.pt: written on cuda, and this trial would go on on cpu; "):
        train(config, tracker)
    assert isinstance(tracker.runs[-1].ended_by[0], CheckpointError)


def without(entry: str) -> Callable[[State], object]:
    return lambda state: state.pop(entry)


def put(value: Any, *path: Any) -> Callable[[State], object]:
    """Set what stands at the end of a path."""

    def change(state: State) -> None:
        place: Any = state
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without("torch"), "it has no torch"),
        (lambda state: [state.pop(name) for name in list(state)], "it has no model, optimizer, schedule, generators, "),
        (lambda state: state["model"].pop("1.bias"), "model has other entries: ['1.bias']"),
        (
            put(torch.zeros(4, 2), "model", "0.weight"),
            "model.0.weight is torch.float32 of shape (4, 2), expected torch.float32 of shape (4, 3)",
        ),
        (put(torch.zeros(4, 3).double(), "model", "0.weight"), "model.0.weight is torch.float64 of shape (4, 3), exp"),
        (put(3, "model"), "model is number, expected dict of 7"),
        (put(None, "optimizer"), "'NoneType' object is not subscriptable"),
        (put([], "optimizer", "param_groups"), "optimizer.param_groups is list of 0, expected list of 2"),
        (put("fast", "optimizer", "param_groups", 0, "lr"), "optimizer.param_groups.0.lr is str, expected number"),
        (put(torch.zeros(9), "optimizer", "state", 0, "momentum_buffer"), "optimizer.state.0.momentum_buffer is "),
        (lambda state: state["optimizer"]["state"].pop(2), "it has the momenta of 3 parameters, expected 4"),
        (without("schedule"), "it has no schedule"),
        (lambda state: state["schedule"].pop("total_steps"), "schedule has other entries: ['total_steps']"),
        (put("late", "schedule", "last_epoch"), "schedule.last_epoch is str, expected number"),
        (put([], "generators"), "it has 0 random generators, expected 1"),
        (put([CUDA_GENERATOR], "generators"), "Expected a CPUGeneratorImplState of size"),
        (put(["state"], "generators"), ""),
        (put(torch.zeros(7, dtype=torch.uint8), "torch"), "Expected a CPUGeneratorImplState of size"),
        (put(torch.zeros(5056), "torch"), ""),
        (put(None, "cuda"), ""),
        (put(torch.zeros(16), "cuda"), ""),
    ],
)
def test_a_malformed_state_is_refused_in_one_line_before_anything_is_changed(
    spoil: Callable[[State], object], reason: str
) -> None:
    state = {**copy.deepcopy(snapshot(*training(steps=4))), "file": "folder/epoch_00001.pt"}
    spoil(state)
    here = training(steps=1)
    before = everything(here)
    with pytest.raises(CheckpointError) as refused:
        restore(state, *here)
    said = str(refused.value)
    name = "folder/epoch_00001.pt" if state else "checkpoint"
    assert said.startswith(f"{name}: not of this training: {reason}")
    assert said.endswith("; to begin it anew, remove its folder in records/, beside checkpoints/")
    assert "\n" not in said
    require_unchanged(before, here)
