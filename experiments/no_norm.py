"""Is any norm needed, when the network without one begins with weights made for it?

Prediction: with He's initialisation and its own rate the network without a norm comes within 0.1 points of BN, and is
equivalent to it; with torch's initialisation it does not.
Method: no norm with torch's initial weights and with He's (He et al. 2015, "Delving Deep into Rectifiers", section
2.2), each at peak rates of 0.01, 0.03 and 0.06; each against BN with the shared recipe. No rate is chosen: all are
reported. Ten seeds; trials that experiments/thirty_seeds.py has trained count here, too. 60,000 training images, 20
epochs.
Command: python -m normstudy study experiments/no_norm.py --stack 5
"""

from normstudy.config import TrainConfig

TITLE = "No norm at all"
NUMBER = 23
REPORT = "baseline"
MAY_DIVERGE = True
SEEDS = range(10, 20)
RATES = (0.01, 0.03, 0.06)


def trials() -> list[TrainConfig]:
    """BN first, then each initialisation and rate without a norm."""
    return [
        *(TrainConfig(norm="bn", seed=seed) for seed in SEEDS),
        *(
            TrainConfig(norm="none", init=init, lr=rate, seed=seed)
            for init in ("default", "he")
            for rate in RATES
            for seed in SEEDS
        ),
    ]
