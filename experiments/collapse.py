"""What makes BatchNorm with L1 collapse to the 72 to 95 % that others report?

Prediction: L1 on all parameters, which switches channels off through the scales of their norms, brings BN + L1 below
95 % at a lambda of 1e-3 or less; a learning rate that ends at its peak makes it worse, and then the cause is
BatchNorm's running averages.
Method: the suspects that experiments/penalty.py leaves, alone and together, for BN and GN: L1 summed over all
parameters, including the norms' scales and shifts, and a learning rate that rises until the very last step. Accuracy,
and for BatchNorm also the accuracy with statistics re-estimated on the unchanged test images.
Scale-down: to 20,000 training images, 4 epochs and 2 seeds.
Command: python -m normstudy study experiments/collapse.py --stack 2, then python -m normstudy measure
experiments/collapse.py
"""

from itertools import product

from normstudy.config import TrainConfig

TITLE = "The collapse others report"
NUMBER = 11
REPORT = "collapse"
MAY_DIVERGE = True
MEASURES = ("statistics",)
SEEDS = range(2)
LAMBDAS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SHORT = {"epochs": 4, "train_size": 20_000}
RISING = 0.9999  # of the steps the rate rises


def trials() -> list[TrainConfig]:
    """Each norm with each lambda: weights alone with the usual schedule, then each suspect, then both."""
    cells = product((TrainConfig().warmup, RISING), ("weights", "all"), ("bn", "gn"), LAMBDAS, SEEDS)
    return [
        TrainConfig(norm=norm, l1=l1, l1_on=on, warmup=warmup, seed=seed, **SHORT)
        for warmup, on, norm, l1, seed in cells
        if l1 or on == "weights"  # without a penalty it does not matter what it is summed over
    ]
