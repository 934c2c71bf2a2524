"""Which norm copes best with shifted images?

Prediction: BatchNorm as trained loses most; with statistics re-estimated on the shifted images it recovers and does
better than the others.
Outcome: confirmed in part; the log says how.
Method: the networks of experiments/factorial.py without L1, on the test images under seven corruptions of our own
(noise, blur, contrast, brightness, rotation, occlusion, inversion) at five severities; BatchNorm also with statistics
re-estimated on the shifted images, without labels. Re-estimation sees all shifted images at once, the other norms one
at a time. Norms that work per image undo most of a change in brightness or contrast by construction. Inversion
reverses the contrast from severity 3 on.
Scale-down: the networks are those of 4 epochs; every fourth test image is used.
Command: python -m normstudy study experiments/shift.py --stack 5, then python -m normstudy measure
experiments/shift.py
"""

from normstudy.config import TrainConfig

TITLE = "Shifted images"
NUMBER = 15
REPORT = "shift"
MEASURES = ("shift",)
SEEDS = range(10)
EPOCHS = 4


def trials() -> list[TrainConfig]:
    """Each norm without the penalty."""
    return [
        TrainConfig(norm=norm, seed=seed, epochs=EPOCHS) for norm in ("bn", "gn", "ln", "in", "none") for seed in SEEDS
    ]
