"""What do the corruptions of MNIST-C cost each norm?

Prediction: BN as trained is below GN by five points or more under brightness, fog and stripe, which move brightness or
contrast of the whole image, and within two points of GN under shear, scale, rotate and translate. With statistics of
the corrupted images BN's mean over the corruptions is not below GN's, and with those of batches of 32 it is at most one
point lower than with those of all. BN + L1 is within three points of BN.
Known beforehand: experiments/shift.py has brightness, contrast and rotation by formulas of our own, after 4 epochs.
Method: the networks of experiments/thirty_seeds.py, nothing is trained; the fifteen corruptions of Mu and Gilmer 2019,
"MNIST-C", arXiv 1906.02337, by the formulas and at the severity of their data set, with random draws of our own. Every
fourth test image is used. Networks with BatchNorm are asked three times: as trained; with mean and variance
of all the corrupted images; with those of each batch of 32. Tested are the means over the corruptions against BN
as trained, and BN against GN by corruption, simultaneous over the fifteen.
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
