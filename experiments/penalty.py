"""How much L1 can a network this small tolerate?

Prediction: up to 1e-5 nothing happens; from 1e-3 on, accuracy falls, first and most with BatchNorm, and what fails in
BatchNorm is its running averages: with statistics of the test images themselves it does far better.
Outcome: refuted; the log says how.
Method: lambda 0 and 1e-6 to 0.1 in half-decades for BN, GN and LN; accuracy, share of weights at zero (below 1e-3),
and for BatchNorm the accuracy with statistics re-estimated on the unchanged test images.
Scale-down: to 20,000 training images, 4 epochs and 2 seeds.
Command: python -m normstudy study experiments/penalty.py --stack 2, then python -m normstudy measure
experiments/penalty.py
"""

from itertools import product

from normstudy.config import TrainConfig

TITLE = "Strength of the penalty"
NUMBER = 10
REPORT = "penalty"
MAY_DIVERGE = True
MEASURES = ("weights", "statistics")
SEEDS = range(2)
LAMBDAS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SHORT = {"epochs": 4, "train_size": 20_000}


def trials() -> list[TrainConfig]:
    """Each norm with each lambda."""
    cells = product(("bn", "gn", "ln"), LAMBDAS, SEEDS)
    return [TrainConfig(norm=norm, l1=l1, seed=seed, **SHORT) for norm, l1, seed in cells]
