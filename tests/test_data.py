"""The archives, the splits, the batches, the augmentation."""

import gzip
import hashlib
import shutil
import socket
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from normstudy import files
from normstudy.config import TrainConfig
from normstudy.data import (
    MEAN,
    MEMORY_FORMAT,
    PREPARED,
    STANDARD_DEVIATION,
    TrainingStream,
    affine_maps,
    load_data,
    load_images,
    normalise,
    pixel_places,
    resample,
)
from normstudy.errors import NormstudyError
from normstudy.files import FASHION, require_archives

LABELS = "t10k-labels-idx1-ubyte"
CPU = torch.device("cpu")


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    shutil.copytree(files.archives("mnist"), tmp_path / "mnist")
    return tmp_path / "mnist"


def test_mnist_is_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train, test = load_images()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.images.dtype == torch.uint8
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_archive_of_another_file_is_refused_with_both_sums(archives: Path) -> None:
    changed = archives / f"{LABELS}.gz"
    content = bytearray(gzip.decompress(changed.read_bytes()))
    expected = hashlib.sha256(content).hexdigest()
    content[100] ^= 1
    changed.write_bytes(gzip.compress(content))
    sums = f"SHA-256 of the file in it {hashlib.sha256(content).hexdigest()}, expected {expected}"
    with pytest.raises(NormstudyError, match=f"{changed}: damaged archive, {sums}"):
        load_images(folder=archives)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(99))[:-9]], ids=["no gzip", "cut short"])
def test_archive_that_cannot_be_unpacked_is_refused_in_one_line(archives: Path, content: bytes) -> None:
    (archives / f"{LABELS}.gz").write_bytes(content)
    with pytest.raises(NormstudyError, match=rf"{LABELS}\.gz: damaged archive \([^\n]+\)$"):
        load_images(folder=archives)


def test_fashion_without_its_folder_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FASHION, raising=False)
    message = f"^dataset=fashion: {FASHION} must name the folder of Fashion-MNIST's four archives$"
    with pytest.raises(NormstudyError, match=message):
        load_data(TrainConfig(dataset="fashion"), CPU)
    require_archives.cache_clear()
    with pytest.raises(NormstudyError, match=message):
        require_archives("fashion")


def idx(values: torch.Tensor) -> bytes:
    """Bytes in the format of MNIST's files."""
    header = [0x0800 + values.ndim, *values.shape]
    return b"".join(number.to_bytes(4, "big") for number in header) + values.numpy().tobytes()


def test_fashion_is_read_from_the_folder_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([9, 0, 3, 3, 7], dtype=torch.uint8)
    sums = tmp_path / "sums" / "fashion" / "SHA256SUMS"
    sums.parent.mkdir(parents=True)
    for part, chosen in (("train", slice(3)), ("t10k", slice(3, 5))):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content, file = idx(values[chosen]), f"{part}-{name}-ubyte"
            (tmp_path / f"{file}.gz").write_bytes(gzip.compress(content))
            with sums.open("a") as lines:
                lines.write(f"{hashlib.sha256(content).hexdigest()}  {file}\n")
    monkeypatch.setattr(files, "SUMS", tmp_path / "sums")
    monkeypatch.setenv(FASHION, str(tmp_path))
    train, test = load_images("fashion")
    assert torch.equal(torch.cat([train.images, test.images])[:, 0], images)
    assert [train.labels.tolist(), test.labels.tolist()] == [[9, 0, 3], [3, 7]]


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


def test_each_seed_may_hold_out_other_images() -> None:
    first, other = (load_data(TrainConfig(val_size=6_000, seed=seed, held_out_by="seed"), CPU).val for seed in (0, 1))
    assert first is not None
    assert other is not None
    usual = load_data(TrainConfig(val_size=6_000), CPU).val
    assert usual is not None
    assert not torch.equal(usual.indices, first.indices)
    shared = len(set(first.indices.tolist()) & set(other.indices.tolist()))
    assert 500 < shared < 700  # of independent tenths, a hundredth


STILL = {"rotation": 0.0, "translation": 0.0, "scale": 0.0}


