"""What makes BatchNorm with L1 collapse to the 72 to 95 % that others report?

Prediction: norms make convolutions independent of their scale, so L1 there only shrinks weights until one step of the
subgradient, up to rate times lambda / (1 - momentum) = 0.003 at lambda 0.01, is as large as a weight. Then with a rate
that ends at its peak proximal steps, which stop at 0, bring BN + L1 at lambda 0.01 from below 90 % to above 95 %, and
L1 on the linear layer alone, at the same lambda, costs less than 0.5 points.
Outcome: refuted; the log says how.
Method: BN and GN with L1 on all weights by subgradient, as everywhere in this study; by proximal steps; on the linear
layer alone; and on all parameters, the norms' scales and shifts among them; at lambda 0.01 on the convolutions alone,
and with no norm as a control; each with a rate that ends at 0 and with one that ends at its peak. Proximal steps differ
in two ways, as they stop at 0 and bypass the momentum. Five seeds; for BN also the accuracy with statistics
re-estimated on the unchanged test images.
Scale-down: to 20,000 training images and 4 epochs, where an earlier version with two seeds found the collapse.
Command: python -m normstudy study experiments/collapse.py --stack 5, then python -m normstudy measure
experiments/collapse.py
"""

from itertools import product
from typing import Any

from normstudy.config import TrainConfig

TITLE = "The collapse others report"
NUMBER = 11
REPORT = "collapse"
MAY_DIVERGE = True
MEASURES = ("statistics",)
SEEDS = range(5)
LAMBDAS = (0.0, 1e-3, 3e-3, 1e-2, 3e-2)
SHORT = {"epochs": 4, "train_size": 20_000}
WAYS: tuple[dict[str, Any], ...] = ({}, {"l1_method": "proximal"}, {"l1_on": "linear"}, {"l1_on": "all"})
AT = 0.01  # lambda of the controls
RISING = 0.9999  # of the steps the rate rises


def trials() -> list[TrainConfig]:
    """Each norm with each lambda, in each way, under both schedules; then the controls."""
    schedules = (TrainConfig().warmup, RISING)
    cells = [
        {"norm": norm, "l1": l1, "warmup": warmup, **way}
        for warmup, way, norm, l1 in product(schedules, WAYS, ("bn", "gn"), LAMBDAS)
        if l1 or not way  # without a penalty there is no way
    ]
    cells += [
        {"norm": norm, "l1": AT, "warmup": warmup, "l1_on": "convolutions"}
        for warmup, norm in product(schedules, ("bn", "gn"))
    ]
    cells += [{"norm": "none", "l1": l1, "warmup": warmup} for warmup, l1 in product(schedules, (0.0, AT))]
    return [TrainConfig(**cell, seed=seed, **SHORT) for cell in cells for seed in SEEDS]
