"""Do networks of 20 epochs cope with shifted images as those of 4 epochs do, and which shifts does BatchNorm not bear?

Prediction: the ranking is that of experiments/shift.py: BN as trained loses most, ten points or more to GN. By
corruption BN falls behind GN where the level or range of grey changes (brightness, contrast, noise, inversion), and
stays within three points of it under rotation and occlusion.
Method: as experiments/shift.py, with networks that experiments/thirty_seeds.py and experiments/training_length.py have
trained for 20 epochs; nothing else is trained. BN beside GN by corruption, mean over severities.
Scale-down: every fourth test image is used, and five seeds.
Command: python -m normstudy study experiments/shift_long.py --stack 5, then python -m normstudy measure
experiments/shift_long.py
"""

from normstudy.config import TrainConfig

TITLE = "Shifted images, 20 epochs"
NUMBER = 26
REPORT = "shift"
MEASURES = ("shift",)
SEEDS = range(10, 15)


def trials() -> list[TrainConfig]:
    """Each norm without the penalty."""
    return [TrainConfig(norm=norm, seed=seed) for norm in ("bn", "gn", "ln", "in", "none") for seed in SEEDS]
