"""Finished runs to tables, figures, pages and the README's block: from the tracking server, or an export of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from matplotlib import rc_context
from matplotlib.figure import Figure

from normstudy.errors import ReportError, one_line
from normstudy.experiment import Experiment
from normstudy.files import require_folder, write_atomically
from normstudy.report import pages
from normstudy.report.collect import tables_of
from normstudy.report.compare import counted
from normstudy.report.errors import grid_name, with_grid
from normstudy.report.read import finished_trials
from normstudy.report.tables import Tables
from normstudy.report.text import parts_of, plain, shown

START, END = "<!-- report: start -->", "<!-- report: end -->"
PAGE = "index.md"
FIRST = "assignment"
IN_README = 5  # findings of an experiment; its page has all
ERRORS = "Which images does every network get wrong, and which only one norm's?"


def report(
    experiment: Experiment,
    *,
    parent_id: str | None,
    out: Path,
    readme: Path | None = None,
    export: Path | None = None,
    allow_dirty: bool = False,
) -> None:
    """Read the runs of an experiment; write its tables, figures and page to `out`; fill `readme`; keep the tables
    in `export`, below the experiment's name.

    Raises `ConfigError` for a folder that can't be written, before anything is read, and `ReportError`, and writes
    nothing, unless every configuration has a finished run, and for an export of runs whose code no commit has.
    """
    require_outputs(out=out, readme=readme, export=export)
    # a server may have chosen the name
    if export is not None and (experiment.name in ("", "..") or Path(experiment.name).name != experiment.name):
        raise ReportError(f"export={one_line(str(export))}: {one_line(experiment.name)!r} is no name of a folder")
    kind = pages.page_of(experiment.name).tables
    records = finished_trials(
        experiment.configs, parent_id, may_diverge=experiment.may_diverge, measures=kind.measures()
    )
    tables = tables_of(kind, experiment.name, records, parts=experiment.parts)
    dirty = tables.provenance.loc[tables.provenance["git_dirty"] == "true", "run_id"]
    if export is not None and len(dirty) and not allow_dirty:
        what = f"{len(dirty)} of {counted(len(records), 'run')} were made with changes that no commit has"
        raise ReportError(f"export={one_line(str(export))}: {what}, such as {dirty.iloc[0]}; --allow-dirty keeps them")
    filled = fill(readme, render(tables, figures_at=out)) if readme else ""
    write(tables, drawn(experiment.name, tables), out)
    if export is not None:
        tables.save(export / experiment.name)
    if readme is not None:
        write_atomically(readme, filled.encode())


def report_from(exported: Path, *, out: Path, readme: Path | None = None) -> None:
    """The same for every experiment of an export, a folder each, without a server.

    Raises `ConfigError` for a folder that can't be written, and `ReportError` where there is no export, or a damaged
    one; nothing is written then.
    """
    require_outputs(out=out, readme=readme)
    all_tables = {folder.name: pages.page_of(folder.name).tables.load(folder) for folder in exported_in(exported)}
    for name in all_tables:
        require_folder("out", out / name)
    filled = fill(readme, render_all(all_tables, figures_at=out)) if readme else ""
    files = {}
    for name, tables in all_tables.items():
        try:
            files[name] = drawn(name, tables)
        except ReportError as error:
            raise ReportError(f"{one_line(str(exported / name))}: {error}") from None
    for name, tables in all_tables.items():
        write(tables, files[name], out / name)
    if readme is not None:
        write_atomically(readme, filled.encode())


def require_outputs(*, out: Path, readme: Path | None, export: Path | None = None) -> None:
    """Raises `ConfigError` for folders that can't be written, and `ReportError` for a README without the marks."""
    require_folder("out", out)
    if export is not None:
        require_folder("export", export)
    if readme is not None:
        fill(readme, "")


