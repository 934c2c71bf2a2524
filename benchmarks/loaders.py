"""MNIST the usual way: torchvision's dataset and transforms behind a DataLoader."""

import tempfile
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from benchmarks.measurement import BATCH_SIZE, ROTATION, SCALE, TRANSLATION
from normstudy.data import MEAN, STANDARD_DEVIATION
from normstudy.provenance import archives, unpacked

EVALUATION_BATCH = 1_000


def usual_loaders(images: int, workers: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The first `images` training images, shuffled and augmented, and the 10,000 test images."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STANDARD_DEVIATION,))]
    shift = TRANSLATION / 28
    moved = transforms.RandomAffine(ROTATION, translate=(shift, shift), scale=(1 - SCALE, 1 + SCALE))
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, content in unpacked("mnist", archives("mnist")):
            (raw / name).write_bytes(content)
        train: Dataset[Any] = datasets.MNIST(root, transform=transforms.Compose([moved, *to_tensor]))
        test = datasets.MNIST(root, train=False, transform=transforms.Compose(to_tensor))
    if images < len(train):  # type: ignore[arg-type]
        train = Subset(train, range(images))
    return (
        DataLoader(train, batch_size=BATCH_SIZE, shuffle=True, drop_last=True, num_workers=workers),
        DataLoader(test, batch_size=EVALUATION_BATCH, num_workers=workers),
    )
