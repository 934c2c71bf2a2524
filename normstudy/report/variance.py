"""Seeds and test images as two crossed samples: how far an accuracy or a difference would move with others of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import f

from normstudy.report.tables import TEST_IMAGES, Tables, errors_by
from normstudy.stats import FEWEST_SEEDS

SHUFFLES = 10_000  # of the permutation test


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A mean over seeds and images, and where its noise comes from; in the unit of the values.

    `seed_error` is its standard error over other seeds on the same images, `error` over other seeds and other images.
    `seed_deviation` is the standard deviation over seeds of the accuracy on unlimited images, free of the noise of
    these: Jordan 2023, arXiv:2304.01910, section 3. `ratio` is the variance over seeds, in multiples of what
    independent errors on each image would give, at most `ratio_limit` (one-sided 95 % limit), and `p` that of a ratio
    above 1 (F-test).
    """

    mean: float
    seed_error: float
    error: float
    seed_deviation: float
    ratio: float
    ratio_limit: float
    p: float


def crossed(values: Float[np.ndarray, "seeds images"]) -> Crossed:
    """Two-way analysis of variance without replication, both factors random, as in Searle, Casella and McCulloch 1992,
    "Variance Components", section 4.3; of 0 or 1 for each seed and image, of differences of these, or of any number for
    each seed and part of the images.

    Raises `ValueError` for fewer than two seeds.
    """
    seeds, images = values.shape
    if seeds < 2:
        raise ValueError(f"variance over seeds needs two or more, not {seeds}")
    by_seed, by_image, mean = values.mean(1), values.mean(0), float(values.mean())
    of_seeds = images * float(by_seed.var(ddof=1))
    of_images = seeds * float(by_image.var(ddof=1))
    rest = values - by_seed[:, None] - by_image[None, :] + mean
    residual = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    ratio = of_seeds / residual if residual else 1.0
    return Crossed(
        mean=mean,
        seed_error=(of_seeds / (seeds * images)) ** 0.5,
        error=((residual + max(0.0, of_seeds - residual) + max(0.0, of_images - residual)) / (seeds * images)) ** 0.5,
        seed_deviation=max(0.0, (of_seeds - residual) / images) ** 0.5,
        ratio=ratio,
        ratio_limit=ratio / float(f.ppf(0.05, seeds - 1, (seeds - 1) * (images - 1))),
        p=float(f.sf(ratio, seeds - 1, (seeds - 1) * (images - 1))),
    )


def correct(tables: Tables, group: str) -> Float[np.ndarray, "seeds images"]:
    """1 where a seed of the group classifies an image correctly, else 0; seeds ascending."""
    runs = tables.results[tables.results["group"] == group].sort_values("seed")
    wrong = errors_by(tables, "run_id")
    found = np.ones((len(runs), TEST_IMAGES))
    for row, run_id in enumerate(runs["run_id"]):
        found[row, sorted(wrong[run_id])] = 0
    return found


def disagreement(tables: Tables, groups: Sequence[str]) -> tuple[float, float, float]:
    """On how many images two networks disagree on being right: of one group, and of two; means over pairs. And the
    p-value that the second is no larger, from shuffled labels of the groups.

    Two networks of one group have two seeds; so have those of two groups that are counted.
    """
    rows = [(group, seed, row) for group in groups for seed, row in enumerate(correct(tables, group).astype(bool))]
    labels, seeds = np.array([group for group, _, _ in rows]), np.array([seed for _, seed, _ in rows])
    right = np.array([row for _, _, row in rows]).astype(np.float32)
    both = right @ right.T
    count = right.sum(1)
    apart = count[:, None] + count[None, :] - 2 * both
    first, second = np.array(list(combinations(range(len(rows)), 2))).T
    kept = seeds[first] != seeds[second]
    first, second = first[kept], second[kept]
    apart = apart[first, second]

    def means(named: np.ndarray) -> tuple[float, float]:
        same = named[first] == named[second]
        return float(apart[same].mean()), float(apart[~same].mean())

    within, between = means(labels)
    generator = np.random.default_rng(0)
    shuffled = [np.subtract(*means(_shuffled(labels, seeds, generator))[::-1]) for _ in range(SHUFFLES)]
    more = 1 + sum(one >= between - within - 1e-9 for one in shuffled)
    return within, between, more / (SHUFFLES + 1)


def _shuffled(labels: np.ndarray, seeds: Int[np.ndarray, " runs"], generator: np.random.Generator) -> np.ndarray:
    """The labels, exchanged among the runs of each seed: under the null a seed's runs differ by no norm."""
    mixed = labels.copy()
    for seed in np.unique(seeds):
        rows = np.flatnonzero(seeds == seed)
        mixed[rows] = generator.permutation(labels[rows])
    return mixed


def seed_correlation(tables: Tables, a: str, b: str) -> float:
    """Pearson's correlation over seeds of the accuracies of two groups: what pairing by seed gains."""
    rows = tables.results[tables.results["group"].isin([a, b])]
    table = rows.pivot(index="seed", columns="group", values="test_accuracy").dropna()
    return float(table[a].corr(table[b]))


def two_samples(tables: Tables) -> dict[str, Any]:
    """All of this for a page, of runs that ended: each group, each pair on the same seeds, and the disagreement; empty
    where groups have different seeds, or one.
    """
    seeds = tables.results.groupby("group", sort=False)["seed"].agg(sorted)
    names = [str(name) for name in seeds.index]
    if len(names) < 2 or len(seeds.iloc[0]) < FEWEST_SEEDS or any(each != seeds.iloc[0] for each in seeds):
        return {}
    right = {name: correct(tables, name) for name in names}
    pairs = []
    for a, b in combinations(names, 2):
        both = crossed(right[a] - right[b])
        errors = {"seed_error": both.seed_error, "error": both.error}
        pairs.append({"a": a, "b": b, **errors, "correlation": seed_correlation(tables, a, b)})
    # of an experiment with confirmatory pairs their groups alone, so that BatchNorm doesn't count as two norms
    planned = [name for name in names if any(name in pair for pair in tables.about.confirmatory)] or names
    return {
        "groups": {name: crossed(found) for name, found in right.items()},
        "pairs": pairs,
        "disagreement": disagreement(tables, planned),
        "disagreeing": planned,
        # half of Fisher's 95 % interval about 0
        "uncertain": math.tanh(1.96 / (len(seeds.iloc[0]) - 3) ** 0.5) if len(seeds.iloc[0]) > 3 else 1.0,
    }
