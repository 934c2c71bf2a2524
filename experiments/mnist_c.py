"""What do the corruptions of MNIST-C cost each norm?

Prediction: (1) BN is five points or more below GN under brightness, fog and stripe each, which move brightness or
contrast of much of the image; (2) it is within two points of GN under shear, scale, rotate and translate each. (3) With
statistics of the corrupted images BN's mean over the corruptions is above GN's; (4) with those of batches of 32 it is
less than one point below that. (5) The mean of BN + L1 is within three points of BN's. Where nothing else is
said, networks are as trained. A clause is met where the simultaneous interval lies wholly inside what it says, refuted
where it lies wholly outside, and open otherwise.
Known beforehand: experiments/shift.py has brightness, contrast and rotation by formulas of our own, after 4 epochs.
Outcome: confirmed; the log says how.
Method: the networks of experiments/thirty_seeds.py, nothing is trained; the fifteen corruptions of Mu and Gilmer 2019,
"MNIST-C", arXiv 1906.02337, by the formulas and at the severity of their data set, with random draws of our own. Every
fourth test image is used. Networks with BatchNorm are asked three times: as trained; with mean and variance of the
corrupted images, averaged over ten batches of 250; with those of each batch of 32. Two families of comparisons: the
means over the corruptions, each group against BN as trained, BN with new statistics against GN, and batches of 32
against all; and BN against GN by corruption. Each family's intervals are simultaneous.
Command: python -m normstudy study experiments/mnist_c.py --stack 5, then python -m normstudy measure
experiments/mnist_c.py
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "MNIST-C"
NUMBER = 25
REPORT = "mnist_c"
MEASURES = ("mnist_c",)
SEEDS = range(10, 40)


def trials() -> list[TrainConfig]:
    """Each variant and BN alone with each seed."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in (*VARIANTS, {"norm": "bn"})]
