"""The bare limit: forward, loss, backward and optimiser step on one batch, again and again. No data, no evaluation."""

import time
from typing import Annotated

import torch
import typer
from torch.nn import functional

from benchmarks.measurement import BATCH_SIZE, WARM_UP_STEPS, print_result, startup_seconds
from benchmarks.ours import in_our_format, model_and_optimizer
from normstudy.config import TRAIN_IMAGES, TrainConfig


def main(
    norm: str = "gn",
    threads: int = 1,
    images: Annotated[int, typer.Option(help="images of an epoch")] = TRAIN_IMAGES,
    compiled: Annotated[bool, typer.Option("--compiled", help="the model under torch.compile")] = False,
    contiguous: Annotated[bool, typer.Option("--contiguous", help="torch's default memory format")] = False,
) -> None:
    """Time the steps of one epoch, with the settings, model, optimiser and memory format of `normstudy.train`."""
    config = TrainConfig(norm=norm, threads=threads, batch_size=BATCH_SIZE, device="cpu")
    steps = images // BATCH_SIZE
    model, optimizer = model_and_optimizer(config, steps)
    batch = in_our_format(torch.randn(BATCH_SIZE, 1, 28, 28))
    labels = torch.randint(10, (BATCH_SIZE,))
    model.train()
    if contiguous:
        model, batch = model.to(memory_format=torch.contiguous_format), batch.contiguous()
    network = torch.compile(model) if compiled else model
    startup = startup_seconds()

    def step() -> None:
        loss = functional.cross_entropy(network(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    begin = time.perf_counter()
    step()
    first = time.perf_counter() - begin  # compiles, where asked to
    for _ in range(min(WARM_UP_STEPS, steps)):
        step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    print_result(epoch_seconds=time.perf_counter() - begin, startup_seconds=startup, first_step_seconds=first)


if __name__ == "__main__":
    typer.run(main)
