"""Over which range of learning rates does each norm train?

Prediction: every norm extends the upper end of the range compared with no norm; BatchNorm tolerates the largest rates.
Outcome: confirmed in part; the log says how.
Method: peak learning rates from 0.003 to 3 in half-decades for BN, GN, LN, IN and none, one-cycle over 2 epochs of all
60,000 images. "Trains" means 98 % or more at the last epoch.
Scale-down: to 2 epochs and 2 seeds: a range is known to half a decade only.
Command: python -m normstudy study experiments/learning_rate.py --stack 2
"""

from itertools import product

from normstudy.config import TrainConfig

TITLE = "Learning rate"
NUMBER = 13
REPORT = "learning_rate"
MAY_DIVERGE = True
SEEDS = range(2)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def trials() -> list[TrainConfig]:
    """Each norm with each rate."""
    cells = product(RATES, ("bn", "gn", "ln", "in", "none"), SEEDS)
    return [TrainConfig(norm=norm, lr=lr, seed=seed, epochs=2) for lr, norm, seed in cells]
