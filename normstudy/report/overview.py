"""All experiments of an export together: what others reported beside what was found here, and the differences between
the three main variants pooled over every experiment that trained them in full."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import cast

import numpy as np
import pandas as pd
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects

from normstudy.config import VARIANTS, TrainConfig
from normstudy.figures import DARK, Picture
from normstudy.report import groups, measures, networks, sweeps
from normstudy.report.charts import label_rows
from normstudy.report.groups import Facts
from normstudy.report.tables import TEST_IMAGES, CollapseTables, OverfittingTables, PenaltyTables, Tables, by_seed
from normstudy.report.text import markdown_table, paragraphs, render, signed
from normstudy.stats import (
    FEWEST_SEEDS,
    MARGIN,
    SIGNIFICANCE,
    Comparison,
    binomial_deviation,
    compare_pairs,
    difference_p_value,
    tost_p_value,
)
from normstudy.tracking import Metric

NAME = "overview"  # of its folder, beside those of the experiments
TITLE = "What others reported, and all experiments together"
IN_README = 3  # rows of the reported claims
FULL = TrainConfig()  # as long, and on as many images, as the main comparison trains


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A difference of two variants, as fractions: that of each experiment by its title, and their weighted means.

    `fixed` supposes one difference in all experiments, `random` one that varies between them; each is a mean and its
    95 % interval. `pairs` counts the pairs of seeds. `p` is that of no difference, `equivalence_p` that of one as large
    as the margin, both of `random`, adjusted by Bonferroni
    for the pairs. `heterogeneity_p` is that of Cochran's test for a difference that varies.
    """

    a: str
    b: str
    experiments: dict[str, Comparison]
    fixed: tuple[float, float, float]
    random: tuple[float, float, float]
    p: float
    equivalence_p: float
    heterogeneity_p: float

    @property
    def pairs(self) -> int:
        """How many pairs of seeds there are in all experiments."""
        return sum(pair.n for pair in self.experiments.values())


def replicates(every: Mapping[str, Tables]) -> dict[str, pd.DataFrame]:
    """By title, the test accuracies of the experiments that trained the three main variants of one network on MNIST
    for as many epochs as the main comparison: a row a seed, a column a variant.

    One whose trials are all among another's is left out: its runs would count twice.
    """
    variants = [TrainConfig(**variant).variant for variant in VARIANTS]
    found: dict[str, tuple[set[str], pd.DataFrame]] = {}
    for name, tables in every.items():
        results = tables.results[tables.results["group"].isin(variants) & tables.results["diverged_at"].isna()]
        full = (results["epochs"] == FULL.epochs) & (results["train_size"] == 0) & (results["dataset"] == FULL.dataset)
        accuracies = by_seed(results) if full.all() and set(variants) == set(results["group"]) else None
        if accuracies is not None and len(accuracies) >= FEWEST_SEEDS:
            keys = {config.trial_key for config in replace(tables, results=results).configs()}
            found[tables.about.title or name] = keys, accuracies[variants]
    kept: dict[str, pd.DataFrame] = {}
    seen: list[set[str]] = []
    for title, (keys, table) in sorted(found.items(), key=lambda item: -len(item[1][0])):
        if not any(keys <= larger for larger in seen):
            kept[title] = table
            seen.append(keys)
    return kept


def pooled(accuracies: Mapping[str, pd.DataFrame]) -> list[Pooled]:
    """Each pair of variants over these experiments, weighted by the inverse variance; none of fewer than two.

    Paule and Mandel 1982, "Consensus Values and Weighting Factors", for the variance between experiments, by
    statsmodels; Röver, Knapp and Friede 2015, "Hartung-Knapp-Sidik-Jonkman approach and its modification for
    random-effects meta-analysis with few studies", for the interval.
    """
    if len(accuracies) < 2:
        return []
    names = next(iter(accuracies.values())).columns
    pairs = list(combinations(names, 2))
    found = []
    for a, b in pairs:
        each = {title: compare_pairs(table, [(a, b)])[0] for title, table in accuracies.items()}
        effects, errors = np.array([(pair.difference, pair.error) for pair in each.values()]).T
        result = combine_effects(effects, errors**2, method_re="iterated")
        # not below 1: few experiments that agree by chance would give an interval narrower than that of a fixed effect
        error = float(result.sd_eff_w_re) * max(1.0, float(result.scale_hksj_re)) ** 0.5
        low, high = map(float, result.conf_int(use_t=False)[0])
        random, freedom = float(result.mean_effect_re), len(each) - 1.0
        half = error * float(t.isf(SIGNIFICANCE / 2, freedom))
        found.append(
            Pooled(
                a=a,
                b=b,
                experiments=each,
                fixed=(float(result.mean_effect_fe), low, high),
                random=(random, random - half, random + half),
                p=min(1.0, len(pairs) * difference_p_value(random, error, freedom)),
                equivalence_p=min(1.0, len(pairs) * tost_p_value(random, error, freedom, MARGIN)),
                heterogeneity_p=float(result.test_homogeneity().pvalue),
            )
        )
    return found


def one_run_each(tables: Tables) -> Facts:
    """What a study of one run for each group would have found, over every way to choose one seed of each: in which
    share of them a group comes first, ties shared, and the median distance of first and last.
    """
    accuracies = by_seed(tables.results)
    assert accuracies is not None
    grids = np.meshgrid(*(accuracies[group].to_numpy() for group in accuracies), indexing="ij")
    chosen = np.stack([grid.ravel() for grid in grids])
    first = chosen == chosen.max(axis=0)
    shares = (first / first.sum(axis=0)).mean(axis=1)
    apart = chosen.max(axis=0) - chosen.min(axis=0)
    return {"first": dict(zip(accuracies, shares, strict=True)), "apart": float(np.median(apart))}


