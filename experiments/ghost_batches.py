"""Does BatchNorm lose accuracy when its statistics come from few images, at the same number of steps?

Prediction: against BN over all 32, the mean loss is 0.3 points or more over 2 images and 0.1 or more over 4, both
significant; over 8 and over 16 images BN is equivalent at 0.1 points. With statistics re-estimated after training, in
batches of 250, more than half of the loss over 2 images stays.
Known beforehand: whole batches of 2, 4 and 8 cost BN nothing (experiments/batch_size.py: 2 epochs, 20,000 images).
Method: BN whose statistics in training come from 2, 4, 8 or 16 of the 32 images of a batch, so that steps, rate and the
images behind each gradient stay; the noise of the statistics is what grows. Ghosts as in Hoffer et al. 2017, "Train
longer, generalize better", algorithm 1, except that the running averages take the mean of a step's ghosts once. Few
images have too little variance between them, and so have those averages: a loss may arise in training or in evaluation,
hence the statistics re-estimated on the test images. Wu and He 2018, "Group Normalization", section 4.1, vary the
images of each of 8 workers, and with them, unlike here, the batch behind a gradient, the steps of an epoch and the
rate. Ten seeds; BN over all, GN and LN are runs of experiments/thirty_seeds.py. 60,000 training images, 20 epochs.
Status: confirmatory for the four sizes. GN and LN beside BN are exploratory: the same runs, a third of the seeds, as in
experiments/thirty_seeds.py.
Command: python -m normstudy study experiments/ghost_batches.py --stack 5, then python -m normstudy measure
experiments/ghost_batches.py
"""

from normstudy.config import TrainConfig

TITLE = "Images behind BatchNorm's statistics"
NUMBER = 20
REPORT = "ghost"
MAY_DIVERGE = True
MEASURES = ("statistics",)
SEEDS = range(10, 20)
GHOSTS = (0, 16, 8, 4, 2)
CONFIRMATORY = tuple((f"BN, ghost_batch_size {ghost}", "BN, ghost_batch_size 0") for ghost in GHOSTS[1:])


def trials() -> list[TrainConfig]:
    """BN with each size, the whole batch first, then GN and LN."""
    batch_norm = [TrainConfig(norm="bn", ghost_batch_size=ghost, seed=seed) for ghost in GHOSTS for seed in SEEDS]
    return [*batch_norm, *(TrainConfig(norm=norm, seed=seed) for norm in ("gn", "ln") for seed in SEEDS)]
