"""MNIST as tensors on the device, fixed splits, seeded batches, batched augmentation."""

import hashlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from normstudy.config import TrainConfig
from normstudy.errors import DataError

ARCHIVES = Path(__file__).parent / "mnist"
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of the 60,000 training images, pixels as fractions of 255
SPLIT_SEED = 20_000  # fixed: every trial holds out the same images


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


def load_mnist(archives: Path = ARCHIVES) -> tuple[Split, Split]:
    """The 60,000 training and the 10,000 test images, in the order of the original files, on the CPU.

    The archives are laid where torchvision looks for them, in a folder that lives only for this call: torchvision
    checks their MD5 sums and unpacks them, nothing unpacked can go stale, and processes that start together don't meet.

    Raises `DataError` when an archive is missing or damaged; nothing is ever downloaded.
    """
    from torchvision import datasets  # 5 s to import, and the report and the launcher never load images
    from torchvision.datasets.utils import calculate_md5

    for url_name, expected in datasets.MNIST.resources:
        archive = archives / url_name
        if not archive.is_file():
            raise DataError(f"{archive}: the archive is missing")
        if (found := calculate_md5(archive)) != expected:
            raise DataError(f"{archive}: damaged archive, MD5 {found}, expected {expected}")
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, _ in datasets.MNIST.resources:
            (raw / name).symlink_to((archives / name).resolve())
        train, test = (datasets.MNIST(root, train=train, download=True) for train in (True, False))
    splits = [
        Split(images=dataset.data.unsqueeze(1), labels=dataset.targets, indices=torch.arange(len(dataset.targets)))
        for dataset in (train, test)
    ]
    return splits[0], splits[1]


def load_data(config: TrainConfig, device: torch.device) -> Data:
    """The splits of a trial, on its device: `val_size` images held out of the 60,000, stratified by digit."""
    train, test = load_mnist()
    order = stratified_order(train.labels)
    held_out, rest = order[: config.val_size], order[config.val_size :]
    used = rest[: config.train_size or None].sort().values
    val = train.take(held_out.sort().values).to(device) if config.val_size else None
    return Data(train=train.take(used).to(device), val=val, test=test.to(device))


def stratified_order(labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """A fixed random order of the images, in which every stretch holds the digits in proportion."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    place = torch.empty(len(labels), dtype=torch.float64)
    for digit in labels.unique():
        members = shuffled[labels[shuffled] == digit]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)


def batches(
    split: Split, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[UInt8[Tensor, "b 1 28 28"], Int64[Tensor, " b"]]]:
    """One epoch in an order that `generator` (on the CPU) draws. The images left over sit this epoch out: a constant
    batch gives BatchNorm the same noise at each step."""
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield split.images[chosen], split.labels[chosen]


def normalise(images: UInt8[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 1 28 28"]:
    """Pixels 0 to 255 to floats with mean 0 and standard deviation 1 over the training images."""
    return images.float().div_(255 * STANDARD_DEVIATION).sub_(MEAN / STANDARD_DEVIATION)


def augment(
    images: Float[Tensor, "b 1 28 28"],
    generator: torch.Generator,
    *,
    rotation: float,
    translation: float,
    scale: float,
) -> Float[Tensor, "b 1 28 28"]:
    """Each image turned by up to `rotation` degrees, moved by up to `translation` pixels along each axis and resized
    by up to the fraction `scale`, all drawn uniformly by `generator` (on the images' device)."""
    if not (rotation or translation or scale):
        return images
    count, _, _, width = images.shape
    draws = torch.rand(count, 4, generator=generator, device=images.device).mul_(2).sub_(1)
    angle = draws[:, 0] * math.radians(rotation)
    zoom = 1 + draws[:, 1] * scale
    shift = draws[:, 2:] * (2 * translation / width)  # affine_grid counts the image as 2 wide
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1)
    grid = functional.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    # the background is far from 0 after `normalise`: fill what moves in with it, not with a grey of 0
    background = -MEAN / STANDARD_DEVIATION
    return functional.grid_sample(images - background, grid, align_corners=False) + background