def rises(tables: Tables) -> dict[str, float]:
    """In how many epochs of a run the test loss is higher than in the epoch before, mean over the seeds of a group."""
    curves = groups.curves(tables, Metric.TEST_LOSS)
    return {group: float((curve.diff() > 0).sum().mean()) for group, curve in curves.items()}


def reported(every: Mapping[str, Tables]) -> list[list[str]]:
    """The rows of the table of claims: what others reported, with its source, what is found here, and why the two
    differ; empty without each of the experiments that they are made of.
    """
    needed = {"thirty_seeds", "overfitting", "penalty", "collapse", "batch_size", "learning_rate"}
    if needed - set(every) or every["thirty_seeds"].results["diverged_at"].notna().any():
        return []
    best = every["thirty_seeds"]
    three = of_groups(best, [TrainConfig(**variant).variant for variant in VARIANTS])
    means = best.results.groupby("group", sort=False)[["test_accuracy", "test_loss"]].mean()
    facts = {
        "one": one_run_each(three),
        "seeds": best.results["seed"].nunique(),
        "epochs": int(best.results["epochs"].max()),
        "means": means.to_dict(orient="index"),
        "rises": rises(three),
        "pairs": {(pair.a, pair.b): pair for pair in groups.comparisons(best)},
        "confirmatory": groups.confirmatory(best),
        "noise": binomial_deviation(float(means["test_accuracy"].mean()), TEST_IMAGES),
        "parameters": int(best.results["parameters"].max()),
        "overfitting": networks.overfitting_facts(cast(OverfittingTables, every["overfitting"])),
        "penalty": measures.penalty_facts(cast(PenaltyTables, every["penalty"])),
        "collapse": measures.collapse_facts(cast(CollapseTables, every["collapse"])),
        "batch_size": sweeps.batch_size_facts(every["batch_size"]),
        "learning_rate": sweeps.learning_rate_facts(every["learning_rate"]),
    }
    return [[cell.strip() for cell in row.split("|")] for row in paragraphs("reported", facts)]


def of_groups(tables: Tables, names: Sequence[str]) -> Tables:
    """Results and epochs of these groups alone."""
    results, epochs = (rows[rows["group"].isin(names)] for rows in (tables.results, tables.epochs))
    return replace(tables, results=results, epochs=epochs)


def pooled_figures(found: list[Pooled]) -> dict[str, Picture]:
    """The forest plot, where anything could be pooled."""
    return {"pooled": forest(found)} if found else {}


def overview_page(every: Mapping[str, Tables], found: list[Pooled], figures: Mapping[str, Picture]) -> str:
    """The page in Markdown, of tables that are `escaped`; its figure lies beside it; empty where nothing is
    to be told."""
    claims = reported(every)
    if not claims and not found:
        return ""
    table = markdown_table(["reported", "found here", "why they differ"], claims)
    rows = []
    for pair in found:
        cells = [
            f"{signed(mean, 3)} ({signed(low, 3)} to {signed(high, 3)})"
            for mean, low, high in (pair.fixed, pair.random)
        ]
        rows.append([f"{pair.a} minus {pair.b}", str(pair.pairs), *cells])
    head = ["points of accuracy", "pairs of seeds", "fixed effect (95 % interval)", "random effects (95 % interval)"]
    facts = {
        "title": TITLE,
        "reported": table if claims else "",
        "pooled": markdown_table(head, rows),
        "shared": int((pd.concat([tables.results["run_id"] for tables in every.values()]).value_counts() > 1).sum()),
        "pairs": found,
        "significance": SIGNIFICANCE,
        "figures": figures,
        "choices": [
            {"name": name, "title": tables.about.title or name}
            for name, tables in every.items()
            if tables.about.report == "held_out"
        ],
    }
    return render("overview", facts)


def forest(found: list[Pooled]) -> Picture:
    """A panel for each pair of variants: each experiment's difference with its interval, and the two pooled ones."""
    titles = list(found[0].experiments)
    said = (
        f"Pairs of seeds: {', '.join(f'{title} {pair.n}' for title, pair in found[0].experiments.items())}. Bars: 95 % "
        "intervals, not adjusted for several pairs. Shaded: differences that count as equivalent. Size of the squares: "
        "weight."
    )
    picture = Picture("Differences of mean test accuracy, in every full-size experiment and pooled", said, width=10.0)
    picture.set_figheight(1.5 + 0.34 * (len(titles) + 2))
    panels = picture.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axes, pair in zip(panels, found, strict=True):
        axes.axvspan(-100 * MARGIN, 100 * MARGIN, color=DARK, alpha=0.1, linewidth=0)
        axes.axvline(0, color=DARK, linewidth=0.8)
        weights = np.array([1 / each.error**2 for each in pair.experiments.values()])
        for row, (each, weight) in enumerate(zip(pair.experiments.values(), weights / weights.max(), strict=True)):
            axes.plot([100 * each.low, 100 * each.high], [row, row], color=DARK, linewidth=1)
            axes.plot([100 * each.difference], [row], "s", color=DARK, markersize=3 + 5 * weight)
        for row, (mean, low, high) in enumerate((pair.fixed, pair.random), len(titles)):
            x, y = 100 * np.array([low, mean, high, mean]), row + np.array([0, -0.28, 0, 0.28])
            axes.fill(x, y, color="#999999" if row == len(titles) else DARK)
        axes.set_title(f"{pair.a} minus {pair.b}", fontsize=9)
        label_rows(axes, [*titles, "pooled, fixed effect", "pooled, random effects"], "points of accuracy")
    return picture
