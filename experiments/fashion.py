"""Are the norms equivalent on Fashion-MNIST, too?

Prediction: the ranking of MNIST does not carry over: the pairs that differ, and their order, are not the same.
Outcome: confirmed; the log says how.
Method: the main comparison's three variants, ten paired seeds and recipe, which was chosen for digits, on
Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), read by torchvision from the folder that NORMSTUDY_FASHION names;
Debian's package dataset-fashion-mnist provides the files.
Scale-down: to 4 epochs.
Command: NORMSTUDY_FASHION=FOLDER python -m normstudy study experiments/fashion.py --stack 5
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Fashion-MNIST"
NUMBER = 17
REPORT = "groups"
SEEDS = range(10)


def trials() -> list[TrainConfig]:
    """Each variant with each seed."""
    return [TrainConfig(**variant, seed=seed, dataset="fashion", epochs=4) for variant in VARIANTS for seed in SEEDS]
