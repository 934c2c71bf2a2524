"""The usual loop: torchvision's dataset and transforms, a DataLoader[Any], and a training loop as in most tutorials."""

import time
from itertools import islice
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from benchmarks.loaders import usual_loaders
from benchmarks.measurement import WARM_UP_STEPS, print_result, startup_seconds
from normstudy.config import TRAIN_IMAGES, TrainConfig
from normstudy.model import DigitNet


def main(
    norm: str = "gn",
    threads: int = 1,
    images: int = TRAIN_IMAGES,
    workers: int = 0,
    epochs: Annotated[int, typer.Option(min=2, help="the last is measured; the first is cut short")] = 2,
) -> None:
    """Time an epoch of training and evaluation, after a first one of a few steps that warms up."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    recipe = TrainConfig(norm=norm)
    train, test = usual_loaders(images, workers)
    model = DigitNet(norm)
    optimizer = SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = OneCycleLR(optimizer, recipe.lr, total_steps=epochs * len(train))
    startup = startup_seconds()
    for epoch in range(epochs):
        begin = time.perf_counter()
        loss = train_epoch(model, train, optimizer, schedule, WARM_UP_STEPS if epoch == 0 else len(train))
        test_loss, accuracy = evaluate(model, test)
        print(f"epoch {epoch}: loss {loss:.4f}, test loss {test_loss:.4f}, accuracy {accuracy:.4f}")
    print_result(epoch_seconds=time.perf_counter() - begin, startup_seconds=startup)


def train_epoch(model: DigitNet, loader: DataLoader[Any], optimizer: SGD, schedule: OneCycleLR, steps: int) -> float:
    """Mean loss over at most `steps` batches."""
    model.train()
    running = 0.0
    for images, labels in islice(loader, steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        running += loss.item()
    return running / min(steps, len(loader))


@torch.no_grad()
def evaluate(model: DigitNet, loader: DataLoader[Any]) -> tuple[float, float]:
    """Mean loss and accuracy on the images of the loader."""
    model.eval()
    loss = correct = count = 0.0
    for images, labels in loader:
        logits = model(images)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
        count += len(labels)
    return loss / count, correct / count


if __name__ == "__main__":
    typer.run(main)
