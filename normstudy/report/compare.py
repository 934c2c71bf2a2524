"""What the experiments that compare groups, seed by seed, say: figures and findings from their tables alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normstudy import figures
from normstudy.config import TITLES
from normstudy.report import charts
from normstudy.report.tables import TEST_IMAGES, T, Tables, by_seed
from normstudy.report.text import comparisons, has_several_seeds, judged, measured, points, sample, sentence
from normstudy.stats import Comparison, binomial_deviation, bootstrap_interval
from normstudy.tracking import Metric

NOT_COMPARED = "No comparison: it needs two seeds or more, the same for every group, none of them diverged."
Pair = tuple[str, str]
EVERY, BEST, SMALL = 0.9950, 0.9955, 0.9945  # targets, as fractions: of each variant, the best, the small network


def finished(tables: T) -> T:
    """The same without the runs that diverged, which have no numbers to average."""
    ended = tables.results.loc[tables.results["diverged_at"].isna(), "run_id"]
    kept = {name: table[table["run_id"].isin(ended)] for name, table in tables.frames().items() if "run_id" in table}
    return replace(tables, **kept)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def verdicts(pairs: Sequence[Comparison]) -> list[str]:
    """All verdicts in one sentence, then each with its difference, interval, test and n."""
    return [sentence(pairs), *map(judged, pairs)] if pairs else [NOT_COMPARED]


def note(tables: Tables, bars: str = "") -> str:
    """What a reader must know to read a figure: data, budget, n, and what the bars are."""
    configs, results = tables.configs(), tables.results
    title = " or ".join(sorted({TITLES[config.dataset] for config in configs}))
    trained = " or ".join(f"{count:,}" for count in sorted({config.training_images for config in configs}))
    parameters = " or ".join(f"{count:,}" for count in sorted(set(results["parameters"])))
    epochs = " or ".join(str(count) for count in sorted({config.epochs for config in configs}))
    last = f"epoch {epochs}, the last" if len(set(epochs.split())) == 1 else f"{epochs} epochs"
    budget = f"{parameters} parameters each"
    said = [f"{title}: {trained} training, {TEST_IMAGES:,} test images", budget, last, sample(results), bars]
    return "; ".join(filter(None, said))


def intervals(results: pd.DataFrame, value: str = "test_accuracy") -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of each group's mean over seeds."""
    generator = np.random.default_rng(0)
    values = results.groupby("group", sort=False)[value]
    return {str(group): bootstrap_interval(rows.to_numpy(), generator) for group, rows in values if len(rows) > 1}


def means(tables: Tables) -> Figure:
    """Each group's seeds and mean, beside the noise of the test images."""
    noise = binomial_deviation(float(tables.results["test_accuracy"].mean()), TEST_IMAGES)
    bars = "bars: 95 % bootstrap interval of the mean"
    return charts.means(tables.results, note(tables, bars), intervals=intervals(tables.results), noise=noise)


def differences(tables: Tables, pairs: Sequence[Pair] | None = None) -> Figure:
    """The paired differences with their verdicts."""
    found = comparisons(tables, pairs)
    bars = "bar: 95 % bootstrap interval of the mean difference"
    if len(found) > 1:
        bars = f"bars: bootstrap intervals that hold together for all {len(found)} pairs with 95 %"
    return charts.differences(found, note(tables, bars))


def curves(tables: Tables, metric: Metric) -> dict[str, pd.DataFrame]:
    """One metric of every run, keyed by group: a row an epoch, a column a seed."""
    return {
        str(group): rows.pivot(index="epoch", columns="seed", values=str(metric))
        for group, rows in tables.epochs.groupby("group", sort=False)
    }


def curve_figures(tables: Tables) -> dict[str, Figure]:
    """Test loss and test accuracy by epoch."""
    said = note(tables, "line: mean, band: lowest to highest seed" if has_several_seeds(tables.results) else "")
    return {
        "test_loss": figures.loss_curves(curves(tables, Metric.TEST_LOSS), said),
        "test_accuracy": figures.accuracy_curves(curves(tables, Metric.TEST_ACCURACY), said),
    }


def seeds_figures(tables: Tables, pairs: Sequence[Pair] | None = None) -> dict[str, Figure]:
    """Means, and differences where there is a pair."""
    found = {"means": means(tables)}
    return found | ({"differences": differences(tables, pairs)} if comparisons(tables, pairs) else {})


def targets(tables: Tables) -> str:
    """Whether the means reach what was set before anything ran: `EVERY` variant, and the best of them `BEST`."""
    means = finished(tables).results.groupby("group", sort=False)["test_accuracy"].mean()
    lowest, highest = means.idxmin(), means.idxmax()
    return (
        f"Targets set beforehand, for means over seeds: every variant {100 * EVERY:.2f} % or more, "
        f"{_met(means[lowest], EVERY)} (lowest: {lowest} {100 * means[lowest]:.3f} %); the best {100 * BEST:.2f} % "
        f"or more, {_met(means[highest], BEST)} ({highest} {100 * means[highest]:.3f} %)."
    )


def _met(mean: float, target: float) -> str:
    return "met" if mean >= target else "not met"


