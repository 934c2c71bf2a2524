"""In "BN + L1", which part is due to BN, and which to L1?

Prediction: L1 with this lambda changes no norm's accuracy by more than 0.1 points; having no norm costs more than any
choice among norms.
Outcome: confirmed in part; the log says how.
Method: {BN, GN, LN, IN, none} x {no L1, L1}, ten paired seeds; the difference that L1 makes within each norm, and the
difference between each norm and BN without L1.
Scale-down: to 4 epochs (instead of 20), because the ten cells need 100 runs; so all accuracies are lower than in the
main comparison, and differences are those of short training.
Command: python -m normstudy study experiments/factorial.py --stack 5
"""

from normstudy.config import L1, TrainConfig

TITLE = "Norm and penalty"
NUMBER = 9
REPORT = "factorial"
SEEDS = range(10)
NORMS = ("bn", "gn", "ln", "in", "none")
EPOCHS = 4


def trials() -> list[TrainConfig]:
    """Each norm without and with the penalty."""
    return [
        TrainConfig(norm=norm, l1=l1, seed=seed, epochs=EPOCHS) for norm in NORMS for l1 in (0.0, L1) for seed in SEEDS
    ]
