"""Which recipe suits each norm best? Of sixteen for each, chosen on held-out images; the test set is not used.

Prediction: each norm has a recipe that lowers its held-out loss by 5 % or more below the shared recipe's; BN's has a
higher rate than GN's and LN's, for the same batch size; each evaluates a moving average of the weights.
Method: the shared recipe and fifteen drawn at random, the same for GN, LN and BN + L1: batch size, peak learning rate,
weight decay, strength of the augmentation, a moving average of the weights or none, smoothed labels in a quarter. Two
seeds, each with 6,000 held-out images of its own. The rule, fixed beforehand: for each norm the recipe with the lowest
mean held-out loss. Smoothed labels raise that loss without lowering the accuracy, so a recipe with them wins only where
it gains more than that.
Scale-down: to 10 epochs (instead of 20), with a schedule of that length.
Command: python -m normstudy study experiments/tuning.py
"""

from random import Random
from typing import Any

from normstudy.config import VARIANTS, TrainConfig

TITLE = "A recipe for each norm"
NUMBER = 22
REPORT = "held_out"
HELD_OUT = 6_000
SEEDS = range(2)
RECIPES = 16


def recipe(draw: Random) -> dict[str, Any]:
    """One of the recipes; rates go with the square root of the batch size."""
    size = draw.choice((16, 32, 64))
    rate, decay, strength = (
        0.03 * 4 ** draw.uniform(-1, 1),
        10 ** draw.uniform(-5, -3),
        draw.choice((0.5, 0.75, 1, 1.25)),
    )
    return {
        "batch_size": size,
        "lr": float(f"{rate * (size / 32) ** 0.5:.2g}"),
        "weight_decay": float(f"{decay:.1g}"),
        "rotation": 10 * strength,
        "translation": 2 * strength,
        "scale": round(0.1 * strength, 3),
        "average": draw.choice((0.0, 0.999)),
        "label_smoothing": draw.choice((0.0, 0.0, 0.0, 0.05)),
    }


def trials() -> list[TrainConfig]:
    """Each recipe with each variant and seed."""
    draw = Random(0)
    recipes = [{}, *(recipe(draw) for _ in range(RECIPES - 1))]
    return [
        TrainConfig(**{"val_size": HELD_OUT, "split": seed, "seed": seed, "epochs": 10, **variant, **tried})
        for tried in recipes
        for variant in VARIANTS
        for seed in SEEDS
    ]
