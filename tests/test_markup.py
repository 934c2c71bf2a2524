"""Whatever text a study or an export has, the page and the README's block show it, and no markup begins in it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.tables import made
from markdown_it import MarkdownIt
from markdown_it.token import Token

from normstudy import report
from normstudy.config import TrainConfig
from normstudy.errors import ReportError, one_line
from normstudy.experiment import About, Experiment, Kind
from normstudy.figures import Picture
from normstudy.report import pages
from normstudy.report.tables import Tables
from normstudy.report.text import plain

PARTS = ("Question", "Prediction", "Method", "Scale-down", "Command")
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
SCRIPT = "<script>alert(1)</script>"
NASTY = [
    f"\n```\n\n{SCRIPT}\n",
    f"``` {SCRIPT} ```",
    f"`````, then ```, then {SCRIPT}, then ~~~",
    f"a\r\n\r\n# {SCRIPT}",
    f"x\u2028\x85\x0b{SCRIPT} -->",
    f"{report.END}\n{report.START}",
    "](javascript:alert(1)) ![x](http://evil/x.png) [x]: http://evil",
    "<http://evil> www.evil.example mailto:a@evil &lt;b&gt; \\<b> <b\n>",
    "| a | b |\n|---|---|\n| **c** | `d` |",
    "\x1b[2J\u202e\u2066.",
]
TOGETHER = ["".join(NASTY), "".join(reversed(NASTY))]


def parsed(text: str) -> list[Token]:
    return [token for block in PARSER.parse(text) for token in (block, *(block.children or ()))]


def markup(text: str) -> list[Any]:
    """What a browser does more than show text: HTML, links and images, and the blocks of the page."""
    kept = ("html_inline", "html_block", "link_open", "image", "heading_open", "fence", "th_open", "td_open", "hr")
    return [
        (token.type, token.tag, {name: value for name, value in token.attrs.items() if name in ("href", "src")})
        for token in parsed(text)
        if token.type in kept
    ]


def tables_of(kind: Kind, text: str) -> Tables:
    """Of an experiment whose every text is this one; its groups are still told apart."""
    variants = [TrainConfig(norm=norm, val_size=500, lr=lr) for norm in ("gn", "ln", "bn") for lr in (0.01, 0.03)]
    configs = [config.model_copy(update={"seed": seed}) for config in variants for seed in (0, 1)]
    tables = made(configs, lambda config: 0.98 + config.seed / 1_000, wrong=lambda config: [7, 8 + config.seed])
    named = {
        key: table.assign(group=table["group"] + text, variant=text) if "group" in table else table
        for key, table in tables.frames().items()
    }
    named["results"] = named["results"].assign(network=text, dataset=text, study=text, l1_on=text)
    targets = {"every": 0.98, "first": 0.98}
    about = About(report=kind, title=text, targets=targets, parts=dict.fromkeys([*PARTS, text], text))  # type: ignore[arg-type]
    return replace(tables, **named, about=about)


@pytest.mark.parametrize("text", TOGETHER, ids=["forward", "backward"])
@pytest.mark.parametrize("kind", ["errors", "groups", "baseline", "held_out", "learning_rate"])
def test_no_text_of_an_experiment_is_markup_in_its_page(kind: Kind, text: str) -> None:
    page = pages.page(text, tables_of(kind, text), {"means": Picture(text, text)})
    assert markup(page) == markup(pages.page("mine", tables_of(kind, "harmless"), {"means": Picture("a", "b")}))
    assert all(line.isprintable() for line in page.split("\n"))
    [code] = [token.content for token in parsed(page) if token.type == "fence"]
    assert code.split("\n")[:-1] == " ".join(one_line(text, None).split()).split(", then ")


def test_no_text_of_an_export_is_markup_in_the_readme(tmp_path: Path) -> None:
    def block(text: str) -> str:
        exported = {"main": tables_of("errors", text), "fashion": tables_of("groups", text)}
        mine = {f"mine{text}".replace("/", "?"): tables_of("errors", text)}
        return pages.readme_block({**exported, **mine}, figures_at=at)

    at, readme, text = Path("docs"), tmp_path / "README.md", TOGETHER[0]
    found, harmless = markup(block(text)), markup(block("harmless"))
    assert [(kind, tag) for kind, tag, _ in found] == [(kind, tag) for kind, tag, _ in harmless]
    targets = [target for _, _, target in found if target]
    assert all(re.fullmatch(r"docs/[\w%.*+/~-]+\.(png|md)", path) for target in targets for path in target.values())
    readme.write_text(f"{report.START}\n{report.END}\nafter\n")
    filled = report.fill(readme, block(text))
    assert filled.count(report.END) == filled.count(report.START) == 1


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_a_text_is_one_paragraph_that_shows_it(text: str) -> None:
    assert markup(plain(text)) == []
    [paragraph] = [token for token in PARSER.parse(f"It says {plain(text)}") if token.type == "inline"]
    assert "".join(child.content for child in paragraph.children or ()) == f"It says {' '.join(one_line(text).split())}"


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "a/b", ""])
def test_a_study_chooses_no_folder_for_its_export(name: str, tmp_path: Path) -> None:
    experiment = Experiment(name=name, question="?", configs=(TrainConfig(),))
    with pytest.raises(ReportError, match="is no name of a folder"):
        report.report(experiment, parent_id=None, out=tmp_path / "report", export=tmp_path / "kept")
    assert not (tmp_path / "report").exists()
