"""How far does half the parameter budget get? A network under 4,000 parameters.

Prediction: a mean of 99.45 % or more over ten seeds.
Outcome: refuted; the log says how.
Method: the network and the recipe chosen for this size on held-out images (experiments/small_recipe.py, then
experiments/small_networks.py), ten paired seeds, 20 epochs; the last epoch is the result. The prediction is about GN,
the variant with the lowest held-out loss there; the other two are trained for comparison.
Command: python -m normstudy study experiments/small.py --stack 5
"""

from typing import Any

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Half the budget"
NUMBER = 6
REPORT = "groups"
TARGETS = {"first": 0.9945}
SEEDS = range(10)
RECIPE: dict[str, Any] = {
    "network": "finewide",
    "batch_size": 16,
    "lr": 0.02,
    "rotation": 7.0,
    "translation": 1.5,
    "scale": 0.07,
}


def trials() -> list[TrainConfig]:
    """Each variant with each seed."""
    return [TrainConfig(**variant, **RECIPE, seed=seed) for seed in SEEDS for variant in VARIANTS]
