"""Checkpoints: exact to the bit, whole or refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from memory import MemoryTracker
from torch import Tensor

from normstudy.checkpoint import KEPT, Checkpoints, read_checkpoint
from normstudy.config import TrainConfig
from normstudy.errors import CheckpointError, Interrupted
from normstudy.model import NORMS
from normstudy.tracking import Metric
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
