"""GroupNorm, LayerNorm, BatchNorm, or BatchNorm with L1: which, and by how much, with thirty new seeds?

Prediction: GN, LN and BN + L1 are equivalent at a margin of 0.05 points, each pair; BN and BN + L1 differ by less than
0.02 points. Over thirty seeds GN and LN stand before BN + L1, as with ten, but no pair differs significantly from 0.
The standard deviation over seeds is between 0.04 and 0.06 points, no more than independent errors on 10,000 test images
give, and the correlation between norms of runs with the same seed lies within its noise.
Outcome: confirmed in part; the log says how.
Method: four variants of one network, thirty paired seeds that no experiment has used; seeds 0 to 9 are known from the
main comparison, so they would confirm nothing. Three comparisons are confirmatory: GN with LN, GN with
BN + L1, LN with BN + L1; each that includes BN alone is exploratory. Each rests on the paired differences of test
accuracy at the last epoch: a Student's t interval of 98.33 % (Bonferroni for three), two one-sided t-tests for
equivalence at 0.05 and at 0.1 points, a paired t-test for a difference, both adjusted by Bonferroni. All
thirty seeds count; a run that diverges is reported as such. 60,000 training images, 20 epochs.
Status: confirmatory for GN, LN and BN + L1; exploratory for BN alone. Planned for seeds 0 to 29 at first, and changed
to new ones before a run had ended.
Command: python -m normstudy study experiments/thirty_seeds.py --stack 5
"""

from normstudy.config import VARIANTS, TrainConfig

TITLE = "Thirty new seeds, and BN alone"
NUMBER = 18
REPORT = "errors"
CONFIRMATORY = (("GN", "LN"), ("GN", "BN + L1"), ("LN", "BN + L1"))
MARGINS = (0.0005,)
SEEDS = range(10, 40)


def trials() -> list[TrainConfig]:
    """Each variant and BN alone with each seed; a seed's four stand together, so that the study grows by pairs."""
    return [TrainConfig(**variant, seed=seed) for seed in SEEDS for variant in (*VARIANTS, {"norm": "bn"})]
