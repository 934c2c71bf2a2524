"""Which one recipe suits all three norms? Chosen on 10,000 held-out training images; the test set has no say.

Command: python -m normstudy study experiments/recipe.py
Bet: a peak learning rate that BatchNorm bears costs GroupNorm and LayerNorm accuracy, so the gentler one wins the mean.
Every norm gets the same three tries; BatchNorm gets one more for its lambda.
"""

from normstudy.config import TrainConfig

HELD_OUT = 10_000
VARIANTS = ({"norm": "gn"}, {"norm": "ln"}, {"norm": "bn", "l1": 1e-5})
RECIPES = (
    {"lr": 0.06, "weight_decay": 1e-4},
    {"lr": 0.06, "weight_decay": 5e-4},
    {"lr": 0.1, "weight_decay": 1e-4},
)


def trials() -> list[TrainConfig]:
    """Three recipes for each variant, and a tenfold lambda for the recipe in the middle."""
    grid = [{**variant, **recipe} for recipe in RECIPES for variant in VARIANTS]
    return [TrainConfig(val_size=HELD_OUT, **trial) for trial in [*grid, {"norm": "bn", "l1": 1e-4, **RECIPES[1]}]]
