"""Does more computation with the same number of weights help at the full budget, too? Chosen on held-out images.

Prediction: as at half the budget (experiments/small_networks.py), convolutions at 28 x 28 bring the held-out loss
below the lowest of experiments/recipe.py, 0.0189 nats.
Outcome: confirmed; the log says how.
Method: three networks under 8,000 parameters with two 3x3 convolutions at full resolution in place of one 5x5, and
`plain` for comparison, all with the recipe of the best network at half the budget; each norm gets the same number of
tries: every network once, 20 epochs, evaluated on 6,000 held-out training images. The rule, fixed beforehand: the
network with the lowest held-out loss, averaged over the three variants, is chosen; if that loss is below the lowest of
experiments/recipe.py, ten seeds measure the network on the test images.
Command: python -m normstudy study experiments/fine_networks.py
"""

from typing import Any

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Network at full resolution"
NUMBER = 7
REPORT = "held_out"
HELD_OUT = 6_000
NETWORKS = ("plain", "finelarge", "finelast", "finedeep")
RECIPE: dict[str, Any] = {"batch_size": 16, "lr": 0.02, "rotation": 7.0, "translation": 1.5, "scale": 0.07}


def trials() -> list[TrainConfig]:
    """Each network with each variant."""
    grid = [{**variant, "network": network} for network in NETWORKS for variant in VARIANTS]
    return [TrainConfig(val_size=HELD_OUT, **RECIPE, **trial) for trial in grid]
