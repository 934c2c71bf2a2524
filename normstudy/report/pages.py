"""How each kind of experiment is reported: facts, figures and table; and its page, from the exported tables alone."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from normstudy.errors import ReportError, one_line
from normstudy.experiment import Kind
from normstudy.figures import Picture
from normstudy.report import choices, errors, groups, measures, networks, overview, shifts, sweeps
from normstudy.report.groups import Facts
from normstudy.report.tables import (
    TEST_IMAGES,
    CalibrationTables,
    CollapseTables,
    ErrorTables,
    MnistCTables,
    OverfittingTables,
    PenaltyTables,
    ShiftTables,
    T,
    Tables,
    TemperatureTables,
)
from normstudy.report.text import escaped, markdown_table, paragraphs, render
from normstudy.stats import SIGNIFICANCE

ERRORS = "Which images do all runs misclassify?"
SOURCE = re.compile(r" \(\[.*?\]\(.*?\).*?\)")


@dataclass(frozen=True)
class Page(Generic[T]):
    """How a kind of experiment is reported; the template of the same name says its facts, the most important first."""

    tables: type[T]  # those that it is made of, which an export of the experiment has
    facts: Callable[[T], Facts]
    figures: Callable[[T], dict[str, Picture]]
    table: Callable[[T], str]  # of the errors it has the answer, and stands before the findings


def results_table(tables: Tables) -> str:
    """A row for each group: n, mean accuracy with its interval, spread, loss; how many runs diverged where any did."""
    bounds = groups.intervals(groups.finished(tables).results)
    rows = []
    for group, every in tables.results.groupby("group", sort=False):
        runs = every[every["diverged_at"].isna()]
        percents, cells = 100 * runs["test_accuracy"], ["diverged", "", ""]
        if len(runs):
            low, high = bounds.get(str(group), (None, None))
            interval = f" ({100 * low:.2f} to {100 * high:.2f})" if low is not None and high is not None else ""
            spread = f"{percents.min():.2f} to {percents.max():.2f} %" if len(runs) > 1 else ""
            failed = f", {len(every) - len(runs)} of {len(every)} diverged" if len(every) > len(runs) else ""
            cells = [f"{percents.mean():.2f} %{interval}{failed}", spread, f"{runs['test_loss'].mean():.4f}"]
        rows.append([str(group), str(len(every)), *cells])
    table = markdown_table(
        ["", "n", "test accuracy, mean (95 % interval)", "lowest to highest seed", "test loss"], rows
    )
    drawn = "; the interval is of the mean over seeds (Student's t)" if bounds else ""
    return f"{table}\n\nLast epoch, {TEST_IMAGES:,} test images{drawn}."


def answer(tables: Tables) -> str:
    """The summary; where a run diverged, which has no errors to count, the plain table."""
    if tables.results["diverged_at"].notna().any():
        return results_table(tables)
    return render("summary", groups.summary_facts(tables)).strip()


KINDS: Mapping[Kind, Page[Any]] = {
    "errors": Page(ErrorTables, errors.errors_facts, errors.errors_figures, answer),
    "groups": Page(Tables, groups.groups_facts, groups.seeds_figures, results_table),
    "baseline": Page(Tables, groups.baseline_facts, groups.baseline_figures, results_table),
    "factorial": Page(Tables, groups.factorial_facts, groups.factorial_figures, results_table),
    "held_out": Page(Tables, choices.held_out_facts, lambda tables: {}, choices.held_out_table),
    "sweep": Page(Tables, sweeps.sweep_facts, sweeps.sweep_figures, sweeps.sweep_table),
    "penalty": Page(PenaltyTables, measures.penalty_facts, measures.penalty_figures, measures.penalty_table),
    "collapse": Page(CollapseTables, measures.collapse_facts, measures.collapse_figures, measures.collapse_table),
    "batch_size": Page(Tables, sweeps.batch_size_facts, sweeps.batch_size_figures, sweeps.batch_size_table),
    "learning_rate": Page(Tables, sweeps.learning_rate_facts, sweeps.learning_rate_figures, sweeps.learning_rate_table),
    "shift": Page(ShiftTables, shifts.shift_facts, shifts.shift_figures, results_table),
    "mnist_c": Page(MnistCTables, shifts.mnist_c_facts, shifts.mnist_c_figures, shifts.mnist_c_table),
    "calibration": Page(CalibrationTables, networks.calibration_facts, networks.calibration_figures, results_table),
    "ghost": Page(CollapseTables, networks.ghost_facts, groups.baseline_figures, results_table),
    "overfitting": Page(
        OverfittingTables, networks.overfitting_facts, networks.overfitting_figures, networks.overfitting_table
    ),
    "temperature": Page(TemperatureTables, networks.temperature_facts, lambda tables: {}, networks.temperature_table),
}


def kind_of(tables: Tables) -> Page[Any]:
    """How this experiment is reported."""
    return KINDS[tables.about.report]


def findings(tables: Tables) -> list[str]:
    """What an experiment found: sentences in Markdown, the first the most important; of tables that are `escaped`."""
    return paragraphs(tables.about.report, kind_of(tables).facts(tables))


def brief(tables: Tables) -> str:
    """The answer of an experiment in one sentence, for the README; of tables that are `escaped`."""
    kind, facts = tables.about.report, kind_of(tables).facts(tables)
    first = next(iter(paragraphs(kind, facts)), "")
    means = tables.results.groupby("group", sort=False)["test_accuracy"].mean().to_dict()
    said = {
        "kind": kind,
        "first": first,
        "facts": facts,
        "means": means,
        "confirmatory": groups.confirmatory(tables),
        "significance": SIGNIFICANCE,
    }
    return " ".join(render("brief", said).split())


def page(name: str, tables: Tables, figures: Mapping[str, Picture]) -> str:
    """The page of an experiment in Markdown; its figures lie beside it."""
    kind, parts, results = kind_of(tables), dict(tables.about.parts), tables.results
    shown = escaped(tables)
    facts = {
        "question": parts.pop("Question", name),
        "commands": " ".join(one_line(parts.pop("Command", ""), None).split()).replace(", then ", "\n"),
        "parts": parts,
        "exploratory": tables.about.report != "held_out" and "Status" not in parts,
        "short": is_short(tables),
        "findings": findings(shown),
        "table": kind.table(shown),
        "table_first": kind.table is answer,
        "figures": figures,
        "runs": len(results),
        "diverged": int(results["diverged_at"].notna().sum()),
        "hours": hours(tables),
        "at_once": int(results["side_by_side"].max()),
        "cores": int(results["cores"].max()),
        "code": code_of(tables),
    }
    return render("page", facts)


def is_short(tables: Tables) -> bool:
    """Whether the experiment trained on fewer images, for fewer epochs or with fewer seeds, as its file says."""
    return "Scale-down" in tables.about.parts


def code_of(tables: Tables) -> list[Facts]:
    """Which commits the runs were made of, and of how many runs each, for whoever runs them again."""
    by_commit = tables.provenance.groupby(["git_commit", "git_dirty"], sort=False)
    return [{"commit": commit, "dirty": dirty, "runs": len(runs)} for (commit, dirty), runs in by_commit]


def hours(tables: Tables) -> float:
    """Hours that the epochs of these runs took on the machine that ran them, side by side as they were."""
    rows = tables.results
    epochs = tables.epochs.groupby("run_id").size().reindex(rows["run_id"], fill_value=0).to_numpy()
    return float((rows["seconds_per_epoch"].fillna(0) * epochs / rows["stack"] / rows["side_by_side"]).sum() / 3600)


def answer_block(tables: Tables, *, figures_at: Path) -> str:
    """The README's block for one study, in Markdown: its answer, both graphs and all grids."""
    grids = {group: errors.grid_name(group) for group in errors.with_grid(tables)}
    return render("answer", {"answer": answer(escaped(tables)), "grids": grids, "at": figures_at.as_posix()})


