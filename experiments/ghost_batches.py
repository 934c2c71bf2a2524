"""Does BatchNorm lose accuracy when its statistics come from few images, at the same number of steps?

Prediction: statistics over 2 images cost BatchNorm 0.3 points or more, over 4 images 0.1 or more, and over 8 and 16
they are equivalent to those over the whole batch of 32; GN and LN, which use no statistics of the batch, are equivalent
to BN with all 32.
Method: BN whose gradients come from batches of 32 as ever and whose statistics come from 2, 4, 8 or 16 of these images
(Hoffer et al. 2017, "Train longer, generalize better", algorithm 1), so that steps, rate and gradient noise stay; GN
and LN beside it; each against BN over all 32. Wu and He 2018, "Group Normalization", section 4.1, vary the images of a
worker in this way. Ten seeds; trials that experiments/thirty_seeds.py has trained count here, too. 60,000 training
images, 20 epochs.
Status: confirmatory for the four sizes; GN and LN beside BN are exploratory.
Command: python -m normstudy study experiments/ghost_batches.py --stack 5
"""

from normstudy.config import TrainConfig

TITLE = "Images behind BatchNorm's statistics"
NUMBER = 20
REPORT = "baseline"
SEEDS = range(10, 20)
GHOSTS = (0, 16, 8, 4, 2)


def trials() -> list[TrainConfig]:
    """BN with each size, the whole batch first, then GN and LN."""
    batch_norm = [TrainConfig(norm="bn", ghost_batch=ghost, seed=seed) for ghost in GHOSTS for seed in SEEDS]
    return [*batch_norm, *(TrainConfig(norm=norm, seed=seed) for norm in ("gn", "ln") for seed in SEEDS)]
