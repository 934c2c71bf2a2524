"""A page for each experiment: question, bet, method, verdict, figures, command; from the exported tables alone."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normstudy import answers, behaviour, errors_as_data, graphs, sweeps
from normstudy.config import L1
from normstudy.summary import has_several_seeds, plain, sample, summary
from normstudy.tables import Tables

Findings = Callable[[Tables], list[str]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """How an experiment is reported; a new kind of experiment is a row of `PAGES`."""

    findings: Findings  # sentences, the first the most important
    figures: Callable[[Tables], dict[str, Figure]]
    table: Callable[[Tables], str] = summary
    main: str = "means"  # the figure that the README shows
    errors: bool = False  # whether the export holds which images were misclassified


def _seeds(findings: Findings, pairs: Callable[[Tables], list[answers.Pair]] | None = None) -> Page:
    def figures(tables: Tables) -> dict[str, Figure]:
        return answers.seeds_figures(tables, pairs(tables) if pairs else None)

    return Page(findings=findings, figures=figures, table=lambda tables: results_table(tables), main="means")


def results_table(tables: Tables) -> str:
    """A row for each group: n, mean accuracy with its interval, spread, loss."""
    bounds = answers.intervals(tables.results)
    rows = []
    for group, runs in tables.results.groupby("group", sort=False):
        values = 100 * runs["test_accuracy"]
        low, high = bounds.get(str(group), (float("nan"), float("nan")))
        interval = f" ({100 * low:.2f} to {100 * high:.2f})" if len(runs) > 1 else ""
        spread = f"{values.min():.2f} to {values.max():.2f} %"
        cells = [plain(str(group)), str(len(runs)), f"{values.mean():.2f} %{interval}", spread,
                 f"{runs['test_loss'].mean():.4f}"]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    head = "| | n | test accuracy, mean (95 % interval) | lowest to highest seed | test loss |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def sweep_table(tables: Tables, column: str, title: str, rows: pd.DataFrame | None = None) -> str:
    """Mean test accuracy by a setting and the norm; how many runs diverged where any did."""
    rows = sweeps.by_norm(tables) if rows is None else rows
    norms = list(dict.fromkeys(rows["group"]))
    lines = [f"| {title} | {' | '.join(norms)} |", "|---" * (len(norms) + 1) + "|"]
    for value, runs in rows.groupby(column):
        cells = [_cell(runs[runs["group"] == norm]) for norm in norms]
        lines.append(f"| {value:g} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Mean test accuracy at the last epoch, {sample(tables.results)}."])


def _cell(runs: pd.DataFrame) -> str:
    failed = int(runs["diverged"].sum())
    if failed == len(runs):
        return "diverged"
    text = f"{100 * runs['test_accuracy'].mean():.2f} %"
    return f"{text}, {failed} of {len(runs)} diverged" if failed else text


def held_out_table(tables: Tables) -> str:
    """A row for each configuration that was tried, by held-out loss; the mean of the three variants decides."""
    rows = tables.results.assign(variant=tables.results["norm"].str.upper())
    varied = [name for name in RECIPE if rows[name].nunique() > 1]
    rows["tried"] = [_tried(row, varied) for row in rows.to_dict(orient="records")]
    order = rows.groupby("tried")["val_loss"].mean().sort_values()
    variants = list(dict.fromkeys(rows["variant"]))
    lines = [f"| tried | parameters | {' | '.join(variants)} | mean |", "|---" * (len(variants) + 3) + "|"]
    for tried, mean in order.items():
        cells = rows[rows["tried"] == tried].set_index("variant")
        numbers = [f"{100 * cells['val_accuracy'][v]:.2f} % / {cells['val_loss'][v]:.4f}" for v in variants]
        lines.append(f"| {tried} | {cells['parameters'].iloc[0]:,} | {' | '.join(numbers)} | {mean:.4f} |")
    images = int(tables.results["val_size"].iloc[0])
    return "\n".join([*lines, "", f"Accuracy / loss on {images:,} held-out training images, last epoch, n = 1 a cell."])


def _tried(row: Mapping[str, Any], varied: Sequence[str]) -> str:
    own = [f"{name} {row[name]}" for name in varied]
    return ", ".join([*own, *([f"l1 {row['l1']:g}"] if row["l1"] not in (0.0, L1) else [])])


def held_out(tables: Tables) -> list[str]:
    """What was chosen, by the mean held-out loss of the three variants."""
    rows = tables.results
    varied = [name for name in RECIPE if rows[name].nunique() > 1]
    tried = pd.Series([_tried(row, varied) for row in rows.to_dict(orient="records")], index=rows.index)
    losses = rows.groupby(tried)["val_loss"].mean().sort_values()
    counts = rows.groupby("norm", sort=False).size()
    number = ", ".join(f"{norm.upper()} {count}" for norm, count in counts.items())
    return [
        f"Lowest held-out loss, mean of the three variants: {losses.index[0]} ({losses.iloc[0]:.4f} nats), before "
        f"{losses.index[1]} ({losses.iloc[1]:.4f}).",
        f"Configurations tried, the same number for each norm: {number}. The test set had no say.",
    ]


def no_figures(tables: Tables) -> dict[str, Figure]:
    """Of a choice on held-out images, where one run a cell is a table."""
    return {}


def assignment_findings(tables: Tables) -> list[str]:
    """What the three variants' errors say, beside the summary."""
    return errors_as_data.errors(tables) if has_several_seeds(tables.results) else []


