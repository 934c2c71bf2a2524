"""Does BatchNorm degrade at a batch size of 2? The GroupNorm paper's figure, at 8,000 parameters.

Prediction: with BatchNorm the error at a batch size of 2 is at least twice that at 64; with GN and LN it is not.
Outcome: confirmed in part; the log says how.
Method: BN, GN and LN at batch sizes from 2 to 1024. The learning rate is retuned for each batch size and norm: the
candidates are the recipe's rate times the square root of (batch size / 32), and an eighth to four times that in steps
of two; the one with the lowest mean loss on 6,000 held-out images is chosen, and the test accuracy of its runs is
reported. Wu and He 2018, "Group Normalization", figure 5.
Scale-down: to 20,000 training images, 2 epochs, 3 seeds, and every second power of two above 16.
Command: python -m normstudy study experiments/batch_size.py --stack 3
"""

from normstudy.config import TrainConfig

TITLE = "Batch size"
NUMBER = 12
REPORT = "batch_size"
MAY_DIVERGE = True
SEEDS = range(3)
BATCH_SIZES = (2, 4, 8, 16, 64, 256, 1024)
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
SHORT = {"epochs": 2, "train_size": 20_000, "val_size": 6_000}
RECIPE = TrainConfig()


def trials() -> list[TrainConfig]:
    """Each norm and batch size with six learning rates."""
    return [
        TrainConfig(
            norm=norm,
            batch_size=size,
            lr=float(f"{factor * RECIPE.lr * (size / RECIPE.batch_size) ** 0.5:.3g}"),
            seed=seed,
            **SHORT,
        )
        for size in BATCH_SIZES
        for norm in ("bn", "gn", "ln")
        for factor in FACTORS
        for seed in SEEDS
    ]
