"""Finished runs to tables, figures, pages and the README's block: from the tracking server, or an export of it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from normstudy import pages
from normstudy.answers import counted
from normstudy.collect import tables_of
from normstudy.errors import ReportError
from normstudy.experiments import Experiment
from normstudy.graphs import grid_name, interactive, with_grid
from normstudy.runs import finished_trials, page_run
from normstudy.summary import plain
from normstudy.tables import Tables
from normstudy.tracking import Measure, log_to_run

START, END = "<!-- report: start -->", "<!-- report: end -->"
PAGE = "index.md"
FIRST = "assignment"
IN_README = 5  # findings of an experiment; its page has all
ERRORS = "Which images does every network get wrong, and which only one norm's?"


def report(
    experiment: Experiment, *, parent_id: str | None, out: Path, readme: Path | None = None, export: Path | None = None
) -> None:
    """Read the runs of an experiment; write its tables, figures and page to `out`; fill `readme`; keep the tables
    in `export`, below the experiment's name.

    The interactive page is logged, too, to the parent run of the study, where one study trained them all.

    Raises `ReportError`, and writes nothing, unless every configuration has a finished run.
    """
    measures = measures_of(experiment)
    records = finished_trials(experiment.configs, parent_id, may_diverge=experiment.may_diverge, measures=measures)
    errors = pages.page_of(experiment.name).errors
    tables = tables_of(experiment.name, records, measures=measures, parts=experiment.parts, errors=errors)
    filled = fill(readme, render(tables, figures_at=out)) if readme else ""
    write(experiment.name, tables, out)
    page = out / "interactive.html"
    page.write_text(interactive(tables), encoding="utf-8")
    if run_id := page_run(records):
        log_to_run(run_id, page)
    if export is not None:
        to_keep(experiment.name, tables).save(export / experiment.name)
    if readme is not None:
        readme.write_text(filled, encoding="utf-8")


def report_from(exported: Path, *, out: Path, readme: Path | None = None) -> None:
    """The same for every experiment of an export, a folder each, without a server.

    Raises `ReportError` where there is no export.
    """
    folders = exported_in(exported)
    all_tables = {folder.name: Tables.load(folder) for folder in folders}
    filled = fill(readme, render_all(all_tables, figures_at=out)) if readme else ""
    for name, tables in all_tables.items():
        write(name, tables, out / name)
    if readme is not None:
        readme.write_text(filled, encoding="utf-8")


def exported_in(folder: Path) -> list[Path]:
    """The folders of the experiments in an export, in the order of `pages.PAGES`; others last."""
    order = [*pages.PAGES]
    found = sorted(file.parent for file in folder.glob("*/results.csv"))
    if not found:
        raise ReportError(f"from={folder}: holds no export of an experiment (no */results.csv)")
    return sorted(found, key=lambda path: order.index(path.name) if path.name in order else len(order))


def measures_of(experiment: Experiment) -> list[Measure]:
    """The tables that `normstudy measure` adds to its runs."""
    named = [Measure(name) for name in experiment.measures]
    return [*named, *([Measure.RELIABILITY] if Measure.CALIBRATION in named else [])]


def to_keep(name: str, tables: Tables) -> Tables:
    """What an export holds: of experiments that are not about errors, neither these nor pictures."""
    if pages.page_of(name).errors:
        return tables
    return replace(tables, misclassified=tables.misclassified.iloc[:0], images=None)


def write(name: str, tables: Tables, out: Path) -> None:
    """Tables, figures and page of one experiment."""
    figures = pages.page_of(name).figures(tables)
    to_keep(name, tables).save(out)
    for figure_name, figure in figures.items():
        save(figure, out / figure_name)
    (out / PAGE).write_text(pages.render(name, tables, [*figures]), encoding="utf-8")


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
    """The block for one study, in Markdown, from the tables alone: the summary, both graphs and all grids."""
    graphs = {"Test loss by epoch": "test_loss", "Test accuracy by epoch": "test_accuracy"}
    grids = {f"Ten misclassified images, {plain(group)}": grid_name(group) for group in with_grid(tables)}
    pictures = [picture(text, name, figures_at) for text, name in {**graphs, **grids}.items()]
    return "\n\n".join([pages.assignment_table(tables), *pictures])


def picture(text: str, name: str, folder: Path) -> str:
    """A figure in Markdown."""
    return f"![{text}]({(folder / name).as_posix()}.png)"


def render_all(tables: dict[str, Tables], *, figures_at: Path) -> str:
    """The README's block from an export: the assignment's answer, graphs and grids, then an experiment's findings each
    with its figure; choices on held-out images, which have none, stand last."""
    if FIRST not in tables:
        raise ReportError(f"the export has no experiment {FIRST!r}; it has {', '.join(tables)}")
    lines = [render(tables[FIRST], figures_at=figures_at / FIRST), "## Findings"]
    lines += [finding(FIRST, tables[FIRST], ERRORS, "errors_common", figures_at)]
    others = sorted((name for name in tables if name != FIRST), key=lambda name: not pages.page_of(name).main)
    for name in others:
        question = (tables[name].parts or {}).get("Question", name)
        lines.append(finding(name, tables[name], question, pages.page_of(name).main, figures_at))
    return "\n\n".join([*lines, "### What it took", effort(tables.values())])


def effort(every: Iterable[Tables]) -> str:
    """How many runs these experiments are made of, and the hours that their epochs took; a run that two share counts
    once."""
    seen: set[str] = set()
    hours = 0.0
    for tables in every:
        rows = tables.results[~tables.results["run_id"].isin(seen)]
        hours += pages.hours(replace(tables, results=rows))
        seen |= set(rows["run_id"])
    return f"{counted(len(seen), 'run')}, whose epochs took {hours:.1f} hours on the machines that ran them."


def finding(name: str, tables: Tables, question: str, figure: str, figures_at: Path) -> str:
    """What an experiment found, with a figure and the way to its page."""
    said = "\n".join(f"- {text}" for text in pages.page_of(name).findings(tables)[:IN_README])
    shown = [picture(plain(question), figure, figures_at / name)] if figure else []
    link = f"All of it, and the command: [{name}]({(figures_at / name / PAGE).as_posix()})."
    return "\n\n".join([f"### {plain(question)}", said, *shown, link])
