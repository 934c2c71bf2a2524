"""Which test images defeat whom. Pure functions on tables.

`misclassified` has a row a run and misclassified test image: group, seed, index (the image's place in the test file),
true and predicted; `results` has a row a run: group and seed, so that a run without an error counts. Both are those of
`Tables`. An `agreement` table has a row a test image that any run gets wrong and a column a group: how many of its
seeds get the image wrong. Groups stand in the order of `results`.
"""

from collections.abc import Mapping

import pandas as pd

# Test images of MNIST whose label fewer than 3 of 5 human raters confirmed, with the label that 3 or more gave instead;
# None where as many agreed on none. Northcutt, Athalye, Mueller 2021, "Pervasive Label Errors in Test Sets Destabilize
# Machine Learning Benchmarks", which counts these 15; votes: github.com/cleanlab/label-errors, mturk/mnist_mturk.json,
# commit 5457895e. The raters saw only images that a classifier had flagged: a label not listed here can be wrong too.
LABEL_ERRORS: dict[int, int | None] = {
    947: 9,
    1621: 6,
    1901: 4,
    2130: None,
    2462: 0,
    2597: 3,
    2654: None,
    3520: None,
    3558: 0,
    5937: 3,
    6651: 6,
    6783: 6,
    8527: None,
    9679: None,
    9729: 6,
}


def seeds_by_group(results: pd.DataFrame) -> dict[str, int]:
    """How many runs, one a seed, each group has."""
    return {str(group): len(rows) for group, rows in results.groupby("group", sort=False)}


def agreement(misclassified: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """How many seeds of each group get an image wrong: a row a test image that any does, ascending; a column a group.

    Raises `ValueError` for errors of a run that is not in `results`.
    """
    return counts_by_group(misclassified, results, ["index"])


def common(agreement: pd.DataFrame, seeds: Mapping[str, int]) -> list[int]:
    """Images that every seed of every group gets wrong, ascending; `seeds` is how many seeds each group has."""
    everyone = (shares(agreement, seeds) == 1).all(axis=1)
    return [int(image) for image in agreement.index[everyone].sort_values()]


def unique_to(agreement: pd.DataFrame, group: str) -> pd.DataFrame:
    """Images that seeds of this group alone get wrong: index the image, column `seeds` how many, most first.

    Strict: one seed of another group that errs takes the image off the list.
    """
    check_group(agreement, group)
    alone = (agreement[group] > 0) & (agreement.drop(columns=group) == 0).all(axis=1)
    found = pd.DataFrame({"seeds": agreement.loc[alone, group]})
    return found.sort_index().sort_values("seeds", ascending=False, kind="stable")


def overlap(agreement: pd.DataFrame, seeds: Mapping[str, int], *, share: float = 0.5) -> pd.Series:
    """How many images each combination of groups has in common, most first: what an UpSet plot shows.

    A group counts as defeated by an image that MORE than `share` of its seeds get wrong. The index has a level a group,
    of booleans; a combination without an image is left out, and so are the images that defeat no group.

    Lex et al. 2014, "UpSet: Visualization of Intersecting Sets".
    """
    defeated = shares(agreement, seeds) > share
    counts = defeated[defeated.any(axis=1)].value_counts(sort=False).sort_index()
    return counts.sort_values(ascending=False, kind="stable").rename("images")


def per_class(misclassified: pd.DataFrame, results: pd.DataFrame, class_counts: Mapping[int, int]) -> pd.DataFrame:
    """Accuracy on each class as a fraction, mean over seeds: a row a group, a column a class, ascending.

    `class_counts` is how many test images each class has. Raises `ValueError` for an error on a class that it lacks, or
    of a run that is not in `results`.
    """
    if unknown := set(misclassified["true"]) - set(class_counts):
        raise ValueError(f"class {min(unknown)} has no count; known are {sorted(class_counts)}")
    classes = pd.Series(class_counts).sort_index()
    errors = means_by_group(misclassified, results, ["true"]).reindex(classes.index, fill_value=0.0)
    return 1 - errors.div(classes, axis="index").T.rename_axis(columns="class")


def confusions(misclassified: pd.DataFrame, results: pd.DataFrame, top: int = 10) -> pd.DataFrame:
    """The `top` most frequent confusions: columns true and predicted, then a column a group with images a seed, a mean.

    Ranked by the mean of the groups' means, so that a group with more seeds has no more say; then by true, predicted.
    Raises `ValueError` for errors of a run that is not in `results`.
    """
    means = means_by_group(misclassified, results, ["true", "predicted"])
    order = means.mean(axis=1).round(12).sort_values(ascending=False, kind="stable").index[:top]
    return means.loc[order].rename_axis(columns=None).reset_index()


def means_by_group(misclassified: pd.DataFrame, results: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean over a group's seeds of how many misclassified images have these keys: a row a key, a column a group."""
    return counts_by_group(misclassified, results, keys).div(pd.Series(seeds_by_group(results)))


def counts_by_group(misclassified: pd.DataFrame, results: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """How many rows of each group have these keys, over all its seeds: a row a key, ascending; a column a group."""
    runs = ["group", "seed"]
    if strangers := set(misclassified[runs].itertuples(index=False, name=None)) - set(
        results[runs].itertuples(index=False, name=None)
    ):
        group, seed = min(strangers)
        raise ValueError(f"errors of {group!r}, seed {seed}, which is not among the results")
    counts = misclassified.pivot_table(index=keys, columns="group", values="seed", aggfunc="count", fill_value=0)
    return counts.reindex(columns=list(seeds_by_group(results)), fill_value=0).rename_axis(columns="group")


def shares(agreement: pd.DataFrame, seeds: Mapping[str, int]) -> pd.DataFrame:
    """The share of each group's seeds, as a fraction, that gets an image wrong; shaped like `agreement`."""
    return agreement.div([seeds[group] for group in agreement.columns])


def check_group(agreement: pd.DataFrame, group: str) -> None:
    """Raises `ValueError` for a group that is no column of the table."""
    if group not in agreement.columns:
        raise ValueError(f"unknown group {group!r}; choose from {list(agreement.columns)}")
