"""Do the differences between norms that short training shows vanish with longer training?

Prediction: after 1 epoch BN's mean is 0.3 points or more above GN's and LN's, and those of IN and of no norm lie below
all three. From 1 epoch to 20 the lead of BN over each of the four shrinks, significantly. At 20 epochs BN, GN, LN and
IN are equivalent at 0.1 points, each against BN, and no norm is at most 0.3 points below BN in the mean.
Known beforehand, with other seeds: 2 epochs (experiments/learning_rate.py, two seeds: GN and IN level with BN, LN 0.08
and no norm 0.16 points below), 4 epochs (experiments/factorial.py), 20 epochs (experiments/main.py).
Method: each norm and none, trained for 1, 2, 4, 8 and 20 epochs, each with a schedule of its own, on all images, ten
seeds. The recipe is that chosen for 20 epochs, so a norm may trail early because its rate doesn't suit it. Tested are
the four differences to BN at each length, and by seed how each of them changes from 1 epoch to 20; each four are
adjusted together. BN, GN and LN at 20 epochs are runs of experiments/thirty_seeds.py.
Command: python -m normstudy study experiments/training_length.py --stack 5
"""

from normstudy.config import TrainConfig

TITLE = "Length of training"
NUMBER = 19
REPORT = "sweep"
MAY_DIVERGE = True
SEEDS = range(10, 20)


def trials() -> list[TrainConfig]:
    """Each norm with each number of epochs."""
    return [
        TrainConfig(norm=norm, epochs=epochs, seed=seed)
        for epochs in (1, 2, 4, 8, 20)
        for norm in ("bn", "gn", "ln", "in", "none")
        for seed in SEEDS
    ]
