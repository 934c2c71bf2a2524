"""`python -m benchmarks`: measure, keep the raw results, and write the page and its figure from them."""

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from benchmarks.page import write_page
from benchmarks.suite import QUICK, Settings, Suite
from normstudy.provenance import PROJECT, git_state, library_versions, processor, usable_cores

DOCS = PROJECT / "docs"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny, to see that it works; figures mean nothing")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="write to docs/ from a changed tree")] = False,
    out: Annotated[Path, typer.Option(help="folder for the page, its figure and the raw results")] = DOCS
    / "benchmarks",
) -> None:
    """Compare an epoch with the bare limit, the usual loop and PyTorch Lightning, and measure what tracking costs."""
    provenance, out = provenance_of(), out.resolve()  # before the results change the tree
    require_fit(out, provenance, quick=quick, allow_dirty=allow_dirty)
    settings = QUICK if quick else Settings()
    begin = time.perf_counter()
    with TemporaryDirectory(prefix="benchmark_") as folder:
        use_store(Path(folder))
        suite = Suite(settings, Path(folder))
        measured = suite.run()
    raw: dict[str, Any] = {**provenance, "quick": quick, "settings": asdict(settings), **measured}
    raw |= {"batch_size": suite.configs[0].batch_size, "seconds_in_all": time.perf_counter() - begin}
    out.mkdir(parents=True, exist_ok=True)
    (out / "raw.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    write_page(raw, out)
    print(f"{raw['seconds_in_all']:.0f} s in all; results written to {out}/")


def provenance_of() -> dict[str, Any]:
    """When, from which code and where something is measured."""
    commit, dirty = git_state()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "git_commit": commit,
        "git_dirty": dirty,
        "processor": processor(),
        "cores": usable_cores(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {**library_versions(), "lightning": version("lightning") if find_spec("lightning") else None},
    }


def require_fit(out: Path, provenance: dict[str, Any], *, quick: bool, allow_dirty: bool) -> None:
    """End in one line where the page in docs/ would be of a changed tree, or of a quick run."""
    if out.is_relative_to(DOCS) and provenance["git_dirty"] != "false" and not allow_dirty:
        refuse(f"out={out.relative_to(PROJECT)}: the tree differs from its commit; commit first, or --allow-dirty")
    if quick and out.is_relative_to(DOCS):
        refuse(f"out={out.relative_to(PROJECT)}: the figures of --quick mean nothing; choose a folder outside docs/")


def refuse(message: str) -> None:
    """One line on standard error, exit status 2."""
    print(f"benchmarks: error: {message}", file=sys.stderr)
    sys.exit(2)


def use_store(folder: Path) -> None:
    """Runs of this process and of those that it starts stay in `folder`."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["NORMSTUDY_STATE"] = str(folder / "state")
    os.chdir(folder)  # artifacts of an sqlite store land in the current folder


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
