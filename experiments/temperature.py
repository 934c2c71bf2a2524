"""Are the networks over- or under-confident, over seeds and images?

Prediction: no: the simultaneous interval of each temperature holds 1 and lies within 0.93 and 1.07, and scaling by the
temperature of other images changes the mean loss of none by more than 0.0002 nats.
Outcome: confirmed in part; the log says how.
Method: the networks of experiments/thirty_seeds.py, nothing is trained. The temperature (Guo et al. 2017, "On
Calibration of Modern Neural Networks", section 4.2) is fitted on nine tenths of the test images and applied to the
tenth, for each tenth in turn, so that no image is scaled by a temperature that it helped to fit and all training images
serve training. Temperatures are those of the jackknife over tenths, free of the bias of a fit. The intervals take seeds
and images, as tenths of the test set, for samples: a two-way analysis of variance, Student's t, Bonferroni over the
variants and over the two numbers of each.
Command: python -m normstudy study experiments/temperature.py --stack 5, then python -m normstudy measure
experiments/temperature.py
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Temperature, fitted crosswise"
NUMBER = 24
REPORT = "temperature"
MEASURES = ("crossfit",)
SEEDS = range(10, 40)


def trials() -> list[TrainConfig]:
    """Each variant and BN alone with each seed."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in (*VARIANTS, {"norm": "bn"})]
