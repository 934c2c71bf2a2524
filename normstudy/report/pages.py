"""A page for each experiment: question, bet, method, verdict, figures, command; from the exported tables alone."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Generic

import pandas as pd
from matplotlib.figure import Figure

from normstudy.report import compare as answers
from normstudy.report import errors as errors_as_data
from normstudy.report import penalties, sweeps
from normstudy.report import robustness as behaviour
from normstudy.report.tables import (
    TEST_IMAGES,
    CalibrationTables,
    CollapseTables,
    ErrorTables,
    PenaltyTables,
    ShiftTables,
    T,
    Tables,
)
from normstudy.report.text import fenced, has_several_seeds, parts_of, plain, sample, shown, summary

Findings = Callable[[Tables], list[str]]


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """How an experiment is reported; a new kind of experiment is a row of `PAGES`."""

    tables: type[T]  # those that it is made of, which an export of the experiment has
    findings: Callable[[T], list[str]]  # sentences, the first the most important
    figures: Callable[[T], dict[str, Figure]]
    table: Callable[[T], str]
    table_first: bool = False  # whether the table has the answer, and the findings only add to it
    main: str = "means"  # the figure that the README shows


def _seeds(findings: Findings, pairs: Callable[[Tables], list[answers.Pair]] | None = None) -> Page[Tables]:
    def figures(tables: Tables) -> dict[str, Figure]:
        return answers.seeds_figures(tables, pairs(tables) if pairs else None)

    return Page(tables=Tables, findings=findings, figures=figures, table=results_table)


def _held_out(findings: Findings) -> Page[Tables]:
    """Of a choice on held-out images, where one run a cell is a table."""
    return Page(tables=Tables, findings=findings, figures=lambda tables: {}, table=held_out_table, main="")


def results_table(tables: Tables) -> str:
    """A row for each group: n, mean accuracy with its interval, spread, loss; how many runs diverged where any did."""
    bounds = answers.intervals(answers.finished(tables).results)
    rows = []
    for group, every in tables.results.groupby("group", sort=False):
        runs = every[every["diverged_at"].isna()]
        values = 100 * runs["test_accuracy"]
        cells = ["diverged", "", ""]
        if len(runs):
            low, high = bounds.get(str(group), (None, None))
            interval = f" ({100 * low:.2f} to {100 * high:.2f})" if low is not None and high is not None else ""
            spread = f"{values.min():.2f} to {values.max():.2f} %" if len(runs) > 1 else ""
            failed = _failed(len(every) - len(runs), len(every))
            cells = [f"{values.mean():.2f} %{interval}{failed}", spread, f"{runs['test_loss'].mean():.4f}"]
        rows.append(f"| {' | '.join([str(group), str(len(every)), *cells])} |")
    head = "| | n | test accuracy, mean (95 % interval) | lowest to highest seed | test loss |\n|---|---|---|---|---|"
    size = f"Last epoch, {TEST_IMAGES:,} test images"
    drawn = "; the interval is of the mean over seeds (bootstrap)" if bounds else ""
    return "\n".join([head, *rows, "", f"{size}{drawn}."])


def _failed(failed: int, runs: int) -> str:
    return f", {failed} of {runs} diverged" if failed else ""


def sweep_table(tables: Tables, column: str, title: str, rows: pd.DataFrame | None = None, *, how: str = "") -> str:
    """Mean test accuracy by a setting and the norm; how many runs diverged where any did."""
    rows = sweeps.by_norm(tables) if rows is None else rows
    norms = list(dict.fromkeys(rows["group"]))
    lines = [f"| {title} | {' | '.join(norms)} |", "|---" * (len(norms) + 1) + "|"]
    for value, runs in rows.groupby(column):
        cells = [_cell(runs[runs["group"] == norm]) for norm in norms]
        lines.append(f"| {value:g} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Mean test accuracy at the last epoch, {sample(tables.results)}{how}."])


def _cell(runs: pd.DataFrame) -> str:
    """Empty where nothing ran."""
    failed = int(runs["diverged"].sum())
    if failed == len(runs):
        return "diverged" if failed else ""
    return f"{100 * runs['test_accuracy'].mean():.2f} %{_failed(failed, len(runs))}"


def tried(results: pd.DataFrame) -> pd.DataFrame:
    """The results with what was tried in words, as `tried`, the same without lambda as `settings`, and the norm as
    `variant`.

    Lambda is named, and `other_l1` true, where it is not that of the norm's first run, as the norms don't share one.
    """
    varied = [name for name in RECIPE if results[name].nunique() > 1]
    settings = [", ".join(f"{name} {_text(row[name])}" for name in varied) for row in results.to_dict(orient="records")]
    rows = results.assign(settings=settings, variant=results["norm"].str.upper())
    rows["other_l1"] = rows["l1"] != rows.groupby("norm")["l1"].transform("first")
    lambdas = rows["l1"].map("l1 {:g}".format).where(rows["other_l1"], "")
    joined = [", ".join(filter(None, parts)) for parts in zip(settings, lambdas, strict=True)]
    return rows.assign(tried=[text or "the recipe" for text in joined])


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def held_out_table(tables: Tables) -> str:
    """A row for each configuration that was tried, by held-out loss, mean over the variants."""
    rows = tried(tables.results)
    accuracy, loss = (rows.pivot_table(index="tried", columns="variant", values=value) for value in HELD_OUT)
    parameters = rows.groupby("tried")["parameters"].first()
    variants = list(dict.fromkeys(rows["variant"]))
    lines = [f"| tried | parameters | {' | '.join(variants)} | mean loss |", "|---" * (len(variants) + 3) + "|"]
    for name, mean in loss.mean(axis=1).sort_values(kind="stable").items():
        numbers = [f"{100 * accuracy.loc[name, v]:.2f} % / {loss.loc[name, v]:.4f}" for v in variants]
        lines.append(f"| {name} | {parameters[name]:,} | {' | '.join(numbers)} | {mean:.4f} |")
    images = " or ".join(f"{size:,}" for size in sorted(set(rows["val_size"])))
    cell = f"Accuracy / loss (nats) on {images} held-out training images, last epoch, {sample(rows)}."
    return "\n".join([*lines, "", cell])


def held_out(tables: Tables) -> list[str]:
    """What was chosen: by the mean held-out loss of the variants, among networks of a size; lambda by BN's own."""
    rows = tried(tables.results)
    counts = rows.groupby("variant", sort=False).size()
    number = ", ".join(f"{variant} {count}" for variant, count in counts.items())
    alike, lines = rows[~rows["other_l1"]], []
    sizes = alike["parameters"].map(lambda count: min(budget for budget in BUDGETS if count < budget))
    for budget, same in alike.groupby(sizes):
        what = f"Under {budget:,} parameters, lowest" if sizes.nunique() > 1 else "Lowest"
        losses = same.groupby("tried")["val_loss"].mean()
        lines.append(f"{what} held-out loss, mean of {', '.join(counts.index)}: {_first_two(losses)}.")
    bn = rows[(rows["variant"] == "BN") & rows["settings"].isin(rows.loc[rows["other_l1"], "settings"])]
    if bn["l1"].nunique() > 1:
        lines.append(f"Lambda, by BN's own held-out loss: {_first_two(bn.groupby('l1')['val_loss'].mean())}.")
    return [*lines, f"Configurations tried, by norm: {number}. The test set had no say."]


