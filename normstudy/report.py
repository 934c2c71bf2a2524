"""Finished runs to tables, figures and the README's block. Reads nothing but the tracking server."""

import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from normstudy import plots
from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.evaluate import ten_worst
from normstudy.runs import TEST_IMAGES, TrialRecord, finished_trials
from normstudy.stats import accuracy_interval, paired_p_value
from normstudy.tracking import Metric, log_to_run

START, END = "<!-- report: start -->", "<!-- report: end -->"
SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All that the README's block is made of: one row a run; a run and epoch; a run and misclassified image."""

    results: pd.DataFrame
    epochs: pd.DataFrame
    misclassified: pd.DataFrame

    def save(self, folder: Path) -> None:
        """As three CSV files, floats in full."""
        for name, table in vars(self).items():
            table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """What `save` wrote, to the digit."""
        names = cls.__dataclass_fields__
        return cls(**{name: pd.read_csv(folder / f"{name}.csv") for name in names})


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
    parents = {record.parent_id for record in records}
    if len(parents) == 1 and (parent := parents.pop()):
        log_to_run(parent, page)
    if readme is not None:
        readme.write_text(filled, encoding="utf-8")


def tables_of(study: str, records: list[TrialRecord]) -> Tables:
    """The exported tables of these runs."""
    results, epochs, misclassified = [], [], []
    for record in records:
        who = {"variant": record.config.variant, "run_id": record.run_id}
        last = record.epochs.iloc[-1]
        results.append(
            {
                "study": study,
                **who,
                "seed": record.config.seed,
                "epochs": record.config.epochs,
                "parameters": record.parameters,
                "test_accuracy": last[Metric.TEST_ACCURACY],
                "test_loss": last[Metric.TEST_LOSS],
                "train_accuracy": last[Metric.TRAIN_ACCURACY],
                "errors": len(record.misclassified),
                "seconds_per_epoch": record.epochs[Metric.EPOCH_SECONDS].mean(),
                "side_by_side": record.side_by_side,
                "cores": record.cores,
            }
        )
        epochs.append(record.epochs.reset_index().assign(**who))
        misclassified.append(record.misclassified.assign(**who))
    return Tables(
        results=pd.DataFrame(results),
        epochs=pd.concat(epochs, ignore_index=True),
        misclassified=pd.concat(misclassified, ignore_index=True),
    )


def curves(records: list[TrialRecord], metric: Metric) -> dict[str, pd.Series]:
    """One metric of every run by epoch, keyed by variant."""
    return {record.config.variant: record.epochs[metric] for record in records}


def subtitle(records: list[TrialRecord]) -> str:
    """What a reader must know to read a graph: data, budget, number of seeds."""
    counts = sorted({record.parameters for record in records})
    seeds = sorted({record.config.seed for record in records})
    parameters = " or ".join(f"{count:,}" for count in counts)
    runs = f"n = 1 run each, seed {', '.join(map(str, seeds))}"
    return f"MNIST, {TEST_IMAGES:,} test images; {parameters} parameters each; {runs}"


def figures_of(records: list[TrialRecord]) -> dict[str, Figure]:
    """Every figure by file name without ending."""
    figures = {
        "test_loss": plots.loss_curves(curves(records, Metric.TEST_LOSS), subtitle(records)),
        "test_accuracy": plots.accuracy_curves(curves(records, Metric.TEST_ACCURACY), subtitle(records)),
        "shared_statistics": plots.shared_statistics(),
    }
    return figures | {grid_name(record.config.variant): grid_of(record) for record in records}


def grid_of(record: TrialRecord) -> Figure:
    """The annotated grid of a run's ten misclassified images, drawn anew from its logged table and images."""
    accuracy = record.epochs[Metric.TEST_ACCURACY].iloc[-1]
    title = plots.grid_title(record.config.variant, accuracy, len(record.misclassified), TEST_IMAGES)
    return plots.misclassified_grid(record.ten, ten_worst(record.misclassified), title)


def grid_name(variant: str) -> str:
    """File name, without ending, of a variant's grid."""
    return f"misclassified_{re.sub(r'[^a-z0-9]+', '_', variant.lower())}"


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
    grids = {f"Ten misclassified images, {variant}": grid_name(variant) for variant in tables.results["variant"]}
    pictures = [f"![{text}]({(figures_at / name).as_posix()}.png)" for text, name in {**graphs, **grids}.items()]
    return "\n\n".join([summary(tables), *pictures])


