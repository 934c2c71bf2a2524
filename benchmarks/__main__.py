"""`python -m benchmarks`: run every stage, keep the raw results, write tables and figures from them."""

import dataclasses
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Annotated, Any

import typer

from benchmarks.machine import machine, versions
from benchmarks.processes import create_tables
from benchmarks.suite import Settings, Suite
from normstudy.provenance import git_state

DOCUMENTS = Path("docs/benchmarks")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="measurements of each contender, in turn")] = 3,
    norm: Annotated[list[str] | None, typer.Option(help="normalisation; repeatable")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="CPU threads; repeatable")] = None,
    only: Annotated[list[str] | None, typer.Option(help="run only this stage; repeatable")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="tiny, to see that it works; figures mean nothing")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="keep the stages that are done")] = False,
    out: Annotated[Path | None, typer.Option(help=f"folder for results; default {DOCUMENTS}")] = None,
) -> None:
    """Compare an epoch, a run, a study and a report with the bare limit, the usual loop and PyTorch Lightning."""
    out = out or (Path(mkdtemp(prefix="quick_benchmark_")) if quick else DOCUMENTS)
    chosen: dict[str, Any] = {"norms": tuple(norm or ()), "threads": tuple(threads or ())}
    chosen = {name: values for name, values in chosen.items() if values}
    settings = Settings.quick(**chosen) if quick else Settings(rounds=rounds, **chosen)
    code = git_state()  # before the results that are written below change the tree
    raw = begin(out / "raw.json", settings, quick=quick, resume=resume)
    with TemporaryDirectory(prefix="benchmark_tables_") as folder:
        tables, raw["create_tables_seconds"] = create_tables(Path(folder))
        suite = Suite(settings=settings, tables=tables, done=raw["stages"])
        for name, stage in suite.stages().items():
            if name in raw["stages"] or (only and name.split()[0] not in only):
                continue
            begun = time.perf_counter()
            raw["stages"][name] = stage()
            raw["stage_seconds"][name], raw["code"][name] = time.perf_counter() - begun, code
            save(raw, out / "raw.json")
            print(f"{name}: {raw['stage_seconds'][name]:.0f} s", flush=True)
    save(raw, out / "raw.json")
    from benchmarks.document import write_documents  # pandas and matplotlib: the processes measured start from this one

    write_documents(raw, out)
    print(f"results written to {out}/")


def begin(path: Path, settings: Settings, *, quick: bool, resume: bool) -> dict[str, Any]:
    """Raw results without stages, or those of the file, to be completed.

    Raises `typer.BadParameter` when the file to complete was measured with other settings.
    """
    plan = json.loads(json.dumps(dataclasses.asdict(settings)))
    if resume and path.exists():
        raw: dict[str, Any] = json.loads(path.read_text())
        if any(plan[name] != value for name, value in raw["settings"].items()):
            raise typer.BadParameter(f"--resume: {path} was measured with other settings: {raw['settings']}")
        raw["settings"] = plan  # with the settings of stages that are newer than the file
        return raw
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "quick": quick,
        "settings": plan,
        "machine": machine(),
        "versions": versions(),
        "code": {},
        "stages": {},
        "stage_seconds": {},
    }


def save(raw: dict[str, Any], path: Path) -> None:
    """Write the raw results whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(raw, indent=1) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
