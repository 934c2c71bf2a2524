"""Does more computation with the same weights help a network under 4,000 parameters? Chosen on held-out images.

Prediction: convolutions at 28 x 28, where each weight is used at four times as many positions as at 14 x 14, bring the
held-out loss below the lowest of experiments/small_recipe.py.
Outcome: confirmed; the log says how.
Method: two or three 3x3 convolutions at full resolution in place of one 5x5, and `small` for comparison, all with the
smaller batches and the milder augmentation of experiments/small_recipe.py; each norm gets the same number of tries:
every network once, 20 epochs, evaluated on 6,000 held-out training images. The rule, fixed beforehand: of these and
the recipes there, the lowest held-out loss, averaged over the three variants, decides on network and recipe;
experiments/small.py then trains the variant that has the lowest held-out loss with them.
Command: python -m normstudy study experiments/small_networks.py
"""

from typing import Any

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Network for half the budget"
NUMBER = 5
REPORT = "held_out"
HELD_OUT = 6_000
NETWORKS = ("small", "fine", "finer", "finewide")
RECIPE: dict[str, Any] = {"batch_size": 16, "lr": 0.02, "rotation": 7.0, "translation": 1.5, "scale": 0.07}


def trials() -> list[TrainConfig]:
    """Each network with each variant."""
    grid = [{**variant, "network": network} for network in NETWORKS for variant in VARIANTS]
    return [TrainConfig(val_size=HELD_OUT, **RECIPE, **trial) for trial in grid]