def choice(tables: Tables) -> list[str]:
    """What was chosen, and the variant that has the lowest held-out loss with it."""
    rows = tried(tables.results)
    best = rows.groupby("tried")["val_loss"].mean().idxmin()
    losses = rows[rows["tried"] == best].set_index("variant")["val_loss"]
    first, *others = held_out(tables)
    return [first, f"With it, the lowest held-out loss of a variant: {_first_two(losses)}.", *others]


def _first_two(losses: pd.Series) -> str:
    """The lowest loss and the next."""
    lowest = losses.sort_values(kind="stable")[:2]
    first, *second = [f"{_text(name)} ({loss:.4f} nats)" for name, loss in lowest.items()]
    return f"{first}, before {second[0]}" if second else first


def own_findings(tables: Tables) -> list[str]:
    """What the errors of several seeds say, beside the summary."""
    ended = answers.finished(tables)
    if not has_several_seeds(ended.results):
        return []
    return [*errors_as_data.errors(ended), answers.picked(ended)]


def assignment_findings(tables: Tables) -> list[str]:
    """The same, and whether the assignment's targets were met, which are nobody else's."""
    *errors, picked = own_findings(tables) or [""]
    if not picked:
        return []
    ended = answers.finished(tables)
    return [*errors, answers.targets(tables), picked, errors_as_data.chance(ended), sweeps.goal(ended)]


