"""Text of any origin into Markdown, and numbers into words: what the templates in `templates/` write with.

A template's findings are paragraphs: sentences between blank lines, each wrapped as the editor likes.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from normstudy.errors import one_line
from normstudy.report.tables import TEST_IMAGES, T
from normstudy.report.tables import Tables as Tables  # the bound of T, by name
from normstudy.stats import FEWEST_SEEDS, MARGIN, Comparison, Verdict


def plain(text: str) -> str:
    """Markdown that shows this text as it is: no HTML, link, emphasis or cell of a table begins in it, and no line."""
    text = " ".join(one_line(text, None).split())
    text = re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("://", "&#58;//")
    return re.sub(r"(?i)\b(mailto|xmpp):", r"\1&#58;", re.sub(r"(?i)\b(www)\.", r"\1&#46;", text))


def fenced(text: str) -> str:
    """Text as a block of code in Markdown, between fences that are longer than any row of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def code(text: str) -> str:
    """What may stand between backticks."""
    return re.sub(r"[^\w-]", "?", text)


def escaped(tables: T) -> T:
    """The same tables with texts that Markdown shows as they are; an export may have any text in any column."""
    found = {name: table for name, table in tables.frames().items() if name != "images"}
    texts = {name: table.select_dtypes(exclude=["number", "bool"]) for name, table in found.items()}
    return replace(tables, **{name: table.assign(**texts[name].map(_plain_cell)) for name, table in found.items()})


def _plain_cell(cell: Any) -> Any:
    return plain(cell) if isinstance(cell, str) else cell


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage; `diverged` for the mean of a cell of which a seed diverged."""
    return "diverged" if np.isnan(share) else f"{100 * share:.{digits}f} %"


def points(fraction: float) -> str:
    """A difference of accuracies, given as a fraction, in percentage points."""
    text = f"{100 * fraction:.2f}"
    return text.removesuffix("0") if text.endswith("0") and not text.endswith(".00") else text


def signed(fraction: float, digits: int = 2) -> str:
    """The same with as many digits, and its sign unless it rounds to 0."""
    text = f"{100 * fraction:+z.{digits}f}"
    return text.removeprefix("+") if not float(text) else text


def scores(shares: Mapping[str, float], digits: int = 2) -> str:
    """`GN 99.53 %, LN 99.51 %`."""
    return ", ".join(f"{name} {percent(share, digits)}" for name, share in shares.items())


def short(value: Any) -> str:
    """A setting's value: a number without the zeros that say nothing."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def fixed(value: float, form: str) -> str:
    """A number in this form; nothing where there is none."""
    return format(value, form) if value == value else ""


def decimals(errors: pd.Series) -> int:
    """As many decimals as the smallest standard error has down to its second digit, at most 8."""
    known = errors[errors > 0]
    return min(8, max(0, 1 - math.floor(math.log10(known.min())))) if len(known) else 4


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spans(numbers: Iterable[int]) -> str:
    """Ascending integers, three or more in a row as `first to last`."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def sample(results: pd.DataFrame) -> str:
    """How many runs a group has, and their seeds; needs the columns `group` and `seed`."""
    counts = sorted(set(results["group"].value_counts()))
    seeds = sorted(set(results["seed"]))
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"n = {n} run{'s' if counts[-1] > 1 else ''} each, seed{'s' if len(seeds) > 1 else ''} {spans(seeds)}"


def either(numbers: Iterable[int]) -> str:
    """`3,890 or 7,522`: the different ones, ascending."""
    return " or ".join(f"{number:,}" for number in sorted(set(numbers)))


def p_value(p: float) -> str:
    """`= 0.012`; never 0, nor 1 where it is less."""
    return "< 0.001" if p < 0.001 else "> 0.999" if 0.9995 <= p < 1 else f"= {p:.3f}"


def p_values(pair: Comparison) -> str:
    """The p-values of a pair, that on which the verdict rests first; of a difference the adjusted one, too, where
    several pairs were compared."""
    difference = f"difference p {p_value(pair.p)}"
    if pair.comparisons > 1:
        difference += f", adjusted {p_value(pair.p_adjusted).removeprefix('= ')}"
    equivalence = f"equivalence p {p_value(pair.tost_p_adjusted)}"
    rests_on_difference = pair.verdict in (Verdict.BETTER, Verdict.INCONCLUSIVE)
    return f"{difference}; {equivalence}" if rests_on_difference else f"{equivalence}; {difference}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of these cells, which are Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0].replace("|  |", "| |"), "|---" * len(head) + "|", *lines[1:]])


def render(template: str, facts: Mapping[str, Any]) -> str:
    """A template's text with these facts; its texts are Markdown, or become it by a filter."""
    text = TEMPLATES.get_template(f"{template}.md").render(facts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def paragraphs(template: str, facts: Mapping[str, Any]) -> list[str]:
    """The paragraphs of a template, each in one line."""
    return [" ".join(text.split()) for text in re.split(r"\n\s*\n", render(template, facts)) if text.strip()]


FILTERS = (
    plain,
    fenced,
    code,
    percent,
    points,
    signed,
    scores,
    short,
    counted,
    p_value,
    p_values,
    sample,
    either,
    quote,
)
# No HTML is made here; `plain`, `code` and `fenced` say what Markdown may do with a text.
TEMPLATES = Environment(
    loader=PackageLoader("normstudy.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
)
TEMPLATES.filters |= {function.__name__: function for function in FILTERS}
TEMPLATES.globals |= {"test_images": TEST_IMAGES, "margin": MARGIN, "fewest_seeds": FEWEST_SEEDS}
