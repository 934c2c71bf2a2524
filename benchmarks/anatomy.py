"""From the bare limit to our epoch, one thing more at a time, in one process: what each adds."""

from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer

from benchmarks.measurement import BATCH_SIZE, STILL, WARM_UP_STEPS, print_result, seconds_of
from benchmarks.ours import bare_and_our_step, evaluate_once, in_our_format, training_batches
from normstudy.config import TrainConfig
from normstudy.data import load_data


def main(
    norm: str = "gn",
    images: Annotated[int, typer.Option(help="of an epoch; the steps of a turn are a quarter of its")] = 60_000,
    turns: int = 5,
) -> None:
    """Median seconds an epoch of each, over turns: all have the same noise."""
    config = TrainConfig(norm=norm, batch_size=BATCH_SIZE, device="cpu")
    data = load_data(config, torch.device("cpu"))
    bare, ours = bare_and_our_step(config)
    batch, labels = in_our_format(torch.randn(BATCH_SIZE, 1, 28, 28)), torch.randint(10, (BATCH_SIZE, 1))
    steps = images // BATCH_SIZE
    count = max(1, steps // 4)

    def real(settings: TrainConfig) -> Callable[[], Any]:
        stream = training_batches(data.train, settings)
        return lambda: [ours(*next(stream)) for _ in range(count)]

    works: dict[str, Callable[[], Callable[[], Any]]] = {
        "bare steps": lambda: lambda: [bare(batch, labels[:, 0]) for _ in range(count)],
        "our steps on the same batch: loss and right answers kept": lambda: (
            lambda: [ours(batch, labels) for _ in range(count)]
        ),
        "on real batches: gathered, normalised": lambda: real(config.model_copy(update=STILL)),
        "and augmented": lambda: real(config),
    }
    for _ in range(min(WARM_UP_STEPS, steps)):
        bare(batch, labels[:, 0])
    seconds: dict[str, list[float]] = {name: [] for name in [*works, "evaluation"]}
    evaluation = evaluate_once(config, data.test)
    for _ in range(turns):
        for name, prepare in works.items():
            seconds[name].append(seconds_of(prepare()) * steps / count)
        seconds["evaluation"].append(seconds_of(evaluation))
    medians = {name: median(values) for name, values in seconds.items()}
    medians["and evaluated: an epoch"] = medians["and augmented"] + medians.pop("evaluation")
    print_result(epoch_seconds=medians)


if __name__ == "__main__":
    typer.run(main)