def picked(tables: Tables) -> str:
    """What the same runs would read if seed and epoch were picked on the test images."""
    tables = finished(tables)
    best = tables.epochs.groupby("group", sort=False)[str(Metric.TEST_ACCURACY)].max()
    means = tables.results.groupby("group", sort=False)["test_accuracy"].mean()
    return (
        "Picked on the test images, the best epoch of the best seed, the same runs would read "
        + ", ".join(f"{group} {100 * value:.2f} %" for group, value in best.items())
        + f": up to {points((best - means).max())} points more than the means of the last epoch."
    )


def small(tables: Tables) -> list[str]:
    """What the first group reaches, which is the one that held-out images chose, and the ranking of all."""
    first = tables.results["group"].iloc[0]
    runs = tables.results[tables.results["group"] == first]
    values, parameters = runs["test_accuracy"].to_numpy(), runs["parameters"].iloc[0]
    chosen = f"{first}, chosen on held-out images, reaches {100 * values.mean():.2f} % with {parameters:,} parameters"
    if len(values) == 1:
        return [f"{chosen} and one seed (n = 1, so no interval).", *ranking(tables)]
    low, high = intervals(runs)[first]
    return [
        f"{chosen} ({100 * low:.2f} to {100 * high:.2f}; mean of n = {len(values)} seeds, bootstrap interval); single "
        f"seeds from {100 * values.min():.2f} to {100 * values.max():.2f} %. The target set beforehand, "
        f"{100 * SMALL:.2f} % in the mean, is {_met(values.mean(), SMALL)}.",
        *ranking(tables),
    ]


def fine(tables: Tables) -> list[str]:
    """Whether the assignment's targets are met here, and the ranking of all."""
    return [targets(tables), *ranking(tables)]


def factorial_pairs(tables: Tables) -> list[Pair]:
    """What L1 makes of each norm, and what each norm makes of BN, without L1."""
    plain, penalised = _factorial_groups(tables)
    return [(penalised[norm], plain[norm]) for norm in plain] + [
        (plain[norm], plain["bn"]) for norm in plain if norm != "bn"
    ]


def _factorial_groups(tables: Tables) -> tuple[dict[str, str], dict[str, str]]:
    rows = tables.results.drop_duplicates("group")
    plain = {str(row.norm): str(row.group) for row in rows.itertuples() if not row.l1}
    return plain, {str(row.norm): str(row.group) for row in rows.itertuples() if row.l1}


def factorial(tables: Tables) -> list[str]:
    """Which part of BN + L1 is BN, and which is L1."""
    plain, penalised = _factorial_groups(tables)
    pairs = comparisons(tables, factorial_pairs(tables))
    mean = tables.results.groupby("group")["test_accuracy"].mean()
    norm_part = mean[plain["bn"]] - mean[plain["none"]]
    penalty_part = mean[penalised["bn"]] - mean[plain["bn"]]
    of_penalty, of_norm = pairs[: len(plain)], pairs[len(plain) :]
    split = (
        f'Of "BN + L1" the norm makes {100 * norm_part:+z.2f} points (BN minus none), the penalty '
        f"{100 * penalty_part:+z.2f} points (BN + L1 minus BN)."
    )
    if not pairs:
        return [split, NOT_COMPARED]
    moved = max(of_penalty, key=lambda pair: abs(pair.difference))
    every, *each = verdicts(of_norm)
    return [
        split,
        f"L1: {sentence(of_penalty)} Its largest effect: {measured(moved)}.",
        f"Norms without L1: {every}",
        *each,
    ]


def groups_pairs(tables: Tables) -> list[Pair]:
    """Each number of groups, and InstanceNorm, against LayerNorm."""
    names = list(dict.fromkeys(tables.results["group"]))
    return [(name, names[0]) for name in names[1:]]


def groups(tables: Tables) -> list[str]:
    """What the number of groups changes between LayerNorm and InstanceNorm."""
    apart = np.abs(_same_layer(tables)).max()
    same = f"at most {points(apart)} points apart" if apart else "equal to the digit"
    return [
        *verdicts(comparisons(tables, groups_pairs(tables))),
        f"A check: GN with one group and LN are the same layer, and with the same seed their accuracies are {same}.",
    ]


def _same_layer(tables: Tables) -> np.ndarray:
    accuracy = by_seed(tables.results)
    assert accuracy is not None
    rows = tables.results.drop_duplicates("group")
    [one] = rows.loc[(rows["norm"] == "gn") & (rows["groups"] == 1), "group"]
    [layer] = rows.loc[rows["norm"] == "ln", "group"]
    return (accuracy[one] - accuracy[layer]).to_numpy()


def ranking(tables: Tables) -> list[str]:
    """All groups, the best first, with their verdicts: to hold against the assignment's."""
    every, *each = verdicts(comparisons(tables))
    mean = tables.results.groupby("group", sort=False)["test_accuracy"].mean().sort_values(ascending=False)
    order = ", ".join(f"{group} {100 * accuracy:.2f} %" for group, accuracy in mean.items())
    return [f"{order}, means of {sample(tables.results)}: {every}", *each]
