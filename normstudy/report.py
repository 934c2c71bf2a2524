"""Finished runs to tables, figures and the README's block. Reads nothing but the tracking server."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from normstudy import plots
from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.reading import TEST_IMAGES, TrialRecord
from normstudy.runs import finished_trials, page_run
from normstudy.summary import Tables, has_several_seeds, plain, sample, summary
from normstudy.tracking import Metric, log_to_run

START, END = "<!-- report: start -->", "<!-- report: end -->"


def report(study: str, configs: list[TrainConfig], *, parent_id: str | None, out: Path, readme: Path | None) -> None:
    """Read the runs, write every table and figure to `out`, fill `readme`.

    The interactive page is logged, too, to the parent run of the study, where one study trained them all.

    Raises `ReportError`, and writes nothing, unless every configuration has a finished run.
    """
    records = finished_trials(configs, parent_id)
    tables = tables_of(study, records)
    block = render(tables, figures_at=out)
    if readme is not None:
        filled = fill(readme, block)
    out.mkdir(parents=True, exist_ok=True)
    tables.save(out)
    for name, figure in figures_of(records).items():
        save(figure, out / name)
    page = out / "interactive.html"
    loss, accuracy = (curves(records, metric) for metric in (Metric.TEST_LOSS, Metric.TEST_ACCURACY))
    page.write_text(plots.interactive(loss, accuracy, subtitle(records)), encoding="utf-8")
    if run_id := page_run(records):
        log_to_run(run_id, page)
    if readme is not None:
        readme.write_text(filled, encoding="utf-8")


def tables_of(study: str, records: list[TrialRecord]) -> Tables:
    """The exported tables of these runs."""
    results = [
        {
            "study": study,
            "variant": record.config.variant,
            "group": record.group,
            "run_id": record.run_id,
            "seed": record.config.seed,
            "epochs": record.config.epochs,
            "parameters": record.parameters,
            "test_accuracy": record.epochs[Metric.TEST_ACCURACY].iloc[-1],
            "test_loss": record.epochs[Metric.TEST_LOSS].iloc[-1],
            "train_accuracy": record.epochs[Metric.TRAIN_ACCURACY].iloc[-1],
            "errors": len(record.misclassified),
            "seconds_per_epoch": record.epochs[Metric.EPOCH_SECONDS].mean(),
            "side_by_side": record.side_by_side,
            "stack": record.stack,
            "cores": record.cores,
        }
        for record in records
    ]
    return Tables(
        results=pd.DataFrame(results),
        epochs=stacked([record.epochs.reset_index() for record in records], results),
        misclassified=stacked([record.misclassified for record in records], results),
    )


def stacked(tables: list[pd.DataFrame], results: list[dict[str, Any]]) -> pd.DataFrame:
    """The runs' tables, one below the other, each row with its run's identity."""
    runs = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    who = pd.DataFrame(results)[["variant", "group", "run_id", "seed"]].iloc[runs]
    return pd.concat([pd.concat(tables, ignore_index=True), who.reset_index(drop=True)], axis=1)


def curves(records: list[TrialRecord], metric: Metric) -> dict[str, pd.DataFrame]:
    """One metric of every run, keyed by group: a row an epoch, a column a seed."""
    columns: dict[str, dict[int, pd.Series]] = {}
    for record in records:
        columns.setdefault(record.group, {})[record.config.seed] = record.epochs[metric]
    return {group: pd.DataFrame(seeds) for group, seeds in columns.items()}


def subtitle(records: list[TrialRecord]) -> str:
    """What a reader must know to read a graph: data, budget, number of seeds, and what a line and a band are."""
    counts = sorted({record.parameters for record in records})
    parameters = " or ".join(f"{count:,}" for count in counts)
    results = pd.DataFrame({"group": [r.group for r in records], "seed": [r.config.seed for r in records]})
    legend = "; line: mean, band: lowest to highest" if has_several_seeds(results) else ""
    return f"MNIST, {TEST_IMAGES:,} test images; {parameters} parameters each; {sample(results)}{legend}"


def figures_of(records: list[TrialRecord]) -> dict[str, Figure]:
    """Every figure by file name without ending; a group's grid is of its lowest seed."""
    figures = {
        "test_loss": plots.loss_curves(curves(records, Metric.TEST_LOSS), subtitle(records)),
        "test_accuracy": plots.accuracy_curves(curves(records, Metric.TEST_ACCURACY), subtitle(records)),
        "shared_statistics": plots.shared_statistics(),
    }
    runs = Counter(record.group for record in records)
    for record in records:
        if record.ten is not None:
            figures[grid_name(record.group)] = grid_of(record, name_seed=runs[record.group] > 1)
    return figures


def grid_of(record: TrialRecord, *, name_seed: bool = False) -> Figure:
    """The annotated grid of a run's ten misclassified images, drawn anew from its logged table and images.

    Raises `ReportError` for a run whose images were not read: one of a group that has a lower seed.
    """
    if record.ten is None:
        raise ReportError(f"run {record.run_id}: the images of {record.group} were read for its lowest seed alone")
    name = f"{record.group}, seed {record.config.seed}" if name_seed else record.group
    accuracy = record.epochs[Metric.TEST_ACCURACY].iloc[-1]
    title = plots.grid_title(name, accuracy, len(record.misclassified), TEST_IMAGES)
    return plots.misclassified_grid(record.ten, plots.ten_worst(record.misclassified), title)


def grid_name(group: str) -> str:
    """File name, without ending, of a group's grid."""
    return f"misclassified_{re.sub(r'[^a-z0-9]+', '_', group.lower())}"


def save(figure: Figure, path: Path) -> None:
    """As PNG and SVG; the same figure gives the same bytes."""
    with rc_context({"svg.hashsalt": "normstudy"}):
        figure.savefig(path.with_suffix(".png"), dpi=130, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def fill(readme: Path, block: str) -> str:
    """The README's text with the marked block replaced. Raises `ReportError` without the marks."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{readme}: needs the marks {START} and {END}, once each, in this order")
    return f"{text[: text.index(START)]}{START}\n{block}\n{text[text.index(END) :]}"


def render(tables: Tables, *, figures_at: Path) -> str:
    """The README's block, in Markdown, from the tables alone: the summary and all figures."""
    graphs = {"Test loss by epoch": "test_loss", "Test accuracy by epoch": "test_accuracy"}
    grids = {
        f"Ten misclassified images, {plain(group)}": grid_name(group) for group in tables.results["group"].unique()
    }
    pictures = [f"![{text}]({(figures_at / name).as_posix()}.png)" for text, name in {**graphs, **grids}.items()]
    return "\n\n".join([summary(tables), *pictures])
