"""Which shifted images do networks of 20 epochs bear, by norm and by corruption?

Prediction: BN as trained has the lowest mean of the six, ten points or more below GN's. BN is significantly below GN
under noise, blur, contrast, brightness and inversion; under rotation and occlusion its mean is within three points.
Known beforehand: the page of experiments/shift.py has all of this for 4 epochs and other seeds, by corruption, too.
Method: as experiments/shift.py, with networks of 20 epochs that experiments/thirty_seeds.py (BN, GN, LN: 30 seeds) and
experiments/training_length.py (IN and none: ten seeds) have trained; nothing else is trained. Every fourth test image
is used. BN beside GN by corruption, mean over severities, simultaneous over the seven; the norms against BN.
Command: python -m normstudy study experiments/shift_long.py --stack 5, then python -m normstudy measure
experiments/shift_long.py
"""

from normstudy.config import TrainConfig

TITLE = "Shifted images, 20 epochs"
NUMBER = 25
REPORT = "shift"
MEASURES = ("shift",)
SEEDS = {"bn": range(10, 40), "gn": range(10, 40), "ln": range(10, 40), "in": range(10, 20), "none": range(10, 20)}


def trials() -> list[TrainConfig]:
    """Each norm without the penalty."""
    return [TrainConfig(norm=norm, seed=seed) for norm, seeds in SEEDS.items() for seed in seeds]
