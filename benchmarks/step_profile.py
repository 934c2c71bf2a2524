"""Where the time of a training step goes, by kind of operator: torch's profiler around `normstudy.train`'s step."""

from collections import defaultdict

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import BATCH_SIZE, WARM_UP_STEPS, print_result
from benchmarks.ours import step_on_one_batch
from normstudy.config import TrainConfig

STEPS = 200
REST = "everything else"
KINDS = {  # a part of the operator's name, the first that fits
    "convolution_backward": "convolutions, backward",
    "convolution": "convolutions, forward",
    "norm": "normalisation, both ways",
    "max_pool2d": "pooling, both ways",
    "aten::fill_": "pooling, both ways",  # the zeros that its backward pass adds to; hardly used elsewhere
    "threshold_backward": "ReLU, both ways",
    "clamp_min": "ReLU, both ways",
    "Optimizer": "optimiser",
    "fused_sgd": "optimiser",
}


def main(norm: str = "gn", threads: int = 1) -> None:
    """Milliseconds a step of each kind; the profiler's own cost is in them, so only their shares mean something."""
    step = step_on_one_batch(TrainConfig(norm=norm, threads=threads, batch_size=BATCH_SIZE, device="cpu"))
    for _ in range(WARM_UP_STEPS):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    milliseconds: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        milliseconds[kind_of(event.key)] += event.self_cpu_time_total / 1_000 / STEPS
    print_result(milliseconds=dict(milliseconds), torch=torch.__version__)


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name in the profile."""
    return next((kind for part, kind in KINDS.items() if part in operator), REST)


if __name__ == "__main__":
    typer.run(main)
