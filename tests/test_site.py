"""Every link of every page leads somewhere; the site holds all pages, and asks no other host for anything."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers.project import PROJECT
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mkdocs.commands import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

DOCS = PROJECT / "docs"
MAKEFILE = (PROJECT / "Makefile").read_text()
EXPERIMENTS = sorted((PROJECT / "experiments").glob("*.py"))
# `make report` makes these: a checkout of a study that hasn't run is without them, and only then
GENERATED = {DOCS / "experiments" / file.stem / "index.md" for file in EXPERIMENTS}
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/LOG.md")] + sorted(DOCS.rglob("*.md"))
PARSER = MarkdownIt("commonmark").enable("table")
FOREIGN = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*"""
    r"""|url\(["']?(?:https?:)?//[^)]*|@import\s[^;]*//[^;]*"""
)


def tokens(text: str) -> Iterator[Token]:
    for token in PARSER.parse(text):
        yield token
        yield from token.children or ()


def targets(page: Path) -> list[str]:
    """What the page's links and images point to."""
    named = ((token.attrs.get("href"), token.attrs.get("src")) for token in tokens(page.read_text()))
    return [str(target) for pair in named for target in pair if target is not None]


def anchors(page: Path) -> set[str]:
    """The page's headings, as GitHub and mkdocs make anchors of them."""
    parsed = list(tokens(page.read_text()))
    titles = (
        "".join(part.content for part in after.children or ())
        for token, after in pairwise(parsed)
        if token.type == "heading_open"
    )
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.strip().lower())) for title in titles}


def broken(page: Path, root: Path = PROJECT) -> list[str]:
    """The page's links to what is not in the repository."""
    found = []
    for target in targets(page):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if path in GENERATED:
            continue
        missing = not path.is_relative_to(root) or not path.exists()
        if missing or (parts.fragment and path.suffix == ".md" and parts.fragment not in anchors(path)):
            found.append(target)
    return found


def variable(name: str) -> str:
    found = re.search(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)
    assert found, name
    return found[1]


def nav_pages(entry: object) -> Iterator[str]:
    """The files that an entry of the nav names."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
            yield from nav_pages(inner)


@pytest.fixture
def nav() -> list[str]:
    return list(nav_pages(load_config(str(PROJECT / "mkdocs.yml"))["nav"]))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of docs/, in which stand-ins take the place of experiments' pages that are not made yet."""
    copy = tmp_path / "docs"
    shutil.copytree(DOCS, copy)
    for page in GENERATED:
        stand_in = copy / page.relative_to(DOCS)
        if not stand_in.exists():
            stand_in.parent.mkdir(parents=True)
            stand_in.write_text("# A question\n")
    return copy


def build_site(docs: Path) -> Path:
    site = docs.parent / "site"
    build.build(load_config(str(PROJECT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(site)))
    return site


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_into_the_repository(page: Path) -> None:
    assert broken(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("## A `code` heading\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here, and there\n\n[a](#here-and-there) [b](other.md#a-code-heading) [c](https://example.org/no) "
        "[d](mailto:a@example.org) `[e](no.md)`\n\n| [f](gone.md) |\n|---|\n| ![g](gone.png) |\n\n"
        "[h](#nowhere) [i](other.md#nowhere) [j][k] [l](../outside.md)\n\n[k]: gone/\n"
    )
    assert broken(page, tmp_path) == [
        "gone.md",
        "gone.png",
        "#nowhere",
        "other.md#nowhere",
        "gone/",
        "../outside.md",
    ]


def test_every_page_of_the_nav_is_there_or_made_by_a_report(nav: list[str]) -> None:
    assert [page for page in nav if not (DOCS / page).is_file() and DOCS / page not in GENERATED] == []


def test_every_experiment_has_its_page_in_the_nav(nav: list[str]) -> None:
    assert {page for page in nav if page.startswith("experiments/")} == {
        page.relative_to(DOCS).as_posix() for page in GENERATED
    }


def test_make_runs_and_measures_every_experiment() -> None:
    assert sorted(variable("EXPERIMENTS").split()) == [file.stem for file in EXPERIMENTS]
    measured = [file.stem for file in EXPERIMENTS if "\nMEASURES = " in file.read_text()]
    assert sorted(variable("MEASURED").split()) == measured


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_make_finds_an_experiments_command_in_its_file(file: Path) -> None:
    program = variable("COMMAND").replace("$$", "$")
    found = subprocess.run(["sed", "-n", program, file], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"python -m normstudy study experiments/{file.stem}\.py( --stack \d+)?\n", found)


def test_site_is_built_and_asks_no_other_host(docs: Path) -> None:
    site = build_site(docs)
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css")]
    assert site / "experiments/assignment/index.html" in files
    assert "Newest first" in (site / "log.html").read_text()
    assert [(file.name, found) for file in files for found in FOREIGN.findall(file.read_text())] == []


def test_site_is_not_built_with_bad_links_or_without_a_page(docs: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = ["cluster.md#nowhere", "#nowhere", "experiments/", "/cluster.md"]
    with (docs / "index.md").open("a") as page:
        page.writelines(f"\n[a]({target})\n" for target in bad)
    (docs / "team-server.md").rename(docs / "server.md")
    with pytest.raises(Abort, match=f"{len(bad) + 2} warnings in strict mode"):
        build_site(docs)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for named in (*(f"link '{target}'" for target in bad), "'team-server.md'", "- server.md"):
        assert any(named in warning for warning in warnings), (named, warnings)
