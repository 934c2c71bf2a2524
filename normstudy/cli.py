"""The command line: parses, calls, exits. Options come from `TrainConfig`; heavy imports stay inside the commands."""

import inspect
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from normstudy.errors import ConfigError, NormstudyError, ReportError, Unfinished, one_line
from normstudy.options import field_options, with_options

MAIN = "main"
EXPERIMENT = Annotated[str, typer.Argument(help="name of a built-in experiment (`normstudy experiments`), or a path")]
SEEDS = Annotated[int, typer.Option(min=0, help="only the first N seeds of each variant, lowest first; 0: all")]
OFFLINE = Annotated[bool, typer.Option("--offline", help="log to this machine only; `sync` sends it later")]
FORCE = Annotated[bool, typer.Option("--force", help="train again what has finished, as a new run")]


def train_command(force: FORCE = False, offline: OFFLINE = False, **values: str) -> None:
    """Train one variant, as one MLflow run. A finished run is left alone; an unfinished one is resumed.

    Writes metrics, figures and the model to the store that MLFLOW_TRACKING_URI names, else to mlflow.db and mlruns in
    the current folder; until they are there, to .normstudy beside a local store, else to the user's state folder
    (NORMSTUDY_STATE names another).
    """
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.config import TrainConfig
    from normstudy.experiment import in_words

    config = TrainConfig.of(**values)
    begin(f"train: {in_words([config])}")

    from normstudy.launch.study import single

    single(config, force=force, offline=offline, stop_signal=stop_signal)


def study_command(
    experiment: EXPERIMENT = MAIN,
    workers: Annotated[
        int, typer.Option(min=0, help="parallel processes; 0: one per GPU, or by the number of cores")
    ] = 0,
    stack: Annotated[
        int, typer.Option(min=0, help="seeds of a variant to train together; 0: all on a GPU, otherwise 1")
    ] = 0,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="processes of this machine, or tasks of a Ray cluster")
    ] = "local",
    address: Annotated[str, typer.Option(help="the Ray cluster's, as ray.init takes it")] = "",
    seeds: SEEDS = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the trials and their state, train nothing")] = False,
    force: FORCE = False,
    offline: OFFLINE = False,
    **overrides: str,
) -> None:
    """Train all unfinished trials of an experiment in parallel, under one parent run.

    The settings of a trial, given as options, hold for every trial. Writes what `train` writes, to the same places.
    """
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.experiment import in_words, load_experiment

    loaded = load_experiment(experiment, overrides, seeds=seeds)
    if address and executor != "ray":
        raise ConfigError(f"address={address}: only with --executor ray")
    if workers and executor != "local":
        raise ConfigError(f"workers={workers}: a Ray cluster runs as many as it has CPUs; only with --executor local")
    begin(f"study {loaded.name}: {in_words(loaded.configs)}")
    if executor == "local" and not dry_run:
        from normstudy.launch.local import preload

        preload()  # before the imports below, which take as long

    from normstudy.launch import study

    if dry_run:
        for name, state, what in study.dry_run(loaded, offline=offline):
            print(one_line(f"{name:24s} {state:18s} {what}", None))
        return
    cluster = None
    if executor == "ray":
        from normstudy.launch.ray import RayExecutor

        cluster = RayExecutor(address)
    options: dict[str, Any] = {"workers": workers, "stack": stack, "force": force, "offline": offline}
    study.study(loaded, executor=cluster, stop_signal=stop_signal, **options)


def measure_command(experiment: EXPERIMENT) -> None:
    """Evaluate the trained networks of an experiment as its MEASURES specify, and log the tables to their runs."""
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.experiment import load_experiment

    loaded = load_experiment(experiment, {})
    begin(f"measure {loaded.name}: {', '.join(loaded.measures) or 'nothing'}")

    from normstudy.launch.measure import measure

    print(f"{measure(loaded, stop_signal)} tables added")


def experiments_command(
    folder: Annotated[Path | None, typer.Argument(help="where the files are; ours, if none is named")] = None,
    names: Annotated[bool, typer.Option("--names", help="print the names alone")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="print the commands that train and measure all")] = False,
) -> None:
    """List the experiments in their order: name and question. Writes nothing."""
    from normstudy.experiment import OURS, all_experiments

    for experiment in all_experiments(folder or OURS):
        for line in experiment.commands if commands else [experiment.name]:
            print(line if names or commands else f"{line:16s} {experiment.parts['Question']}")


def sync_command() -> None:
    """Send pending records of this machine to the tracking server, and delete each record once it has arrived."""
    begin("sync: what waits on this machine")
    from normstudy.launch.maintenance import sync

    sent, problems = sync()
    print(f"{sent} {'run is' if sent == 1 else 'runs are'} on the server with all that was here")
    if problems:
        raise NormstudyError(f"{problems} records were not sent")


def reap_command() -> None:
    """End the runs on the tracking server whose process is gone; writes their status, and why."""
    begin("reap: runs without a process")
    from normstudy.launch.maintenance import reap

    ended, problems = reap()
    print("\n".join(ended) or "no run without its process")
    if problems:
        raise NormstudyError(f"{problems} runs could not be ended")