def exported_in(folder: Path) -> list[Path]:
    """The folders of the experiments in an export, in the order of `pages.PAGES`; others last."""
    order = [*pages.PAGES]
    found = sorted(file.parent for file in folder.glob("*/results.csv"))
    if not found:
        raise ReportError(f"from={one_line(str(folder))}: holds no export of an experiment (no */results.csv)")
    return sorted(found, key=lambda path: order.index(path.name) if path.name in order else len(order))


def drawn(name: str, tables: Tables) -> dict[str, bytes]:
    """Figures and page of one experiment, by file name; the same tables give the same bytes.

    What stands between two $ in a name is text, and no formula.
    """
    files: dict[str, bytes] = {}
    with rc_context({"svg.hashsalt": "normstudy", "text.parse_math": False}):
        figures = pages.page_of(name).figures(tables)
        for figure_name, figure in figures.items():
            files |= {f"{figure_name}.png": as_bytes(figure, "png"), f"{figure_name}.svg": as_bytes(figure, "svg")}
    return {**files, PAGE: pages.render(name, tables, [*figures]).encode()}


def as_bytes(figure: Figure, kind: str) -> bytes:
    """As PNG or SVG, without the date and the version that would differ each time."""
    file, differing = BytesIO(), {"png": "Software", "svg": "Date"}
    figure.savefig(file, format=kind, dpi=130 if kind == "png" else "figure", metadata={differing[kind]: None})
    return file.getvalue()


def write(tables: Tables, files: Mapping[str, bytes], out: Path) -> None:
    """Tables, figures and page of one experiment, each file whole or as it was."""
    tables.save(out)
    for name, content in files.items():
        write_atomically(out / name, content)


def fill(readme: Path, block: str) -> str:
    """The README's text with the marked block replaced. Raises `ReportError` without the marks."""
    try:
        text = readme.read_bytes().decode() if readme.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{readme}: can't be read as text in UTF-8 ({error})") from None
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{readme}: needs the marks {START} and {END}, once each, in this order")
    return f"{text[: text.index(START)]}{START}\n{block}\n{text[text.index(END) :]}"


def render(tables: Tables, *, figures_at: Path) -> str:
    """The block for one study, in Markdown, from the tables alone: the summary, both graphs and all grids."""
    graphs = {"Test loss by epoch": "test_loss", "Test accuracy by epoch": "test_accuracy"}
    grids = {f"Ten misclassified images, {plain(group)}": grid_name(group) for group in with_grid(tables)}
    pictures = [picture(text, name, figures_at) for text, name in {**graphs, **grids}.items()]
    return "\n\n".join([pages.assignment_table(shown(tables)), *pictures])


def picture(text: str, name: str, folder: Path) -> str:
    """A figure in Markdown."""
    return f"![{text}]({quote((folder / name).as_posix())}.png)"


def render_all(tables: dict[str, Tables], *, figures_at: Path) -> str:
    """The README's block from an export: the assignment's answer, graphs and grids, then an experiment's findings each
    with its figure; choices on held-out images, which have none, stand last."""
    if FIRST not in tables:
        raise ReportError(f"the export has no experiment {FIRST!r}; it has {', '.join(map(one_line, tables))}")
    lines = [render(tables[FIRST], figures_at=figures_at / FIRST), "## Findings"]
    lines += [finding(FIRST, tables[FIRST], ERRORS, "errors_common", figures_at)]
    others = sorted((name for name in tables if name != FIRST), key=lambda name: not pages.page_of(name).main)
    for name in others:
        question = parts_of(tables[name]).get("Question", name)
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
    said = "\n".join(f"- {text}" for text in pages.page_of(name).findings(shown(tables))[:IN_README])
    pictures = [picture(plain(question), figure, figures_at / name)] if figure else []
    link = f"All of it, and the command: [{plain(name)}]({quote((figures_at / name / PAGE).as_posix())})."
    return "\n\n".join([f"### {plain(question)}", said, *pictures, link])