def readme_block(every: Mapping[str, Tables], *, figures_at: Path) -> str:
    """The README's block from an export: the answer of the first study of errors, its graphs and grids, then the first
    finding of every other experiment that is not a choice on held-out images.
    """
    main = next((name for name, tables in every.items() if tables.about.report == "errors"), None)
    if main is None:
        raise ReportError(
            f"the export has no experiment of the kind 'errors'; it has {', '.join(map(one_line, every))}"
        )
    grids = {group: errors.grid_name(group) for group in errors.with_grid(every[main])}
    every = {name: escaped(tables) for name, tables in every.items()}
    tables, at = every[main], {name: (figures_at / name).as_posix() for name in every}
    ended = tables.results["diverged_at"].isna().all()
    runs, hours = effort(every.values())
    found = groups.summary_facts(tables) if ended else None
    planned = next((name for name, one in every.items() if one.about.confirmatory), None)
    pairs = groups.comparisons(every[planned]) if planned else []
    facts = {
        "summary": found,
        "planned": at.get(planned or ""),
        "penalty": next((pair for pair in pairs if (pair.a, pair.b) == ("BN + L1", "BN")), None),
        "table": groups.brief_table(tables.results, found["ranked"]) if found else results_table(tables),
        "at": at[main],
        "grids": grids,
        "experiments": [
            {
                "question": ERRORS
                if name == main
                else one.about.parts.get("Question", name).split("? ")[0].rstrip("?") + "?",
                "title": one.about.title or name,
                "finding": brief(one),
                "short": is_short(one),
                "at": at[name],
            }
            # what was planned to decide something comes first
            for name, one in sorted(every.items(), key=lambda item: not item[1].about.confirmatory)
            if one.about.report != "held_out"
        ],
        "runs": runs,
        "hours": hours,
        "overview": (figures_at / overview.NAME).as_posix(),
        # the sources stand on the page that it links to
        "reported": [[SOURCE.sub("", cell) for cell in row[:2]] for row in overview.reported(every)],
        "rows": overview.IN_README,
    }
    return render("readme", facts)


def effort(every: Iterable[Tables]) -> tuple[int, float]:
    """How many runs these experiments are made of, and the hours that their epochs took; a run that two share counts
    once.
    """
    seen: set[str] = set()
    total = 0.0
    for tables in every:
        rows = tables.results[~tables.results["run_id"].isin(seen)]
        total += hours(replace(tables, results=rows))
        seen |= set(rows["run_id"])
    return len(seen), total
