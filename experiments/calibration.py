"""Are the networks well calibrated?

Prediction: after 20 epochs all three are over-confident, the temperature is above 1, and scaling lowers the NLL a
little.
Outcome: confirmed in part; the log says how.
Method: negative log-likelihood and expected calibration error (15 bins) on the test images, before and after a
temperature fitted on 6,000 held-out training images: Guo et al. 2017, "On Calibration of Modern Neural Networks".
Command: python -m normstudy study experiments/calibration.py --stack 5, then python -m normstudy measure
experiments/calibration.py
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Calibration"
NUMBER = 16
REPORT = "calibration"
MEASURES = ("calibration",)
SEEDS = range(10)


def trials() -> list[TrainConfig]:
    """The main comparison's variants, with images held out."""
    return [TrainConfig(**variant, seed=seed, val_size=6_000) for seed in SEEDS for variant in VARIANTS]
