"""Which norm overfits, and by how much?

Prediction: every norm is right on 99.6 to 99.8 % of its training images without augmentation; the gap to the test
images is below 0.3 points, and the gaps of any two are equivalent at 0.1 points.
Known beforehand: the two sets are not equally hard. Training images that were held out came out 0.04 to 0.17 points
below the test images (experiments/calibration.py), so the gap to the test images understates overfitting by about that,
for each norm alike. Which norm overfits more is read off the differences, not off the gaps.
Outcome: confirmed; the log says how.
Method: the networks of experiments/thirty_seeds.py, nothing is trained: all 60,000 training images in eval mode, as
they are, though training showed them only moved; the gap to the test images by seed, each pair of norms. The accuracy
that training logs is that on moved images and lies below the test accuracy, so it can't show overfitting.
Command: python -m normstudy study experiments/overfitting.py --stack 5, then python -m normstudy measure
experiments/overfitting.py
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Overfitting"
NUMBER = 23
REPORT = "overfitting"
MEASURES = ("training",)
SEEDS = range(10, 40)


def trials() -> list[TrainConfig]:
    """Each variant and BN alone with each seed."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in (*VARIANTS, {"norm": "bn"})]
