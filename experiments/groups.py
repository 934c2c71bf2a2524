"""How many groups should GroupNorm have?

Prediction: from 1 to 8 groups, accuracy stays within 0.1 points; InstanceNorm is worse, because it erases how strong a
channel is.
Outcome: confirmed in part; the log says how.
Method: GN with 1, 2, 4 and 8 groups in every layer (the first layer has 8 channels, so 8 means one per channel there),
with LN and IN at the ends. GN with one group and LN are the same layer; equal numbers are a check.
Scale-down: to 4 epochs.
Command: python -m normstudy study experiments/groups.py --stack 5
"""

from typing import Any

from normstudy.config import TrainConfig

TITLE = "Groups"
NUMBER = 14
REPORT = "baseline"
SEEDS = range(10)
EPOCHS = 4


def trials() -> list[TrainConfig]:
    """GN with each number of groups between LN and IN."""
    variants: list[dict[str, Any]] = [
        {"norm": "ln"},
        *({"norm": "gn", "groups": groups} for groups in (1, 2, 4, 8)),
        {"norm": "in"},
    ]
    return [TrainConfig(**variant, seed=seed, epochs=EPOCHS) for variant in variants for seed in SEEDS]
