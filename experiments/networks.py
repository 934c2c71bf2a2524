"""Which network under 8,000 parameters, and which under 4,000? A screening on 6,000 held-out training images.

Prediction: at this size a second convolution at 7 x 7 with skip connections beats wider channels.
Outcome: refuted; the log says how.
Method: each norm gets the same number of tries: every network once, for 5 epochs. The rule, fixed beforehand: of each
size, the two networks with the lowest held-out loss, averaged over the three variants, go on to experiments/recipe.py.
Command: python -m normstudy study experiments/networks.py
"""

from normstudy.config import TrainConfig

TITLE = "Networks"
NUMBER = 1
REPORT = "held_out"
HELD_OUT = 6_000
NETWORKS = ("plain", "wide", "skip", "late", "deep", "deepskipless", "small", "narrow", "narrowplain")
VARIANTS = ({"norm": "gn"}, {"norm": "ln"}, {"norm": "bn", "l1": 1e-5})


def trials() -> list[TrainConfig]:
    """Every network with each variant."""
    return [
        TrainConfig(val_size=HELD_OUT, epochs=5, batch_size=64, lr=0.06, network=network, **v)
        for network in NETWORKS
        for v in VARIANTS
    ]
