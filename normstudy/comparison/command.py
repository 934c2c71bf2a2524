"""What `normstudy compare` does, but for parsing."""

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from normstudy.comparison import Choice, Compared, compared
from normstudy.comparison.output import Format, rendered, save
from normstudy.comparison.runs import COMPARISON, from_export, from_server
from normstudy.errors import ConfigError, one_line
from normstudy.files import require_folder
from normstudy.report.text import decimals, fixed


def run(
    names: Sequence[str],
    choice: Choice,
    *,
    filter_string: str = "",
    export: Path | None = None,
    out: Path | None = None,
    log: bool = False,
    form: Format = "text",
    plan: bool = False,
) -> str:
    """Compare, write the files to `out`, keep them as a run of the experiment, and return what is to be printed.

    Raises `ConfigError` and `TrackingError` in one line before anything is written.
    """
    if export is None and not names:
        raise ConfigError("experiment=: expected the name or id of an experiment, or --from with an export's folder")
    if export is not None and (names or filter_string or log):
        raise ConfigError(f"from={one_line(str(export))}: an export has no experiment, --filter or --log")
    if out is not None:
        require_folder("out", out)
    logged, experiments = (from_export(export), []) if export else from_server(names, filter_string)
    found = compared(logged, choice)
    source = ["--from", str(export)] if export is not None else list(names)
    words = ["normstudy", "compare", *source, *(["--filter", filter_string] if filter_string else [])]
    command = f"{shlex.join(words)} {found.choice.options()}"
    said = planned(found) if plan else rendered(found, form, command=command)
    if out is not None:
        save(found, out, command=command)
    if log:
        kept = keep(found, experiments[0].experiment_id, command=command)
        if form == "text":
            said += f"\nKept as run {kept.info.run_name} ({kept.info.run_id}).\n"
    return said


def planned(found: Compared) -> str:
    """For each pair of a pilot, how many seeds show a difference of the margin. Raises `ConfigError` without one."""
    rows = found.power()
    digits = decimals(rows["sd_of_difference"])
    lines = []
    for row in rows.itertuples():
        n, deviation = fixed(row.n_for_margin, ".0f"), fixed(row.sd_of_difference, f".{digits}f") or "unknown"
        said = f"{row.a} minus {row.b}: SD of the difference {deviation}, {f'n = {n}' if n else 'n unknown'}"
        lines.append(one_line(said, None))
    head = f"Seeds that show a difference of {found.choice.margin:g} in 80 % of studies (t-test at 0.05"
    several = f", Bonferroni for {len(rows)} pairs" if len(rows) > 1 else ""
    return "\n".join([f"{head}{several}):", *lines]) + "\n"


def keep(found: Compared, experiment_id: str, *, command: str) -> Run:
    """The comparison as a run of its own: means and differences as metrics, files as artifacts."""
    client = mlflow.MlflowClient()
    tags: dict[str, Any] = {
        COMPARISON: command[:5000],
        "mlflow.note.content": rendered(found, "markdown", command=command)[:8000],
    }
    run = client.create_run(experiment_id, run_name=f"comparison of {found.choice.metric}"[:200], tags=tags)
    try:
        for number, row in enumerate(found.groups.itertuples(), start=1):
            client.log_metric(run.info.run_id, f"group {number}/mean", row.mean)
            client.log_param(run.info.run_id, f"group {number}", row.group[:500])
        for number, pair in enumerate(found.comparisons, start=1):
            client.log_param(run.info.run_id, f"pair {number}", f"{pair.a} minus {pair.b}"[:500])
            client.set_tag(run.info.run_id, f"verdict {number}", f"{pair.winner or ''} {pair.verdict}".strip()[:500])
            client.set_tag(run.info.run_id, f"p {number}", f"{pair.deciding_p:.6g}")
            if pair.difference == pair.difference:
                client.log_metric(run.info.run_id, f"pair {number}/difference", pair.difference)
        with tempfile.TemporaryDirectory() as folder:
            save(found, Path(folder), command=command)
            client.log_artifacts(run.info.run_id, folder)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)
    return run
