"""Finished runs to tables, figures, pages and the README's block: from the tracking server, or an export of it."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from normstudy.errors import ReportError, one_line
from normstudy.experiment import Experiment
from normstudy.figures import RC
from normstudy.files import require_folder, write_atomically
from normstudy.report import overview, pages
from normstudy.report.collect import tables_of
from normstudy.report.read import finished_trials
from normstudy.report.tables import ABOUT, Tables, read_about
from normstudy.report.text import counted, escaped

START, END = "<!-- report: start -->", "<!-- report: end -->"
PLACE = re.compile(f"{START}.*?{END}", re.DOTALL)
NEXT = "<!-- report: next -->"  # in a block: what follows goes to the README's second place
PAGE = "index.md"


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
    kind = pages.KINDS[experiment.report].tables
    records = finished_trials(
        experiment.configs, parent_id, may_diverge=experiment.may_diverge, measures=kind.measures()
    )
    tables = tables_of(kind, experiment.name, records, about=experiment.about)
    dirty = tables.provenance.loc[tables.provenance["git_dirty"] == "true", "run_id"]
    if export is not None and len(dirty) and not allow_dirty:
        what = f"{len(dirty)} of {counted(len(records), 'run')} were made with changes that no commit has"
        raise ReportError(f"export={one_line(str(export))}: {what}, such as {dirty.iloc[0]}; --allow-dirty keeps them")
    filled = fill(readme, pages.answer_block(tables, figures_at=out)) if readme else ""
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
    all_tables = load_all(exported)
    for name in all_tables:
        require_folder("out", out / name)
    filled = fill(readme, pages.readme_block(all_tables, figures_at=out)) if readme else ""
    files = {}
    for name, tables in all_tables.items():
        try:
            files[name] = drawn(name, tables)
        except ReportError as error:
            raise ReportError(f"{one_line(str(exported / name))}: {error}") from None
    for name, tables in all_tables.items():
        write(tables, files[name], out / name)
    for name, content in overview_files(all_tables).items():
        write_atomically(out / overview.NAME / name, content)
    if readme is not None:
        write_atomically(readme, filled.encode())


def require_outputs(*, out: Path, readme: Path | None, export: Path | None = None) -> None:
    """Raises `ConfigError` for folders that can't be written, and `ReportError` for a README without the marks."""
    require_folder("out", out)
    if export is not None:
        require_folder("export", export)
    if readme is not None:
        fill(readme, "")


def load_all(export: Path) -> dict[str, Tables]:
    """The tables of each experiment of an export, by its name, in the order of their numbers."""
    folders = sorted(file.parent for file in export.glob("*/results.csv"))
    if not folders:
        raise ReportError(f"from={one_line(str(export))}: holds no export of an experiment (no */results.csv)")
    kinds = {folder: pages.KINDS[read_about(folder / ABOUT).report] for folder in folders}
    found = {folder.name: kind.tables.load(folder) for folder, kind in kinds.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].about.number))


def drawn(name: str, tables: Tables, *, formats: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """Figures in each of the formats, and page of one experiment, by file name; the same tables give the same bytes.

    What stands between two $ in a name is text, and no formula.
    """
    with rc_context(RC):
        figures = pages.kind_of(tables).figures(tables)
        files = _all_bytes(figures, formats)
    return {**files, PAGE: pages.page(name, tables, figures).encode()}


def overview_files(every: Mapping[str, Tables]) -> dict[str, bytes]:
    """The same of all experiments together; nothing where nothing is to be told of them."""
    every = {name: escaped(tables) for name, tables in every.items()}
    with rc_context(RC):
        pooled = overview.pooled(overview.replicates(every))
        figures = overview.pooled_figures(pooled)
        files = _all_bytes(figures, ("png", "svg"))
    page = overview.overview_page(every, pooled, figures)
    return {**files, PAGE: page.encode()} if page else {}


def _all_bytes(figures: Mapping[str, Figure], formats: Sequence[str]) -> dict[str, bytes]:
    return {f"{name}.{kind}": as_bytes(figure, kind) for name, figure in figures.items() for kind in formats}


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
    """The README's text with the block in its marked place; with two such places, each has one part of the block.

    Raises `ReportError` without the marks.
    """
    try:
        text = readme.read_bytes().decode() if readme.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{readme}: can't be read as text in UTF-8 ({error})") from None
    places = PLACE.findall(text)
    if len(places) not in (1, 2) or not text.count(START) == text.count(END) == len(places):
        raise ReportError(f"{readme}: needs the marks {START} and {END} in this order, once or twice")
    parts = iter(block.split(NEXT) if len(places) == 2 else [block.replace(NEXT, "")])
    return PLACE.sub(lambda place: f"{START}\n{part.strip()}\n{END}" if (part := next(parts, "")) else place[0], text)
