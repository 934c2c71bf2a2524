"""The assignment's figures from the exported tables: curves of all groups together, and each group's ten errors."""

import pandas as pd
from matplotlib.figure import Figure

from normstudy import figures as plots
from normstudy.report.compare import finished, note, seeds_figures
from normstudy.report.errors import error_figures, slug
from normstudy.report.tables import TEST_IMAGES, ErrorTables, Tables, pixels
from normstudy.report.text import has_several_seeds
from normstudy.tracking import Metric

BAND = "line: mean, band: lowest to highest seed"


def curves(tables: Tables, metric: Metric) -> dict[str, pd.DataFrame]:
    """One metric of every run, keyed by group: a row an epoch, a column a seed."""
    return {
        str(group): rows.pivot(index="epoch", columns="seed", values=str(metric))
        for group, rows in tables.epochs.groupby("group", sort=False)
    }


def subtitle(tables: Tables) -> str:
    """What a reader must know to read a graph."""
    return note(tables, BAND if has_several_seeds(tables.results) else "")


def figures_of(tables: ErrorTables) -> dict[str, Figure]:
    """Every figure of a study by file name without ending; a group's grid is of its lowest seed.

    Of the runs that ended: a group whose lowest seed diverged has no grid, as its pictures were not kept.
    """
    groups = with_grid(tables)
    tables = finished(tables)
    if tables.results.empty:
        return {"shared_statistics": plots.shared_statistics()}
    figures = {
        "test_loss": plots.loss_curves(curves(tables, Metric.TEST_LOSS), subtitle(tables)),
        "test_accuracy": plots.accuracy_curves(curves(tables, Metric.TEST_ACCURACY), subtitle(tables)),
        "shared_statistics": plots.shared_statistics(),
    }
    figures |= {grid_name(group): grid_of(tables, group) for group in groups}
    if has_several_seeds(tables.results):
        figures |= seeds_figures(tables)
        if set(tables.results["dataset"]) == {"mnist"}:
            figures |= error_figures(tables)
    return figures


def with_grid(tables: Tables) -> list[str]:
    """The groups whose lowest seed ended, in the order of the results."""
    lowest = tables.results.loc[tables.results.groupby("group", sort=False)["seed"].idxmin()]
    return [str(group) for group in lowest.loc[lowest["diverged_at"].isna(), "group"]]


def grid_of(tables: ErrorTables, group: str) -> Figure:
    """The annotated grid of ten images that a group's lowest seed gets wrong."""
    runs = tables.results[tables.results["group"] == group]
    run = runs.loc[runs["seed"].idxmin()]
    wrong = tables.misclassified[tables.misclassified["run_id"] == run["run_id"]]
    name = f"{group}, seed {run['seed']}" if len(runs) > 1 else group
    title = plots.grid_title(name, run["test_accuracy"], len(wrong), TEST_IMAGES)
    ten = plots.ten_worst(wrong)
    return plots.misclassified_grid(pixels(tables.images, ten["index"].tolist()), ten, title)


def grid_name(group: str) -> str:
    """File name, without ending, of a group's grid."""
    return f"misclassified_{slug(group)}"
