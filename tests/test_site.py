"""Every link of a page leads into the repository; the site has a page for each experiment and asks no other host."""

import re
from pathlib import Path

import pytest
from helpers.project import PROJECT
from markdown_it import MarkdownIt
from mkdocs.commands import build
from mkdocs.config import load_config

from normstudy.experiment import all_experiments

DOCS = PROJECT / "docs"
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/LOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
PARSER = MarkdownIt("commonmark").enable("table")
FOREIGN = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*"""
    r"""|url\(["']?(?:https?:)?//[^)]*|@import\s[^;]*//[^;]*"""
)


def files_linked(page: Path) -> list[str]:
    """What links and images of a page point to, without other hosts and anchors (mkdocs checks anchors)."""
    tokens = [part for token in PARSER.parse(page.read_text()) for part in (token, *(token.children or ()))]
    named = [str(target) for token in tokens for name, target in token.attrs.items() if name in ("href", "src")]
    return [
        target.partition("#")[0] for target in named if "://" not in target and not target.startswith(("#", "mailto:"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_into_the_repository(page: Path) -> None:
    assert [
        target for target in files_linked(page) if not (page.parent / target).resolve().is_relative_to(PROJECT)
    ] == []
    assert [target for target in files_linked(page) if not (page.parent / target).exists()] == []


def test_site_has_a_page_for_each_experiment_and_asks_no_other_host(tmp_path: Path) -> None:
    build.build(load_config(str(PROJECT / "mkdocs.yml"), site_dir=str(tmp_path)))
    home = (tmp_path / "index.html").read_text()
    reported = [one for one in all_experiments(PROJECT / "experiments") if (PROJECT / "results" / one.name).exists()]
    assert reported
    for experiment in reported:
        assert (tmp_path / "experiments" / experiment.name / "index.html").is_file()
        assert f'href="experiments/{experiment.name}/index.html"' in home
    files = [file for file in tmp_path.rglob("*") if file.suffix in (".html", ".css")]
    assert [(file.name, found) for file in files for found in FOREIGN.findall(file.read_text())] == []
