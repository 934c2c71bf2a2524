"""GroupNorm, LayerNorm, or BatchNorm with L1: which, and by how much?

Prediction: no pair differs by more than 0.1 points; in the mean over seeds LN and GN stand before BN + L1.
Method: three variants of one network, ten paired seeds: a seed gives every variant the same initial convolution
weights, the same order of the images and the same augmentation. 60,000 training images, 20 epochs, the last one
counts.
Scale-down: nothing.
Command: python -m normstudy study experiments/main.py --stack 5
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Main comparison"
NUMBER = 3
REPORT = "errors"
TARGETS = {"every": 0.9950, "best": 0.9955}
SEEDS = range(10)


def trials() -> list[TrainConfig]:
    """Each variant with each seed; a seed's three stand together, so that the study grows by pairs."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in VARIANTS]