def epoch(*seeds: int, **sizes: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    split = load_images()[1].take(torch.arange(100))
    return list(TrainingStream(split, TrainConfig.of(batch_size=32, **sizes), seeds).epoch())


def test_an_epoch_visits_each_image_at_most_once_in_an_order_the_seed_decides() -> None:
    first, again, other = (torch.cat([images for images, _ in epoch(seed, **STILL)]) for seed in (1, 1, 2))
    assert [images.shape for images, _ in epoch(1)] == [(32, 1, 28, 28)] * 3  # 4 of the 100 sit out
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == len(first)


@pytest.mark.parametrize("sizes", [STILL, {}], ids=["still", "moved"])
def test_each_seed_of_a_stack_sees_the_batches_it_sees_alone(sizes: dict[str, float]) -> None:
    together = epoch(3, 1, 4, **sizes)
    for place, seed in enumerate((3, 1, 4)):
        for (images, labels), (alone, labels_alone) in zip(together, epoch(seed, **sizes), strict=True):
            assert images.is_contiguous(memory_format=MEMORY_FORMAT["cpu"])
            torch.testing.assert_close(images[:, place : place + 1], alone)
            assert torch.equal(labels[:, place : place + 1], labels_alone)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_batches_are_the_same_bits_however_many_are_made_ready_at_once(
    seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for images in (1, 64, 10_000):
        monkeypatch.setitem(PREPARED, "cpu", images)
        found.append(epoch(*seeds))
    for batches in zip(*found, strict=True):
        assert all(
            torch.equal(one, other) for batch in batches[1:] for one, other in zip(batches[0], batch, strict=True)
        )


def test_a_seed_draws_the_same_order_and_moves_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for a GPU where nothing could be drawn: all that is drawn must come from the CPU."""
    for settings in (MEMORY_FORMAT, PREPARED):
        monkeypatch.setitem(settings, "meta", settings["cuda"])
    split = load_images()[1].take(torch.arange(100))
    streams = [
        TrainingStream(split.to(torch.device(device)), TrainConfig(batch_size=32), [1, 2]) for device in ("cpu", "meta")
    ]
    here, there = (list(stream.epoch()) for stream in streams)
    assert {batch.device.type for batch in there[0]} == {"meta"}
    assert there[0][0].is_contiguous()
    assert [batch[0].shape for batch in here] == [batch[0].shape for batch in there]
    states = [[generator.get_state() for generator in stream.generators()] for stream in streams]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_cuda_are_those_of_the_cpu() -> None:
    split = load_images()[1].take(torch.arange(100))
    streams = [TrainingStream(split.to(torch.device(device)), TrainConfig(), [1, 2]) for device in ("cpu", "cuda")]
    for (images, labels), (on_cuda, labels_on_cuda) in zip(*(stream.epoch() for stream in streams), strict=True):
        torch.testing.assert_close(on_cuda.cpu(), images, rtol=0, atol=1e-4)
        assert torch.equal(labels_on_cuda.cpu(), labels)


def test_normalised_training_images_have_mean_0_and_standard_deviation_1() -> None:
    pixels = normalise(load_images()[0].images)
    assert abs(pixels.mean().item()) < 1e-3
    assert abs(pixels.std().item() - 1) < 1e-3


def test_augmentation_turns_moves_and_resizes_within_its_bounds() -> None:
    sizes = {"rotation": 20.0, "translation": 3.0, "scale": 0.2}
    corners = torch.tensor([[0.0] * 4, [1.0] * 4])
    for (a, b, right, c, d, down), sign in zip(affine_maps(corners, **sizes).tolist(), (-1, 1), strict=True):
        zoom = (a**2 + c**2) ** 0.5
        assert zoom == pytest.approx(1 + sign * 0.2)
        assert (a, c) == pytest.approx((d, -b))
        assert c / a == pytest.approx(sign * 0.36397, rel=1e-4)  # the tangent of 20 degrees
        assert (right * 14, down * 14) == pytest.approx((sign * 3, sign * 3))  # an image is 2 wide: 14 pixels a unit


def test_translation_moves_the_digit_by_at_most_its_pixels_over_background() -> None:
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 14, 14] = 255.0
    draws = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    moved = normalise(resample(images, affine_maps(draws, rotation=0.0, translation=3.0, scale=0.0)))
    bright = (moved > 0).nonzero()[:, 2:].float()
    assert (bright - 14).abs().max() <= 3
    assert (bright - 14).abs().max() >= 2
    assert moved.min().item() == pytest.approx(-MEAN / STANDARD_DEVIATION, abs=1e-6)  # no grey moves in


def test_sampling_grid_is_the_one_torch_makes() -> None:
    maps = affine_maps(torch.rand(50, 4), rotation=30.0, translation=4.0, scale=0.3)
    expected = functional.affine_grid(maps.view(50, 2, 3), [50, 1, 28, 28], align_corners=False)
    torch.testing.assert_close((maps @ pixel_places(CPU)).view(50, 28, 28, 2), expected, rtol=0, atol=1e-6)


def test_another_epoch_has_another_order_and_other_moves() -> None:
    split = load_images()[1].take(torch.arange(64))
    stream = TrainingStream(split, TrainConfig(batch_size=64, rotation=10.0), [0])
    (first, labels), (second, other_labels) = next(stream.epoch()), next(stream.epoch())
    assert labels.sort(dim=0).values.equal(other_labels.sort(dim=0).values)
    assert not torch.equal(labels, other_labels)
    assert first.sum() != second.sum()