def assignment_table(tables: Tables) -> str:
    """The summary; where a run of yours diverged, which has no errors to count, the plain table."""
    return summary(tables) if tables.results["diverged_at"].isna().all() else results_table(tables)


HELD_OUT = ("val_accuracy", "val_loss")
BUDGETS = (4_000, 8_000, math.inf)  # parameters
RECIPE = ("network", "batch_size", "lr", "weight_decay", "warmup", "rotation", "translation", "scale")
ALTERNATIVES = {
    "means": "Test accuracy of each group: every seed, the mean and its interval",
    "differences": "Differences between groups with their intervals, and the margin of equivalence",
    "test_loss": "Test loss by epoch",
    "test_accuracy": "Test accuracy by epoch",
    "shared_statistics": "Over what each norm takes its statistics",
    "errors_overlap": "How many misclassified images the groups share",
    "errors_by_class": "Error rate of each digit by group",
    "confusions": "Which digits are read as which, by group",
    "errors_common": "Images that every run misclassifies",
    "accuracy": "Test error of each norm over the setting",
    "accuracy_bn": "Test error of BN over lambda, by what L1 is summed over and how the learning rate ends",
    "accuracy_gn": "Test error of GN over lambda, by what L1 is summed over and how the learning rate ends",
    "zero_weights": "Share of weights at zero over lambda, by norm",
    "statistics": "Test error of BN over lambda, with running averages and with statistics of the test images",
    "learning_rates": "Learning rate chosen for each batch size, by norm",
    "epochs_to_goal": "Epochs to 99 % test accuracy over the learning rate, by norm",
    "shift": "Test accuracy by severity of each corruption, by norm",
    "reliability": "Observed against expected errors of each group, before and after temperature scaling",
}
GRIDS = {"misclassified_": "Ten misclassified images of ", "errors_only_": "Images that only these seeds misclassify: "}
OWN = Page(
    tables=ErrorTables,
    findings=own_findings,
    figures=errors_as_data.figures_of,
    table=assignment_table,
    table_first=True,
    main="test_accuracy",
)
PAGES: dict[str, Page[Any]] = {
    "networks": _held_out(held_out),
    "recipe": _held_out(held_out),
    "assignment": replace(OWN, findings=assignment_findings),
    "small_recipe": _held_out(choice),
    "small_networks": _held_out(choice),
    "small": _seeds(answers.small),
    "fine_networks": _held_out(choice),
    "fine": _seeds(answers.fine),
    "factorial": _seeds(answers.factorial, answers.factorial_pairs),
    "penalty": Page(
        tables=PenaltyTables,
        findings=penalties.penalty,
        figures=penalties.penalty_figures,
        main="accuracy",
        table=lambda tables: sweep_table(tables, "l1", "lambda"),
    ),
    "collapse": Page(
        tables=CollapseTables,
        findings=penalties.collapse,
        figures=penalties.collapse_figures,
        main="accuracy_bn",
        table=lambda tables: sweep_table(tables, "l1", "lambda", penalties.accused(tables)),
    ),
    "batch_size": Page(
        tables=Tables,
        findings=sweeps.batch_size,
        figures=sweeps.batch_size_figures,
        main="accuracy",
        table=lambda tables: sweep_table(
            tables,
            "batch_size",
            "batch size",
            sweeps.tuned(tables),
            how=", each at the learning rate with the lowest held-out loss",
        ),
    ),
    "learning_rate": Page(
        tables=Tables,
        findings=sweeps.learning_rate,
        figures=sweeps.learning_rate_figures,
        main="accuracy",
        table=lambda tables: sweep_table(tables, "lr", "learning rate"),
    ),
    "groups": _seeds(answers.groups, answers.groups_pairs),
    "shift": Page(
        tables=ShiftTables,
        findings=behaviour.shift,
        figures=behaviour.shift_figures,
        main="shift",
        table=results_table,
    ),
    "calibration": Page(
        tables=CalibrationTables,
        findings=behaviour.calibration,
        figures=behaviour.calibration_figures,
        main="reliability",
        table=results_table,
    ),
    "fashion": _seeds(answers.ranking),
}


