"""Is any norm needed, when the network without one begins with He's initial weights?

Prediction: with He's initial convolutions and a peak rate of 0.03 the network without a norm is equivalent to BN at 0.1
points; with torch's and the same rate BN is better by 0.1 points or more, significantly. With torch's at 0.06 at least
one of ten runs diverges, with He's none. The other cells are exploratory.
Known beforehand, with torch's initial weights: no norm is 0.11 points below BN after 4 epochs, and 0.03 is the highest
rate of half a decade's steps that it bears (experiments/factorial.py, experiments/learning_rate.py).
Method: no norm, which keeps a learned scale and shift for each channel, with torch's initial weights and with He's in
all convolutions (He et al. 2015, "Delving Deep into Rectifiers", section 2.2; the linear layer keeps torch's), each at
peak rates of 0.01, 0.03 and 0.06, and BN with He's; each against BN with torch's initial weights and the shared recipe.
Ten seeds; BN's are runs of experiments/thirty_seeds.py. A cell of which a run diverged is not compared. The other pairs
are adjusted together. 60,000 training images, 20 epochs.
Command: python -m normstudy study experiments/no_norm.py --stack 5
"""

from normstudy.config import TrainConfig

TITLE = "No norm at all"
NUMBER = 22
REPORT = "baseline"
MAY_DIVERGE = True
SEEDS = range(10, 20)
RATES = (0.01, 0.03, 0.06)


def trials() -> list[TrainConfig]:
    """BN first, with He's initialisation, too; then each initialisation and rate without a norm."""
    batch_norm = [TrainConfig(norm="bn", init=init, seed=seed) for init in ("default", "he") for seed in SEEDS]
    return [
        *batch_norm,
        *(
            TrainConfig(norm="none", init=init, lr=rate, seed=seed)
            for init in ("default", "he")
            for rate in RATES
            for seed in SEEDS
        ),
    ]