def report_command(
    experiment: EXPERIMENT = MAIN,
    parent: Annotated[str, typer.Option(help="run id of one study; else the newest run of each variant")] = "",
    exported: Annotated[
        Path | None, typer.Option("--from", help="an export, instead of the tracking server: all its experiments")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for figures, tables and page")] = Path("report"),
    readme: Annotated[bool, typer.Option("--readme", help="replace the marked block in README.md")] = False,
    export: Annotated[Path | None, typer.Option(help="folder that keeps the tables, below the study's name")] = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="also export runs made with uncommitted changes")
    ] = False,
    seeds: SEEDS = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="name every missing or unfinished trial")] = False,
) -> None:
    """Build every figure and table from the tracking server alone, or from an export of it.

    Writes figures, tables and the page to --out and, on request, to README.md and --export. Writes nothing to the
    server.
    """
    from normstudy.experiment import load_experiment

    if exported and (experiment != MAIN or parent or export or seeds):
        others = "--parent, --export, --seeds or an experiment's file"
        raise ConfigError(f"from={exported}: an export is reported as it is, without {others}")
    loaded = None if parent or exported else load_experiment(experiment, {}, seeds=seeds)
    begin(f"report: {exported or (f'run {parent}' if parent else experiment)}, into {out}/")

    from normstudy.report import report, report_from
    from normstudy.report.read import planned_in

    page = Path("README.md") if readme else None
    if exported:
        report_from(exported, out=out, readme=page)
    else:
        planned = loaded or planned_in(parent)
        try:
            report(planned, parent_id=parent or None, out=out, readme=page, export=export, allow_dirty=allow_dirty)
        except Unfinished as error:
            raise (ReportError("; ".join(error.each)) if verbose else error) from None
    print(f"report written to {one_line(str(out))}/")


def ui_command() -> None:
    """Start MLflow's UI on the store in use, and print the link to the charts of its runs; writes to none of them."""
    begin("ui: MLflow's, on the store in use")
    from normstudy.tracking.client import Server
    from normstudy.tracking.store import connect, experiment_name
    from normstudy.tracking.ui import ADDRESS, charts, link

    uri, experiment = connect(), Server().experiment(experiment_name())
    if uri.startswith(("http://", "https://")):  # a server that runs already
        print(f"compare the runs: {link(experiment)}")
        return
    print(f"compare the runs: {ADDRESS}/{charts(experiment)}", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri])


def begin(what: str) -> None:
    """The first line of a command, before imports that take seconds; MLflow's fails for a user without a home."""
    try:
        Path.home()
    except RuntimeError:
        raise ConfigError(f"HOME is not set, and user {os.getuid()} has no home folder; expected HOME=FOLDER") from None
    print(f"normstudy {one_line(what, None)}", file=sys.stderr, flush=True)


def show_version(asked: bool) -> bool:
    """Print it and exit, if it was asked for."""
    if asked:
        print(f"normstudy {version('normstudy')}")
        raise typer.Exit
    return asked


def options_of_all(
    show: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """What a normalisation layer changes in a small CNN, as tracked MLflow runs."""


def compare_command(
    experiment: Annotated[list[str] | None, typer.Argument(help="names or ids of any MLflow experiments")] = None,
    group_by: Annotated[str, typer.Option(help="params, tags or metrics that define a group, by commas")] = "",
    pair_by: Annotated[
        str, typer.Option(help="param that pairs the runs of two groups, such as a seed; none: unpaired")
    ] = "",
    metric: Annotated[str, typer.Option(help="the metric to compare")] = "",
    at: Annotated[str, typer.Option(help="last, a step, or best:METRIC, the step at which that one is best")] = "last",
    filter_string: Annotated[str, typer.Option("--filter", help="as MLflow's search takes it")] = "",
    lower_is_better: Annotated[bool | None, typer.Option(help="default: by the name of the metric")] = None,
    margin: Annotated[float, typer.Option(min=0, help="difference below which two groups are equivalent")] = 0.0,
    baseline: Annotated[str, typer.Option(help="compare each group with this one; else all pairs")] = "",
    exported: Annotated[Path | None, typer.Option("--from", help="an export's folder, such as results/main")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for tables (CSV), Markdown and figures (PNG, SVG)")] = None,
    log: Annotated[bool, typer.Option("--log", help="keep the comparison as a run of the experiment")] = False,
    form: Annotated[Literal["text", "markdown", "json"], typer.Option("--format", help="what to print")] = "text",
    plan: Annotated[
        bool, typer.Option("--plan", help="print only how many seeds are needed to detect a difference of --margin")
    ] = False,
) -> None:
    """Compare groups of runs of any MLflow experiment over seeds: means, differences, and a verdict on each pair.

    Options that you omit are chosen from the runs, and the full equivalent command is printed.
    """
    from normstudy.comparison.command import run
    from normstudy.comparison.selection import Choice

    choice = Choice(
        group_by=tuple(name.strip() for name in group_by.split(",") if name.strip()),
        pair_by=pair_by,
        metric=metric,
        at=at,
        higher_is_better=None if lower_is_better is None else not lower_is_better,
        margin=margin,
        baseline=baseline,
    )
    options: dict[str, Any] = {"filter_string": filter_string, "export": exported, "out": out, "log": log}
    print(run(experiment or [], choice, form=form, plan=plan, **options), end="")


def build_app(*, config_options: bool = True) -> typer.Typer:
    """The commands; `train` and `study` with an option for each field of `TrainConfig`, unless not asked for."""
    app = typer.Typer(
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            # `mlflow run -P batch_size=32` of a parameter that MLproject doesn't declare arrives as `--batch_size 32`
            "token_normalize_func": lambda token: token.replace("_", "-"),
        },
    )
    app.callback()(options_of_all)
    commands: dict[str, Callable[..., None]] = {
        "train": with_options(train_command, field_options(optional=False) if config_options else []),
        "study": with_options(study_command, field_options(optional=True) if config_options else []),
        "measure": measure_command,
        "report": report_command,
        "compare": compare_command,
        "experiments": experiments_command,
        "ui": ui_command,
        "sync": sync_command,
        "reap": reap_command,
    }
    for name, command in commands.items():
        paragraphs = (inspect.getdoc(command) or "").split("\n\n")
        app.command(name, help="\n\n".join(" ".join(text.split()) for text in paragraphs))(command)
    return app
