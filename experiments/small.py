"""What does half the budget cost? A network under 4,000 parameters.

Bet: 99.45 % or more, mean of ten seeds.
Method: the network, the recipe and the norm chosen for this size on held-out images (experiments/small_recipe.py, then
experiments/small_networks.py), ten seeds, 20 epochs, the last one counts.
Reduced: one norm instead of three.
Command: python -m normstudy study experiments/small.py --stack 5
"""

from typing import Any

from normstudy.config import TrainConfig

SEEDS = range(10)
NETWORK: dict[str, Any] = {"norm": "gn", "network": "finewide"}
RECIPE: dict[str, Any] = {"batch_size": 16, "lr": 0.02, "rotation": 7.0, "translation": 1.5, "scale": 0.07}


def trials() -> list[TrainConfig]:
    """One variant, ten seeds."""
    return [TrainConfig(**NETWORK, **RECIPE, seed=seed) for seed in SEEDS]
