"""Which single recipe suits all three norms? Chosen on 6,000 held-out training images; the test set is not used.

Prediction: twice as many steps, with batches of 32, help more than a different augmentation, because networks this
small do not even fit the training images well.
Outcome: confirmed; the log says how.
Method: each norm gets the same number of tries: every recipe once, 20 epochs, on the network chosen in
experiments/networks.py. The rule, fixed beforehand: the lowest held-out loss, averaged over the three variants; for
lambda, BatchNorm's own.
Command: python -m normstudy study experiments/recipe.py
"""

from typing import Any

from normstudy.config import TrainConfig

TITLE = "Recipe"
NUMBER = 2
REPORT = "held_out"
HELD_OUT = 6_000
VARIANTS: tuple[dict[str, Any], ...] = ({"norm": "gn"}, {"norm": "ln"}, {"norm": "bn", "l1": 1e-5})
RECIPES: tuple[dict[str, Any], ...] = (
    {"batch_size": 64, "lr": 0.06},
    {"batch_size": 32, "lr": 0.03},
    {"batch_size": 64, "lr": 0.06, "rotation": 7.0, "translation": 1.5, "scale": 0.07},
    {"batch_size": 64, "lr": 0.06, "l1": 1e-6},
)


def trials() -> list[TrainConfig]:
    """Each recipe with each variant."""
    grid = [{**variant, **recipe} for recipe in RECIPES for variant in VARIANTS]
    return [TrainConfig(val_size=HELD_OUT, **trial) for trial in grid]
