"""GroupNorm, LayerNorm, or BatchNorm with L1: which is best, and by how much?

Prediction: no pair differs by more than 0.1 points; averaged over seeds, LN and GN rank ahead of BN + L1.
Outcome: confirmed; the log says how.
Method: three variants of one network, ten paired seeds: with the same seed, all variants start from the same
convolution weights and see the same images in the same order with the same augmentation. 60,000 training images, 20
epochs; the last epoch is the result.
Status: the prediction and the margin of 0.1 points were fixed before the ten seeds were trained, the present tests
afterwards (the log has both), which changed none of the three verdicts.
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
