"""MNIST as tensors on the device, fixed splits, seeded batches, batched augmentation."""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from normstudy.config import TrainConfig
from normstudy.files import archives, unpacked

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training images, pixels as fractions of 255; used for both sets
SPLIT_SEED = 20_000  # fixed: every trial holds out the same images, unless they are drawn by its seed
# By the kind of device. On one CPU core an epoch takes 7 s against 10, by oneDNN's kernels for few channels; on an H200
# a step of ten stacked seeds takes 762 us contiguous against 945.
MEMORY_FORMAT = {"cpu": torch.channels_last, "mps": torch.channels_last, "cuda": torch.contiguous_format}
# Images that are made ready at once: as many as fit a core's cache; on a GPU enough that launches no longer count.
PREPARED = {"cpu": 512, "mps": 512, "cuda": 32_768}
Batches = Iterator[tuple[Float[Tensor, "b seeds 28 28"], Int64[Tensor, "b seeds"]]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images with their labels, and each image's place in the original file."""

    images: UInt8[Tensor, "n 1 28 28"]
    labels: Int64[Tensor, " n"]
    indices: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int64[Tensor, " m"]) -> "Split":
        """The images at these places of this split."""
        return Split(images=self.images[indices], labels=self.labels[indices], indices=self.indices[indices])

    def to(self, device: torch.device) -> "Split":
        """The same split on another device."""
        return Split(images=self.images.to(device), labels=self.labels.to(device), indices=self.indices.to(device))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of images and labels."""
        sha = hashlib.sha256(self.images.cpu().numpy().tobytes())
        sha.update(self.labels.cpu().numpy().tobytes())
        return sha.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a trial sees. `val` is None where nothing is held out."""

    train: Split
    val: Split | None
    test: Split


def load_images(dataset: str = "mnist", folder: Path | None = None) -> tuple[Split, Split]:
    """The 60,000 training and the 10,000 test images, in the order of the original files, on the CPU.

    Raises `NormstudyError` when an archive is missing or damaged; nothing is ever downloaded.
    """
    return _read(dataset, folder or archives(dataset))


@cache  # trials that follow one another in a process share them
def _read(dataset: str, folder: Path) -> tuple[Split, Split]:
    files = {name: _array(content) for name, content in unpacked(dataset, folder)}

    def split(name: str) -> Split:
        images, labels = files[f"{name}-images-idx3-ubyte"], files[f"{name}-labels-idx1-ubyte"]
        return Split(images=images.unsqueeze(1), labels=labels.long(), indices=torch.arange(len(labels)))

    return split("train"), split("t10k")


def _array(content: bytes) -> UInt8[Tensor, "..."]:
    """What a file of MNIST's holds: the number of axes in byte 3, the length of each in 4 bytes, the values."""
    axes = content[3]
    shape = struct.unpack_from(f">{axes}i", content, 4)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def load_data(config: TrainConfig, device: torch.device) -> Data:
    """The splits of a trial, on its device: `val_size` images held out of the 60,000, stratified by digit."""
    train, test = load_images(config.dataset)
    order = stratified_order(train.labels, SPLIT_SEED + config.split)
    held_out, rest = order[: config.val_size], order[config.val_size :]
    used = rest[: config.train_size or None].sort().values
    val = train.take(held_out.sort().values).to(device) if config.val_size else None
    return Data(train=train.take(used).to(device), val=val, test=test.to(device))


