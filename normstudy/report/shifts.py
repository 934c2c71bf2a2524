"""What trained networks make of shifted images: facts and figures from the tables alone."""

from collections.abc import Mapping, Sequence

import pandas as pd

from normstudy.config import SHIFTED_EVERY
from normstudy.figures import Picture
from normstudy.report import error_charts
from normstudy.report.groups import Facts, note
from normstudy.report.tables import TEST_IMAGES, MnistCTables, ShiftTables
from normstudy.report.text import markdown_table, percent
from normstudy.report.validation import BY_BATCH, STATISTICS
from normstudy.stats import SIGNIFICANCE, Comparison, compare_pairs

TRAINED = STATISTICS[0]
IMAGES = TEST_IMAGES // SHIFTED_EVERY


def named(shift: pd.DataFrame) -> pd.DataFrame:
    """With the kind of BatchNorm's statistics in the name of the group, where they aren't those of training."""
    return shift.assign(
        group=shift["group"].where(shift["statistics"] == TRAINED, shift["group"] + ", " + shift["statistics"])
    )


def shifted_means(shift: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over all corruptions and severities, a row a seed, a column a group and kind of statistics."""
    rows = named(shift[shift["severity"] > 0])
    return rows.pivot_table(index="seed", columns="group", values="accuracy")[list(dict.fromkeys(rows["group"]))]


def shift_pairs(shift: pd.DataFrame, more: Sequence[tuple[str, str]] = ()) -> list[Comparison]:
    """Each norm, and BN with new statistics, against BN as trained, and `more` of what is there; none of single
    seeds."""
    means = shifted_means(shift)
    if len(means) < 2:
        return []
    wanted = [*((name, "BN") for name in means if name != "BN"), *more]
    return compare_pairs(means, [pair for pair in wanted if {*pair} <= {*means}])


def corruption_pairs(shift: pd.DataFrame) -> dict[str, Comparison]:
    """BN against GN by corruption, as trained, mean over the severities, simultaneous over the corruptions; none where
    either is not there, or of single seeds."""
    rows = shift[(shift["severity"] > 0) & (shift["statistics"] == TRAINED)]
    if not {"BN", "GN"} <= set(rows["group"]) or rows["seed"].nunique() < 2:
        return {}
    cells = rows.assign(cell=rows["group"] + ", " + rows["corruption"])
    means = cells.pivot_table(index="seed", columns="cell", values="accuracy")
    corruptions = list(dict.fromkeys(rows["corruption"]))
    pairs = compare_pairs(means, [(f"BN, {name}", f"GN, {name}") for name in corruptions])
    return dict(zip(corruptions, pairs, strict=True))


def shift_figures(tables: ShiftTables) -> dict[str, Picture]:
    """Errors under each corruption, by severity."""
    said = note(tables, "Lines: mean over seeds; bands: 95 % interval of the mean.", test_images=IMAGES)
    return {"shift": error_charts.draw_shift(tables.shift, said)}


def shift_facts(tables: ShiftTables) -> Facts:
    """Which norm bears shifted images, and the corruption that all bear worst."""
    return _facts(tables.shift)


def mnist_c_facts(tables: MnistCTables) -> Facts:
    """The same, and under which corruptions BN differs from GN."""
    again, batches = f"BN, {STATISTICS[1]}", f"BN, {BY_BATCH}"
    facts = _facts(tables.mnist_c, [(again, "GN"), (batches, "GN"), (batches, again)])
    return {**facts, "by_winner": by_winner(facts["by_corruption"])}


def by_winner(pairs: Mapping[str, Comparison]) -> dict[str, list[str]]:
    """The corruptions under which BN is significantly below GN, above it, or neither."""
    found: dict[str, list[str]] = {"below": [], "above": [], "neither": []}
    for name, pair in pairs.items():
        apart = pair.p_adjusted < SIGNIFICANCE
        found["neither" if not apart else "below" if pair.difference < 0 else "above"].append(name)
    return found


def _facts(shift: pd.DataFrame, more: Sequence[tuple[str, str]] = ()) -> Facts:
    means = shifted_means(shift)
    shifted = shift[shift["severity"] > 0]
    severest = shifted["severity"].max()
    trained = shifted[(shifted["statistics"] == TRAINED) & (shifted["severity"] == severest)]
    worst = trained.pivot_table(index="corruption", columns="group", values="accuracy", sort=False)
    hardest = worst.mean(axis=1).idxmin()
    accuracies, counts = worst.loc[hardest], (means.count().min(), means.count().max())
    return {
        "means": means.mean().sort_values(ascending=False, kind="stable").to_dict(),
        "seeds": "{} to {}".format(*counts) if len(set(counts)) > 1 else f"{counts[0]}",
        "corruptions": shifted["corruption"].nunique(),
        "severities": (shifted["severity"].min(), severest),
        "pairs": shift_pairs(shift, more),
        "by_corruption": corruption_pairs(shift),
        "hardest": {"corruption": hardest, "lowest": accuracies.idxmin(), "highest": accuracies.idxmax()},
        "accuracies": accuracies.to_dict(),
    }


def mnist_c_figures(tables: MnistCTables) -> dict[str, Picture]:
    """Errors under each corruption."""
    bars = "Mean over seeds; bars: 95 % interval of the mean."
    said = note(tables, bars, test_images=IMAGES)
    return {"mnist_c": error_charts.draw_corruptions(tables.mnist_c, said)}


def mnist_c_table(tables: MnistCTables) -> str:
    """A row for each corruption, a column for each group and kind of statistics: mean accuracy over the seeds."""
    rows = named(tables.mnist_c)
    order, groups = list(dict.fromkeys(rows["corruption"])), list(dict.fromkeys(rows["group"]))
    means = rows.pivot_table(index="corruption", columns="group", values="accuracy").loc[order, groups]
    over = shifted_means(tables.mnist_c).mean()
    cells = [[str(name), *(percent(value, 1) for value in row)] for name, row in zip(order, means.values, strict=True)]
    cells.append(["mean of the corruptions", *(percent(over[group], 1) for group in groups)])
    return markdown_table(["test accuracy", *groups], cells)
