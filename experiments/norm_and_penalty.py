"""In "BN + L1", which part is due to BN, and which to L1, after 20 epochs?

Prediction: in each norm and without one, L1 changes the accuracy by less than 0.05 points and is equivalent to none at
0.1 points. Of the norms without L1, GN, LN and IN are equivalent to BN; no norm is below BN by 0.05 to 0.3 points,
significantly.
Known beforehand: experiments/factorial.py has the same cells after 4 epochs with other seeds: no norm 0.11 points below
BN, L1 within 0.1 points of none.
Method: {BN, GN, LN, IN, none} x {no L1, L1}, ten paired seeds; the difference that L1 makes within each norm, and the
difference between each norm and BN without L1, all adjusted together. BN, GN, LN and BN + L1 are runs of
experiments/thirty_seeds.py, IN and none of experiments/training_length.py. 60,000 training images, 20 epochs.
Command: python -m normstudy study experiments/norm_and_penalty.py --stack 5
"""

from normstudy.config import L1, TrainConfig

TITLE = "Norm and penalty, 20 epochs"
NUMBER = 26
REPORT = "factorial"
SEEDS = range(10, 20)


def trials() -> list[TrainConfig]:
    """Each norm without and with the penalty."""
    return [
        TrainConfig(norm=norm, l1=l1, seed=seed)
        for norm in ("bn", "gn", "ln", "in", "none")
        for l1 in (0.0, L1)
        for seed in SEEDS
    ]
