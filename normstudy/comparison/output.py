"""A comparison as text for the terminal, as Markdown, as JSON, as figures, and as files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from normstudy.comparison import Compared
from normstudy.errors import one_line
from normstudy.figures import RC, Picture, norm_styles
from normstudy.files import write_atomically
from normstudy.report import as_bytes, charts, error_charts
from normstudy.report.tables import as_csv
from normstudy.report.text import counted, decimals, fixed, markdown_table, p_value, plain
from normstudy.stats import FEWEST_SEEDS, Comparison, Verdict

Format = Literal["text", "markdown", "json"]
NAMED = 3  # runs of a reason that are named
LONGEST = 40  # characters of a label in a figure
NEAR_ONE = 0.9  # median above which fractions get an axis that is logarithmic in what they lack to 1


def rendered(found: Compared, form: Format, *, command: str, width: int | None = None) -> str:
    """The whole comparison; `command` is what makes it again with nothing left to propose."""
    if form == "json":
        return _json(found, command)
    markdown = form == "markdown"
    tables = [
        _table(("group", "n", "mean", "95 % interval", "SD", "lowest", "highest"), _group_rows(found), markdown, width),
        _table(
            ("pair", "n", "difference", _interval_name(found), *_p_names(found), "verdict"),
            _pair_rows(found),
            markdown,
            width,
        ),
    ]
    lines = [
        sentence if markdown else one_line(sentence, None) for sentence in [*_notes(found), *_left_out(found, markdown)]
    ]
    better = "higher" if found.choice.higher_is_better else "lower"
    head = f"{_shown(found.choice.metric, markdown)}, {_shown(_step(found.choice.at), markdown)}; {better} is better."
    same = f"The same again: `{plain(command)}`" if markdown else f"The same again: {one_line(command, None)}"
    said = [f"- {line}" for line in lines] if markdown else lines
    blocks = [head, tables[0], tables[1] if len(found.pairs) else "", "\n".join(said), same]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _shown(text: str, markdown: bool) -> str:
    return plain(text) if markdown else one_line(text)


def _step(at: str) -> str:
    kind, _, metric = at.partition(":")
    return {"last": "last step", "best": f"step with the best {metric}"}.get(kind, f"step {at}")


def _interval_name(found: Compared) -> str:
    return "95 % interval" if len(found.pairs) == 1 else "simultaneous 95 % interval"


def _p_names(found: Compared) -> tuple[str, ...]:
    names = ("p", "adjusted p") if len(found.pairs) > 1 else ("p",)
    return (*names, "equivalence p", "smallest margin") if found.choice.margin else names


def _group_rows(found: Compared) -> list[list[str]]:
    form, rows = f".{_group_decimals(found)}f", []
    for row in found.groups.itertuples():
        interval = f"{row.low:{form}} to {row.high:{form}}" if row.low == row.low else ""
        others = [fixed(value, form) for value in (row.sd, row.lowest, row.highest)]
        rows.append([row.group, str(row.n), fixed(row.mean, form), interval, *others])
    return rows


def _group_decimals(found: Compared) -> int:
    return decimals(found.groups["sd"] / found.groups["n"] ** 0.5)


def _pair_rows(found: Compared) -> list[list[str]]:
    digits = decimals(pd.Series([pair.error for pair in found.comparisons], dtype=float))
    rows = []
    for pair, seeds in zip(found.comparisons, found.pairs["seeds_to_decide"], strict=True):
        p_values = [pair.p, pair.p_adjusted] if len(found.comparisons) > 1 else [pair.p]
        cells = [_p(value) for value in p_values]
        if found.choice.margin:
            cells += [_p(pair.tost_p_adjusted), f"{pair.smallest_margin:.{digits}f}"]
        interval = f"{pair.low:+.{digits}f} to {pair.high:+.{digits}f}" if pair.low == pair.low else ""
        difference = f"{pair.difference:+.{digits}f}"
        rows.append([f"{pair.a} minus {pair.b}", str(pair.n), difference, interval, *cells, verdict(pair, seeds)])
    return rows


def verdict(pair: Comparison, seeds: float | None) -> str:
    """What to say of a pair; of an inconclusive one, how many seeds would about decide it."""
    if pair.winner:
        return f"{pair.winner} is better"
    if pair.verdict is not Verdict.INCONCLUSIVE:
        return str(pair.verdict)
    if pair.n < FEWEST_SEEDS:
        return f"inconclusive: fewer than {FEWEST_SEEDS} seeds"
    return f"inconclusive: about {int(seeds)} seeds would decide" if seeds and seeds == seeds else "inconclusive"


def _p(value: float) -> str:
    return p_value(value).removeprefix("= ")


def _notes(found: Compared) -> list[str]:
    notes = list(found.notes)
    seeds = found.values.groupby("group", observed=True)["seed"].agg(frozenset)
    if found.choice.pair_by != "none" and seeds.nunique() > 1:
        notes.append("the groups have different seeds: each pair is compared on those that both have")
    welch = [f"{pair.a} and {pair.b}" for pair in found.comparisons if not pair.paired]
    if welch and found.choice.pair_by != "none":
        notes.append(f"too few shared seeds, so Welch's t-test over all: {'; '.join(welch)}")
    if not found.choice.margin:
        notes.append("without --margin nothing can be called equivalent: a pair is better or inconclusive")
    elif len(found.pairs):
        needed = found.power()["n_for_margin"].dropna()
        if len(needed):
            n = f"{needed.min():.0f}" if needed.nunique() == 1 else f"{needed.min():.0f} to {needed.max():.0f}"
            notes.append(f"for 80 % power to detect a difference of {found.choice.margin:g}: n = {n}")
    return notes


def _left_out(found: Compared, markdown: bool) -> list[str]:
    lines = []
    for why, runs in found.left_out.groupby("why", sort=False):
        names = [_shown(str(name), markdown) for name in runs["name"][:NAMED]]
        more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
        lines.append(f"left out, {_shown(str(why), markdown)}: {counted(len(runs), 'run')} ({', '.join(names)}{more})")
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool, width: int | None) -> str:
    if markdown:
        return markdown_table(head, [[plain(cell) for cell in row] for row in rows])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name in ("group", "pair", "verdict") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(one_line(cell, None) for cell in row))
    text = StringIO()
    Console(file=text, width=width or 160, markup=False, highlight=False, color_system=None).print(table, markup=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _json(found: Compared, command: str) -> str:
    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records", double_precision=15))

    said = {
        "metric": found.choice.metric,
        "at": found.choice.at,
        "higher_is_better": found.choice.higher_is_better,
        "group_by": list(found.choice.group_by),
        "pair_by": found.choice.pair_by,
        "margin": found.choice.margin,
        "command": command,
        "groups": records(found.groups),
        "pairs": records(found.pairs),
        "left_out": records(found.left_out),
        "notes": list(found.notes),
    }
    return json.dumps(said, indent=1) + "\n"


def save(found: Compared, folder: Path, *, command: str) -> list[str]:
    """Tables as CSV, the comparison as Markdown, figures as PNG and SVG. Returns the names of the files."""
    names = []
    tables = {"groups": found.groups, "pairs": found.pairs, "values": found.values, "left_out": found.left_out}
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", as_csv(table))
        names.append(f"{name}.csv")
    write_atomically(folder / "comparison.md", rendered(found, "markdown", command=command).encode())
    names.append("comparison.md")
    with rc_context(RC):
        for name, figure in found.figures().items():
            for form in ("png", "svg"):
                write_atomically(folder / f"{name}.{form}", as_bytes(figure, form))
                names.append(f"{name}.{form}")
    return names


@rc_context(RC)
def figures(found: Compared) -> dict[str, Figure]:
    """`means`; `differences` where there are pairs; `curves` where any run has more than one step."""
    metric, groups, curves = found.choice.metric, found.groups, found.curves()
    several = "simultaneous 95 % intervals" if len(found.pairs) > 1 else "95 % interval"
    differences = f"difference of {metric}, first minus second; {several}"
    y = charts.Quantity(column="value", label=f"metric {metric}", unit="number", plural=metric, differences=differences)
    labels = {str(name): _label(str(name), place) for place, name in enumerate(groups["group"], 1)}
    counts = {name: f"{labels[name]}, n = {n}" for name, n in zip(labels, groups["n"], strict=True)}
    runs = found.values.assign(group=found.values["group"].astype(str).map(counts))
    drawn: dict[str, Figure] = {"means": charts.draw_means(runs, "", y=y, digits=_group_decimals(found))}
    if pairs := [replace(pair, a=labels[pair.a], b=labels[pair.b]) for pair in found.comparisons]:
        drawn["differences"] = charts.draw_differences(pairs, "", y=y)
    if any(len(curve) > 1 for curve in curves.values()):
        named = {labels[name]: curve for name, curve in curves.items()}
        drawn["curves"] = _draw_curves(named, metric, found.values["value"])
    return drawn


def _label(name: str, place: int) -> str:
    """A name that a figure has room for, in one line; of a long one the beginning, and the group's place, as two groups
    may begin alike."""
    short = one_line(name, None)
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 4]}… {place}"


def _draw_curves(curves: Mapping[str, pd.DataFrame], metric: str, last: pd.Series) -> Figure:
    figure = Picture(f"{metric} by step: mean and 95 % interval", height=5.0)
    axes = figure.subplots()
    axes.set(xlabel="step", ylabel=metric)
    for name, look in norm_styles(curves).items():
        found = charts.mean_intervals(curves[name])
        axes.plot(found.index, found["mean"], color=look["color"], linestyle=look["linestyle"], label=name)
        axes.fill_between(found.index, found["low"], found["high"], color=look["color"], alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = pd.concat(list(curves.values())).stack().dropna()
    if values.between(0, 1).all() and last.median() > NEAR_ONE:
        error_charts.error_scale(axes, values, whole=1)
        axes.set_ylabel(f"{metric} (log scale of the distance to 1)")
    axes.legend(fontsize=8)
    return figure