def summary(tables: Tables) -> str:
    """The answer, the results table and the findings, in Markdown."""
    results = tables.results
    lines = [answer(tables), ""]
    lines += [
        "| | parameters | test accuracy, 95 % interval | test loss | train accuracy | errors | seconds an epoch |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in results.itertuples():
        low, high = accuracy_interval(row.errors, TEST_IMAGES)
        lines.append(
            f"| {row.variant} | {row.parameters:,} | {100 * row.test_accuracy:.2f} % "
            f"({100 * low:.2f} to {100 * high:.2f}) | {row.test_loss:.4f} | {100 * row.train_accuracy:.2f} % "
            f"| {row.errors} | {row.seconds_per_epoch:.1f} |"
        )
    return "\n".join([*lines, "", caption(results), "", *findings(tables)])


def caption(results: pd.DataFrame) -> str:
    """How the table was made."""
    epochs = ", ".join(str(count) for count in sorted(results["epochs"].unique()))
    runs = ", ".join(f"{row.variant} `{row.run_id}`" for row in results.itertuples())
    shared = f"{results['side_by_side'].max()} trials side by side on {results['cores'].max()} CPU cores"
    return (
        f"Last epoch ({epochs}) of n = 1 run each, seed {results['seed'].iloc[0]}, on {TEST_IMAGES:,} test images. The "
        "interval is of the sampling of images (Wilson); the noise of the seed is not in it. Train accuracy is under "
        f"augmentation, while the epoch ran. Seconds: {shared}. Runs: {runs}."
    )


def answer(tables: Tables) -> str:
    """The answer in a sentence or two: the order, and whether one run each can tell the variants apart."""
    ranked = tables.results.sort_values("errors", kind="stable")
    scores = ", ".join(f"{row.variant} {100 * row.test_accuracy:.2f} %" for row in ranked.itertuples())
    told_apart = [pair for pair, p in paired_tests(tables).items() if p < SIGNIFICANCE]
    spread = 100 * (ranked["test_accuracy"].max() - ranked["test_accuracy"].min())
    verdict = (
        "On these images one run each can't tell any two of them apart."
        if not told_apart
        else f"On these images one run each tells apart: {'; '.join(f'{a} and {b}' for a, b in told_apart)}."
    )
    return f"**{scores}**: {spread:.2f} points from first to last. {verdict}"


def findings(tables: Tables) -> list[str]:
    """One line a finding, each computed from the tables."""
    wrong = errors_by_variant(tables)
    tests = paired_tests(tables)
    lines = []
    for (a, b), p in tests.items():
        only_a, only_b = len(wrong[a] - wrong[b]), len(wrong[b] - wrong[a])
        verdict = "a difference" if p < SIGNIFICANCE else "undecided"
        lines.append(
            f"- {a} and {b}: {only_a} images that only {a} gets wrong, {only_b} that only {b} does "
            f"(exact McNemar test, corrected for {len(tests)} comparisons: p = {p:.2f}, {verdict})."
        )
    shared, some = set.intersection(*wrong.values()), set.union(*wrong.values())
    lines.append(f"- {len(shared)} images defeat all {len(wrong)}; {len(some)} defeat at least one.")
    gaps = tables.epochs.groupby("variant", sort=False).first()[str(Metric.TEST_ACCURACY)]
    first = ", ".join(f"{variant} {100 * accuracy:.2f} %" for variant, accuracy in gaps.items())
    lines.append(f"- After the first epoch: {first}.")
    return lines


def errors_by_variant(tables: Tables) -> dict[str, set[int]]:
    """Indices of the misclassified test images by variant, in the order of the results."""
    groups = dict(tuple(tables.misclassified.groupby("variant")["index"]))
    return {variant: set(groups.get(variant, ())) for variant in tables.results["variant"]}


def paired_tests(tables: Tables) -> dict[tuple[str, str], float]:
    """p-value of each pair of variants, multiplied by the number of pairs (Bonferroni), at most 1."""
    wrong = errors_by_variant(tables)
    pairs = list(combinations(wrong, 2))
    return {(a, b): min(1.0, len(pairs) * paired_p_value(wrong[a], wrong[b])) for a, b in pairs}
