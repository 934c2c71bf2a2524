"""Does any norm overfit: how far is its accuracy on the training images as they are above that on test images?

Prediction: no norm does: each is right on 99.6 to 99.8 % of the training images as they are, the gap to the test images
is below 0.3 points, and the gaps of any two are equivalent at 0.1 points. The accuracy that training logs is that on
augmented images and lies below the test accuracy, so it can't show overfitting.
Method: the networks of experiments/thirty_seeds.py, nothing is trained: all 60,000 training images in eval mode,
without augmentation; the gap to the test images by seed, each pair of norms.
Command: python -m normstudy study experiments/overfitting.py --stack 5, then python -m normstudy measure
experiments/overfitting.py
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Overfitting"
NUMBER = 24
REPORT = "overfitting"
MEASURES = ("training",)
SEEDS = range(10, 40)


def trials() -> list[TrainConfig]:
    """Each variant and BN alone with each seed."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in (*VARIANTS, {"norm": "bn"})]