def stratified_order(labels: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """A fixed random order of the images, in which every stretch holds the digits in proportion."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    place = torch.empty(len(labels), dtype=torch.float64)
    for digit in labels.unique():
        members = shuffled[labels[shuffled] == digit]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)


class TrainingStream:
    """Shuffled, augmented, normalised batches, epoch after epoch, for each of `seeds` its own.

    A seed decides order and augmentation, whatever other seeds stand beside it, and on every device: all is drawn on
    the CPU.
    """

    def __init__(self, split: Split, config: TrainConfig, seeds: Sequence[int]) -> None:
        self.split, self.config = split, config
        self.orders, self.draws = ([torch.Generator().manual_seed(seed) for seed in seeds] for _ in range(2))

    def generators(self) -> list[torch.Generator]:
        """All that is drawn from; their states, at an epoch's end, decide the epochs to come."""
        return [*self.orders, *self.draws]

    def epoch(self) -> Batches:
        """The batches of one epoch: images (b, seeds, 28, 28) and labels (b, seeds).

        The images left over sit this epoch out: a constant batch gives BatchNorm the same noise at each step.
        """
        config, size, device = self.config, self.config.batch_size, self.split.labels.device
        used = len(self.split) // size * size
        orders = [torch.randperm(len(self.split), generator=generator)[:used] for generator in self.orders]
        order, moves = torch.stack(orders, dim=1).to(device), None
        if config.rotation or config.translation or config.scale:
            draws = torch.stack([torch.rand(used, 4, generator=generator) for generator in self.draws], dim=1)
            moves = affine_maps(
                draws.to(device), rotation=config.rotation, translation=config.translation, scale=config.scale
            )
        several = max(1, PREPARED[device.type] // (size * order.shape[1])) * size
        for start in range(0, used, several):
            chosen = order[start : start + several]
            images = self.split.images[chosen].flatten(0, 1)
            moved = images.float() if moves is None else resample(images.float(), moves[start : start + several])
            batches = normalise(moved).view(*chosen.shape, *images.shape[2:])
            batches = batches.contiguous(memory_format=MEMORY_FORMAT[device.type])
            yield from zip(batches.split(size), self.split.labels[chosen].split(size), strict=True)


def normalise(images: UInt8[Tensor, "b 1 28 28"] | Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 1 28 28"]:
    """Pixels 0 to 255 to floats with mean 0 and standard deviation 1 over the training images."""
    return images.float().div_(255 * STANDARD_DEVIATION).sub_(MEAN / STANDARD_DEVIATION)


def affine_maps(
    draws: Float[Tensor, "*n 4"], *, rotation: float, translation: float, scale: float
) -> Float[Tensor, "*n 6"]:
    """Each row of uniform draws in [0, 1) to a map from places of the new image to places of the old one.

    Rotation by up to `rotation` degrees, then shifts by up to `translation` pixels along each axis, and a change of
    size by up to the fraction `scale`. The six are the rows of a 2 x 3 matrix on (x, y, 1), with x and y from -1 to 1
    between the image's edges.
    """
    angle, zoom, *shifts = draws.mul(2).sub(1).unbind(-1)
    angle, zoom = angle * math.radians(rotation), 1 + zoom * scale
    right, down = (shift * (2 * translation / 28) for shift in shifts)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    return torch.stack([cosine, -sine, right, sine, cosine, down], dim=-1)


def resample(images: Float[Tensor, "b 1 28 28"], maps: Float[Tensor, "*n 6"]) -> Float[Tensor, "b 1 28 28"]:
    """Each image under its map, bilinear; what moves in from outside is 0, MNIST's background before `normalise`."""
    count, _, height, width = images.shape
    grid = maps.reshape(count, 6) @ pixel_places(images.device)
    return functional.grid_sample(images, grid.view(count, height, width, 2), align_corners=False)


@cache
def pixel_places(device: torch.device, size: int = 28) -> Float[Tensor, "6 places"]:
    """What turns a map of `affine_maps` into the sampling grid of a `size` x `size` image by one matrix product.

    `affine_grid` makes the same grid by one small product an image, and took four fifths of the augmentation's time.
    """
    line = torch.linspace(-1, 1, size, device=device) * (size - 1) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)]).view(3, 1, -1, 1)
    return (places * torch.eye(2, device=device).view(1, 2, 1, 2)).transpose(0, 1).reshape(6, -1)
