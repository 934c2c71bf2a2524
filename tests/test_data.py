"""The archives, the splits, the batches, the augmentation."""

import shutil
import socket
from pathlib import Path

import pytest
import torch

from normstudy.config import TrainConfig
from normstudy.data import ARCHIVES, MEAN, STANDARD_DEVIATION, augment, batches, load_data, load_mnist, normalise
from normstudy.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    shutil.copytree(ARCHIVES, tmp_path / "mnist")
    return tmp_path / "mnist"


def test_mnist_is_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train, test = load_mnist()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.images.dtype == torch.uint8
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_damaged_archive_is_refused_with_both_sums(archives: Path) -> None:
    damaged = archives / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    message = r"t10k-labels-idx1-ubyte.gz: damaged archive, MD5 [0-9a-f]{32}, expected ec29112dd5afa0611ce80d1b7f02629c"
    with pytest.raises(DataError, match=message):
        load_mnist(archives)


def test_missing_archive_is_named(archives: Path) -> None:
    (archives / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: the archive is missing"):
        load_mnist(archives)


def test_held_out_images_are_stratified_fixed_and_never_trained_on() -> None:
    whole = load_data(TrainConfig(val_size=6_000), CPU)
    small = load_data(TrainConfig(val_size=6_000, train_size=500, seed=9), CPU)
    assert whole.val is not None
    assert small.val is not None
    assert torch.equal(whole.val.indices, small.val.indices)
    held_out = set(whole.val.indices.tolist())
    assert len(held_out) == 6_000
    assert held_out | set(whole.train.indices.tolist()) == set(range(60_000))
    assert not held_out & set(whole.train.indices.tolist())
    assert set(small.train.indices.tolist()) < set(whole.train.indices.tolist())
    share = torch.cat([whole.train.labels, whole.val.labels]).bincount() / 10
    assert (whole.val.labels.bincount() - share).abs().max() <= 1


def test_without_held_out_images_the_whole_training_set_is_used_in_file_order() -> None:
    data = load_data(TrainConfig(), CPU)
    assert data.val is None
    assert torch.equal(data.train.indices, torch.arange(60_000))
    assert torch.equal(data.test.indices, torch.arange(10_000))


def test_an_epoch_visits_each_image_at_most_once_in_an_order_the_generator_decides() -> None:
    split = load_mnist()[1].take(torch.arange(1_000))

    def epoch(seed: int) -> list[torch.Tensor]:
        return [images for images, _ in batches(split, 64, torch.Generator().manual_seed(seed))]

    first, again, other = torch.cat(epoch(1)), torch.cat(epoch(1)), torch.cat(epoch(2))
    assert [len(images) for images in epoch(1)] == [64] * 15  # 40 of the 1,000 sit out
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == len(first)


def test_normalised_training_images_have_mean_0_and_standard_deviation_1() -> None:
    pixels = normalise(load_mnist()[0].images)
    assert abs(pixels.mean().item()) < 1e-3
    assert abs(pixels.std().item() - 1) < 1e-3


def test_augmentation_is_decided_by_its_generator_and_off_at_zero() -> None:
    images = normalise(load_mnist()[1].images[:32])

    def augmented(seed: int, **sizes: float) -> torch.Tensor:
        sizes = {"rotation": 10.0, "translation": 2.0, "scale": 0.1, **sizes}
        return augment(images, torch.Generator().manual_seed(seed), **sizes)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))
    assert torch.equal(augmented(1, rotation=0.0, translation=0.0, scale=0.0), images)


def test_translation_moves_the_digit_by_at_most_its_pixels_over_background() -> None:
    images = torch.full((64, 1, 28, 28), -MEAN / STANDARD_DEVIATION)
    images[:, :, 14, 14] = 2.0
    moved = augment(images, torch.Generator().manual_seed(0), rotation=0.0, translation=3.0, scale=0.0)
    bright = (moved > 0).nonzero()[:, 2:].float()
    assert (bright - 14).abs().max() <= 3
    assert (bright - 14).abs().max() >= 2
    assert moved.min().item() == pytest.approx(-MEAN / STANDARD_DEVIATION, abs=1e-6)  # no grey moves in
