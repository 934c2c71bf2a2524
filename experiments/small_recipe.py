"""Does a network of half the size need its own recipe? Chosen on 6,000 held-out training images.

Prediction: with fewer weights, weaker augmentation wins, because the network can't even fit what it is shown now.
Outcome: confirmed; the log says how.
Method: the network `small`; each norm gets the same number of tries: every recipe once, 20 epochs, starting with the
large network's recipe. The rule, fixed beforehand: the recipe with the lowest held-out loss, averaged over the three
variants, is chosen; experiments/small.py then trains the variant that has the lowest held-out loss with it.
Command: python -m normstudy study experiments/small_recipe.py
"""

from typing import Any

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Recipe for half the budget"
NUMBER = 4
REPORT = "held_out"
HELD_OUT = 6_000
MILD = {"rotation": 7.0, "translation": 1.5, "scale": 0.07}
RECIPES: tuple[dict[str, Any], ...] = (
    {},
    MILD,
    {"rotation": 4.0, "translation": 1.0, "scale": 0.05},
    {**MILD, "batch_size": 16, "lr": 0.02},
    {**MILD, "weight_decay": 0.0},
)


def trials() -> list[TrainConfig]:
    """Each recipe with each variant."""
    grid = [{**variant, **recipe} for recipe in RECIPES for variant in VARIANTS]
    return [TrainConfig(network="small", val_size=HELD_OUT, **trial) for trial in grid]