RECIPE = ("network", "batch_size", "lr", "weight_decay", "warmup", "rotation", "translation", "scale")
ASSIGNMENT = Page(findings=assignment_findings, figures=graphs.figures_of, main="test_accuracy", errors=True)
PAGES: dict[str, Page] = {
    "networks": Page(findings=held_out, figures=no_figures, table=held_out_table, main=""),
    "recipe": Page(findings=held_out, figures=no_figures, table=held_out_table, main=""),
    "assignment": ASSIGNMENT,
    "small": _seeds(answers.one_group),
    "factorial": _seeds(answers.factorial, answers.factorial_pairs),
    "penalty": Page(
        findings=sweeps.penalty, figures=sweeps.penalty_figures, main="accuracy",
        table=lambda tables: sweep_table(tables, "l1", "lambda"),
    ),
    "batch_size": Page(
        findings=sweeps.batch_size, figures=sweeps.batch_size_figures, main="accuracy",
        table=lambda tables: sweep_table(tables, "batch_size", "batch size", sweeps.tuned(tables)),
    ),
    "learning_rate": Page(
        findings=sweeps.learning_rate, figures=sweeps.learning_rate_figures, main="accuracy",
        table=lambda tables: sweep_table(tables, "lr", "learning rate"),
    ),
    "groups": _seeds(answers.groups, answers.groups_pairs),
    "shift": Page(
        findings=behaviour.shift, figures=behaviour.shift_figures, main="shift", table=results_table,
    ),
    "calibration": Page(
        findings=behaviour.calibration, figures=behaviour.calibration_figures, main="reliability", table=results_table,
    ),
    "fashion": _seeds(answers.fashion),
}  # fmt: skip


def page_of(name: str) -> Page:
    """How an experiment of this name is reported; one of yours as the assignment is."""
    return PAGES.get(name, ASSIGNMENT)


def render(name: str, tables: Tables, figures: Collection[str]) -> str:
    """The page of an experiment in Markdown; its figures lie beside it."""
    page, parts = page_of(name), tables.parts or {}
    lines = [f"# {parts.get('Question', name)}", ""]
    lines += [f"**{part}.** {sentence_case(parts[part])}\n" for part in ("Bet", "Method", "Reduced") if part in parts]
    found = [f"- {text}" for text in page.findings(tables)]
    table = page.table(tables)
    lines += ["## What came out", "", *([table, "", *found] if page.table is summary else [*found, "", table]), ""]
    lines += [f"![{caption(figure)}]({figure}.png)\n" for figure in figures]
    lines += ["## Run it again", "", size(tables), ""]
    if "Command" in parts:
        lines += ["```", *parts["Command"].split(", then "), "```", ""]
    return "\n".join(lines)


def sentence_case(text: str) -> str:
    """Plain Markdown that begins with a capital."""
    return plain(text[:1].upper() + text[1:])


def size(tables: Tables) -> str:
    """How much was run, and how long it took."""
    rows = tables.results
    at_once = int(rows["side_by_side"].max())
    failed = int(rows["diverged_at"].notna().sum())
    diverged = f", of which {failed} diverged" if failed else ""
    return (
        f"{len(rows)} runs{diverged}. Their epochs took {hours(tables):.1f} hours, {at_once} processes at once on "
        f"{int(rows['cores'].max())} CPU cores."
    )


def caption(figure: str) -> str:
    """What stands for a figure where it can't be seen."""
    return figure.replace("_", " ")


def hours(tables: Tables) -> float:
    """Hours that the epochs of these runs took on the machine that ran them, side by side as they were."""
    rows = tables.results
    epochs = tables.epochs.groupby("run_id").size().reindex(rows["run_id"], fill_value=0).to_numpy()
    return float((rows["seconds_per_epoch"].fillna(0) * epochs / rows["stack"] / rows["side_by_side"]).sum() / 3600)