def page_of(name: str) -> Page[Any]:
    """How an experiment of this name is reported; one of yours as the assignment is."""
    return PAGES.get(name, OWN)


def render(name: str, tables: Tables, figures: Collection[str]) -> str:
    """The page of an experiment in Markdown; its figures lie beside it."""
    page, parts, tables = page_of(name), parts_of(tables), shown(tables)
    lines = [f"# {plain(parts.get('Question', name))}", ""]
    lines += [f"**{part}.** {sentence_case(parts[part])}\n" for part in ("Bet", "Method", "Reduced") if part in parts]
    found = [f"- {text}" for text in page.findings(tables)]
    table = page.table(tables)
    lines += ["## What came out", "", *([table, "", *found] if page.table_first else [*found, "", table]), ""]
    lines += [f"![{caption(figure)}]({figure}.png)\n" for figure in figures]
    lines += ["## Run it again", "", size(tables), "", code(tables), ""]
    if "Command" in parts:
        lines += [*fenced(parts["Command"].split(", then ")), ""]
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
    together = f"{at_once} processes at once" if at_once > 1 else "one process at a time"
    took = f"{hours(tables):.1f} hours" if hours(tables) >= 1 else f"{60 * hours(tables):.1f} minutes"
    cores = answers.counted(int(rows["cores"].max()), "CPU core")
    return f"{answers.counted(len(rows), 'run')}{diverged}. Their epochs took {took}, {together}, with {cores} to use."


def code(tables: Tables) -> str:
    """Which commits the runs were made of, for whoever runs them again."""
    rows, found = tables.provenance, []
    for (commit, dirty), runs in rows.groupby(["git_commit", "git_dirty"], sort=False):
        tree = {"true": ", changed tree", "false": ", clean tree"}.get(dirty, "")
        what = "unknown" if commit == "unknown" else f"commit {commit[:7]}{tree}"
        some = f" for {len(runs)} of {answers.counted(len(rows), 'run')}"
        found.append(what + (some if len(runs) < len(rows) or commit == "unknown" else ""))
    return f"Code: {'; '.join(found)}."


def caption(figure: str) -> str:
    """What stands for a figure where it can't be seen."""
    for start, text in GRIDS.items():
        if figure.startswith(start):
            return text + figure.removeprefix(start).replace("_", " ")
    return ALTERNATIVES.get(figure, figure.replace("_", " "))


def hours(tables: Tables) -> float:
    """Hours that the epochs of these runs took on the machine that ran them, side by side as they were."""
    rows = tables.results
    epochs = tables.epochs.groupby("run_id").size().reindex(rows["run_id"], fill_value=0).to_numpy()
    return float((rows["seconds_per_epoch"].fillna(0) * epochs / rows["stack"] / rows["side_by_side"]).sum() / 3600)
