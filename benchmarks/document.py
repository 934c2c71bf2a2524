"""The benchmark's page, its table of all records and its pictures, made from the raw results alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import figures, sections
from benchmarks.sections import markdown
from benchmarks.summary import Results
from benchmarks.targets import judge


def write_documents(raw: dict[str, Any], folder: Path) -> None:
    """Write README.md, results.csv and the pictures of what was measured into `folder`."""
    results = Results(raw)
    stages = dict.fromkeys(name.split()[0] for name in raw["stages"])
    records = [{"stage": stage, **record} for stage in stages for record in results.table(stage).to_dict("records")]
    pd.DataFrame(records).convert_dtypes().to_csv(folder / "results.csv", index=False, lineterminator="\n")
    if stages.keys() >= {"epochs"}:
        figures.epoch_bars(results).savefig(folder / "epoch.png", dpi=150)
    if stages.keys() >= {"run"}:
        figures.run_shares(results).savefig(folder / "shares.png", dpi=150)
    (folder / "README.md").write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    """The whole page, as Markdown; a part that was not measured is left out."""
    raw = results.raw
    parts_of_page: dict[str, tuple[str, Callable[[Results], str]]] = {
        "epochs": ("An epoch", sections.epochs_section),
        "anatomy": ("From the bare limit to our epoch", sections.anatomy_section),
        "profile": ("What bounds a step", sections.profile_section),
        "choices": ("Memory format and compiler", sections.choices_section),
        "run": ("A whole run", sections.run_section),
        "study": ("The study", sections.study_section),
        "report": ("The report", sections.report_section),
        "memory": ("Memory", sections.memory_section),
        "growth": ("More training images", sections.growth_section),
        "stack": ("Seeds in lock-step", sections.stack_section),
        "scaling": ("More workers", sections.scaling_section),
        "driver": ("A thousand trials", sections.driver_section),
    }
    warning = "\n**A quick run on few images, to see that the suite works: its figures mean nothing.**\n"
    parts = [
        f"# Benchmarks\n\nMade by `make bench` ({raw['date']}, {commits(raw)}, command `{raw['command']}`); every "
        f"figure comes out of [raw.json](raw.json), all records as a table are in [results.csv](results.csv).\n"
        f"{warning if raw['quick'] else ''}",
        f"## Targets\n\nFigures are medians{rounds_text(raw)}; a ratio is taken round by round.\n\n"
        + targets_table(results),
    ]
    for stage, (title, section) in parts_of_page.items():
        if not results.table(stage).empty:
            parts.append(f"## {title}\n\n{section(results)}")
    parts.append(f"## CUDA\n\n{sections.cuda_section(results)}")
    return "\n".join([*parts, f"## Machine\n\n{sections.machine_section(raw)}"])


def commits(raw: dict[str, Any]) -> str:
    """The code that was measured: more than one commit where a broken run was completed."""
    changes = {"true": " with changes"}
    states = [f"`{code['git_commit'][:12]}`{changes.get(code['git_dirty'], '')}" for code in raw["code"].values()]
    return f"commit {' and, from a later stage on, '.join(dict.fromkeys(states))}"


def rounds_text(raw: dict[str, Any]) -> str:
    """How many measurements a median is of."""
    rounds = raw["settings"]["rounds"]
    return f" of {rounds} rounds, in brackets smallest and largest" if rounds > 1 else " of a single measurement"


def targets_table(results: Results) -> str:
    """A row for each target and case."""
    rows = [(row.target, row.case, row.figure or "-", row.limit, row.verdict) for row in judge(results)]
    return markdown(("target", "case", "measured", "limit", "verdict"), rows)
