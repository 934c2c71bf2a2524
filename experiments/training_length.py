"""Do the differences between norms that short training shows vanish with longer training?

Prediction: after one epoch BN is ahead of GN and LN by 0.3 points or more, and IN and no norm trail; each doubling of
the training about halves the spread; at 20 epochs BN, GN, LN and IN lie within 0.1 points, and no norm within 0.3.
Method: each norm and none, trained for 1, 2, 4, 8 and 20 epochs, each with a schedule of its own, on all images, five
seeds. Known beforehand: 4 epochs (experiments/factorial.py) and 20 (experiments/main.py), with other seeds. Trials that
experiments/thirty_seeds.py has trained count here, too.
Command: python -m normstudy study experiments/training_length.py --stack 5
"""

from normstudy.config import TrainConfig

TITLE = "Length of training"
NUMBER = 19
REPORT = "sweep"
SEEDS = range(10, 15)


def trials() -> list[TrainConfig]:
    """Each norm with each number of epochs."""
    return [
        TrainConfig(norm=norm, epochs=epochs, seed=seed)
        for epochs in (1, 2, 4, 8, 20)
        for norm in ("bn", "gn", "ln", "in", "none")
        for seed in SEEDS
    ]
