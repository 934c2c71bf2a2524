"""mkdocs hook: what the site takes from experiments, README and command line, so that nothing is typed twice."""

import re
from pathlib import Path
from typing import Any, get_args

import typer
from typer.cli import get_docs_for_click

from normstudy.cli import build_app
from normstudy.experiment import Kind, all_experiments
from normstudy.report import PLACE
from normstudy.report.overview import NAME, TITLE

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = [  # one that is planned, or still trains, has no page yet
    one
    for one in all_experiments(PROJECT / "experiments")
    if (PROJECT / "docs/experiments" / one.name / "index.md").exists()
]
IMAGE = re.compile(r'<p>((?:<a [^>]*>)?<img [^>]*?alt="([^"]+)"[^>]*>(?:</a>)?)</p>')
CHAPTERS: dict[str, tuple[Kind, ...]] = {  # of the results, by how an experiment is reported
    "Comparisons": ("errors", "groups"),
    "Choosing network and recipe": ("held_out",),
    "L1": ("factorial", "penalty", "collapse"),
    "Training": ("learning_rate", "batch_size", "baseline", "ghost", "sweep"),
    "Robustness": ("shift", "mnist_c", "calibration", "temperature", "overfitting"),
}
assert {kind for kinds in CHAPTERS.values() for kind in kinds} == set(get_args(Kind))


def on_config(config: Any) -> None:
    """Fill the navigation's entry `Results`: a chapter for each group of experiments that has pages."""
    pages = {
        chapter: [{one.title: f"experiments/{one.name}/index.md"} for one in EXPERIMENTS if one.report in kinds]
        for chapter, kinds in CHAPTERS.items()
    }
    results = [*({chapter: own} for chapter, own in pages.items() if own), {TITLE: f"experiments/{NAME}/index.md"}]
    next(entry for entry in config["nav"] if "Results" in entry)["Results"] = results


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the README's generated parts, and the help of each command, in the place of their marks."""
    answer, findings = (part.split("\n", 1)[1].rsplit("\n", 1)[0] for part in PLACE.findall(readme()))
    marks = {"answer": answer, "findings": findings, "commands": command_line()}
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda mark: marks[mark[1]], markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """An image that stands alone in a paragraph is a figure, with its alternative text as caption."""
    return IMAGE.sub(r"<figure>\1<figcaption>\2</figcaption></figure>", html)


def readme() -> str:
    """The README with links as the site's home has them."""
    return (PROJECT / "README.md").read_text().replace("](docs/", "](")


def command_line() -> str:
    """The help of every command in Markdown."""
    command: Any = typer.main.get_command(build_app())
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="normstudy").partition("\n")[2]
