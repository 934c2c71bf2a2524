"""mkdocs hook: the pages of the experiments, in the navigation and in the table of the home page, from their files."""

from pathlib import Path
from typing import Any

from normstudy.experiment import all_experiments

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = [  # one that is planned, or still trains, has no page yet
    one
    for one in all_experiments(PROJECT / "experiments")
    if (PROJECT / "docs/experiments" / one.name / "index.md").exists()
]


def on_config(config: Any) -> None:
    """Fill the navigation's entry `Experiments`."""
    pages = [{experiment.title: f"experiments/{experiment.name}/index.md"} for experiment in EXPERIMENTS]
    next(entry for entry in config["nav"] if "Experiments" in entry)["Experiments"] = pages


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table in the place of its mark."""
    rows = [f"| [{one.title}](experiments/{one.name}/index.md) | {one.parts['Question']} |" for one in EXPERIMENTS]
    return markdown.replace("{{ experiments }}", "\n".join(["| experiment | question |", "|---|---|", *rows]))
