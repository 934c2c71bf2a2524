"""Experiments that choose a network or a recipe on held-out images: what their pages state, from the tables alone."""

import math
from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from normstudy.report.groups import Facts
from normstudy.report.tables import Tables, whole_mean
from normstudy.report.text import either, markdown_table, percent, sample, short

BUDGETS = (4_000, 8_000, math.inf)  # parameters
RECIPE = (
    *("network", "batch_size", "lr", "weight_decay", "warmup", "rotation", "translation", "scale"),
    "ema_decay",
)


def tried(results: pd.DataFrame) -> pd.DataFrame:
    """The results with what was tried in words, as `tried`, the same without lambda as `settings`, and the norm as
    `variant`.

    Lambda is named, and `other_l1` true, where it is not that of the norm's first run, as the norms don't share one.
    """
    varied = [name for name in RECIPE if name in results and results[name].nunique() > 1]
    settings = [", ".join(f"{name} {short(row[name])}" for name in varied) for row in results.to_dict(orient="records")]
    rows = results.assign(settings=settings, variant=results["norm"].str.upper())
    rows["other_l1"] = rows["l1"] != rows.groupby("norm")["l1"].transform("first")
    lambdas = rows["l1"].map("l1 {:g}".format).where(rows["other_l1"], "")
    joined = [", ".join(filter(None, parts)) for parts in zip(settings, lambdas, strict=True)]
    return rows.assign(tried=[text or "the recipe" for text in joined])


def held_out_table(tables: Tables) -> str:
    """A row for each configuration that was tried, by held-out loss, mean over the variants."""
    rows = tried(tables.results)
    accuracy, loss = (
        rows.groupby(["tried", "variant"])[f"val_{v}"].agg(whole_mean).unstack() for v in ("accuracy", "loss")
    )
    parameters = rows.groupby("tried")["parameters"].first()
    variants = list(dict.fromkeys(rows["variant"]))
    cells = []
    for name, mean in loss.mean(axis=1, skipna=False).sort_values(kind="stable").items():
        numbers = [
            f"{percent(accuracy.loc[name, v])} / {loss.loc[name, v]:.4f}" if loss.loc[name, v] >= 0 else "diverged"
            for v in variants
        ]
        cells.append([str(name), f"{parameters[name]:,}", *numbers, f"{mean:.4f}" if mean >= 0 else "diverged"])
    table = markdown_table(["tried", "parameters", *variants, "mean loss"], cells)
    images = either(rows["val_size"])
    return f"{table}\n\nAccuracy / loss (nats) on {images} held-out training images, last epoch, {sample(rows)}."


def held_out_facts(tables: Tables) -> Facts:
    """What was chosen: by the mean held-out loss of the variants, among networks of a size; lambda by BN's own; where
    there is one size and one lambda, the variant with the lowest loss, too.
    """
    rows = tried(tables.results)
    alike, other = rows[~rows["other_l1"]], rows.loc[rows["other_l1"], "settings"]
    sizes = alike["parameters"].map(lambda count: min(budget for budget in BUDGETS if count < budget))
    chosen = {budget: _lowest_two(same, "tried") for budget, same in alike.groupby(sizes)}
    best = next(iter(next(iter(chosen.values()))))
    bn = rows[(rows["variant"] == "BN") & rows["settings"].isin(other)]
    return {
        "counts": rows.groupby("variant", sort=False)["tried"].nunique().to_dict(),
        "chosen": chosen,
        "of_variants": _lowest_two(rows[rows["tried"] == best], "variant") if len(chosen) == 1 and other.empty else {},
        # of one seed alone, the lowest is the luckiest
        "of_norms": (own := _own_best(rows) if rows["seed"].nunique() > 1 else {}),
        "agreement": _agreement(own),
        "of_lambdas": _lowest_two(bn, "l1") if bn["l1"].nunique() > 1 else {},
    }


def _own_best(rows: pd.DataFrame) -> dict[str, Facts]:
    """For each variant its own two lowest mean losses, and that of what was tried first; and without the luck of a
    choice: by how much what is best of one seed changes the loss of the other seeds, relative to what was tried first.
    """
    found = {}
    for name, runs in rows.groupby("variant", sort=False):
        losses = runs.pivot(index="tried", columns="seed", values="val_loss").loc[list(dict.fromkeys(runs["tried"]))]
        changes = []
        for seed in losses:
            others = losses.drop(columns=seed).mean(axis=1, skipna=False)
            changes.append(others[losses[seed].idxmin()] / others.iloc[0] - 1)
        found[str(name)] = {
            "lowest": _lowest_two(runs, "tried"),
            "first": losses.iloc[0].mean(skipna=False),
            "changes": changes,
            "losses": losses.mean(axis=1, skipna=False),
        }
    return found


def _agreement(own: Mapping[str, Facts]) -> list[tuple[str, str, float]]:
    """Pearson's correlation over what was tried of the mean losses of two variants, each pair."""
    pairs = combinations(own, 2)
    return [(a, b, float(own[a]["losses"].corr(own[b]["losses"]))) for a, b in pairs]


def _lowest_two(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """The lowest mean loss and the next."""
    losses = rows.groupby(column)["val_loss"].agg(whole_mean)
    lowest = losses.sort_values(kind="stable")[:2]
    return {short(name): float(loss) for name, loss in lowest.items()}
