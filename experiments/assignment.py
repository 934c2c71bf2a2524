"""GroupNorm, LayerNorm or BatchNorm with L1: which, and by how much?

Command: python -m normstudy study experiments/assignment.py
Bet: on one recipe that suits all three, they differ by less than one seed can show.
"""

from normstudy.config import TrainConfig


def trials() -> list[TrainConfig]:
    """The three main variants; everything else is the default recipe."""
    return [TrainConfig(norm="gn"), TrainConfig(norm="ln"), TrainConfig(norm="bn", l1=1e-5)]
