"""The command line: parses, calls, exits. Options come from `TrainConfig`; heavy imports stay inside the commands."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from normstudy.errors import ConfigError, NormstudyError, one_line

MAIN = Path("experiments/main.py")

OFFLINE = Annotated[bool, typer.Option("--offline", help="log to this machine only; `sync` sends it later")]
FORCE = Annotated[bool, typer.Option("--force", help="train again what has finished, as a new run")]


def train_command(force: FORCE = False, offline: OFFLINE = False, **values: str) -> None:
    """Train one variant, as one MLflow run. One that has finished is left alone, an unfinished one goes on."""
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.config import TrainConfig

    config = TrainConfig.of(**values)

    from normstudy.launch.study import single

    single(config, force=force, offline=offline, stop_signal=stop_signal)


def study_command(
    experiment: Annotated[Path, typer.Argument(help="the file that lists the configurations")] = MAIN,
    workers: Annotated[int, typer.Option(min=0, help="processes at once; 0: by the number of cores")] = 0,
    stack: Annotated[int, typer.Option(min=0, help="seeds of a variant trained together; 0: all on a GPU, else 1")] = 0,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="processes of this machine, or tasks of a Ray cluster")
    ] = "local",
    address: Annotated[str, typer.Option(help="the Ray cluster's, as ray.init takes it")] = "",
    seeds: Annotated[int, typer.Option(min=0, help="only the trials with this many lowest seeds; 0: all")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the trials and their state, train nothing")] = False,
    force: FORCE = False,
    offline: OFFLINE = False,
    **overrides: str,
) -> None:
    """Train every variant of an experiment that has not finished, side by side, under one parent run.

    Options override its configs.
    """
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.experiment import load_experiment

    loaded = load_experiment(experiment, overrides, seeds=seeds)
    if address and executor != "ray":
        raise ConfigError(f"address={address}: only with --executor ray")
    if workers and executor != "local":
        raise ConfigError(f"workers={workers}: a Ray cluster runs as many as it has CPUs; only with --executor local")
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


def measure_command(
    experiment: Annotated[Path, typer.Argument(help="the file whose MEASURES say what for")],
) -> None:
    """Measure the trained networks of an experiment, and add the tables to their runs."""
    from normstudy.launch import StopSignal

    stop_signal = StopSignal()
    from normstudy.experiment import load_experiment

    loaded = load_experiment(experiment, {})

    from normstudy.launch.measure import measure

    print(f"{measure(loaded, stop_signal)} tables added")


def experiments_command(
    folder: Annotated[Path, typer.Argument(help="where the files are")] = Path("experiments"),
    names: Annotated[bool, typer.Option("--names", help="print the names alone")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="print the commands that train and measure all")] = False,
) -> None:
    """List the experiments in their order: name and question."""
    from normstudy.experiment import all_experiments

    for experiment in all_experiments(folder):
        for line in experiment.commands if commands else [experiment.name]:
            print(line if names or commands else f"{line:16s} {experiment.parts['Question']}")


def sync_command() -> None:
    """Send what waits on this machine to the tracking server."""
    from normstudy.launch.maintenance import sync

    sent, problems = sync()
    print(f"{sent} {'run is' if sent == 1 else 'runs are'} on the server with all that was here")
    if problems:
        fail(f"{problems} records were not sent", 1)


def reap_command() -> None:
    """End the runs on the tracking server whose process is gone."""
    from normstudy.launch.maintenance import reap

    ended, problems = reap()
    print("\n".join(ended) or "no run without its process")
    if problems:
        fail(f"{problems} runs could not be ended", 1)


def report_command(
    experiment: Annotated[Path, typer.Argument(help="the study to report")] = MAIN,
    parent: Annotated[str, typer.Option(help="run id of one study; else the newest run of each variant")] = "",
    exported: Annotated[
        Path | None, typer.Option("--from", help="an export, instead of the tracking server: all its experiments")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for figures, tables and page")] = Path("report"),
    readme: Annotated[bool, typer.Option("--readme", help="replace the marked block in README.md")] = False,
    export: Annotated[Path | None, typer.Option(help="folder that keeps the tables, below the study's name")] = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="export runs whose code had changes that no commit has, too")
    ] = False,
    seeds: Annotated[int, typer.Option(min=0, help="only the trials with this many lowest seeds; 0: all")] = 0,
) -> None:
    """Build every figure and table from the tracking server alone, or from an export of it."""
    from normstudy.experiment import load_experiment

    if exported and (experiment != MAIN or parent or export or seeds):
        others = "--parent, --export, --seeds or an experiment's file"
        raise ConfigError(f"from={exported}: an export is reported as it is, without {others}")
    loaded = None if parent or exported else load_experiment(experiment, {}, seeds=seeds)

    from normstudy.report import report, report_from
    from normstudy.report.read import planned_in

    page = Path("README.md") if readme else None
    if exported:
        report_from(exported, out=out, readme=page)
    else:
        planned = loaded or planned_in(parent)
        report(planned, parent_id=parent or None, out=out, readme=page, export=export, allow_dirty=allow_dirty)
    print(f"report written to {one_line(str(out))}/")


def build_app(*, config_options: bool = True) -> typer.Typer:
    """The commands; `train` and `study` with an option for each field of `TrainConfig`, unless not asked for."""
    app = typer.Typer(
        help="What a normalisation layer changes in a small CNN, as tracked MLflow runs.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        # `mlflow run -P batch_size=32` of a parameter that MLproject doesn't declare arrives as `--batch_size 32`
        context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
    )
    app.command("train")(with_options(train_command, field_options(optional=False) if config_options else []))
    app.command("study")(with_options(study_command, field_options(optional=True) if config_options else []))
    app.command("measure")(measure_command)
    app.command("report")(report_command)
    app.command("experiments")(experiments_command)
    app.command("sync")(sync_command)
    app.command("reap")(reap_command)
    return app


def field_options(*, optional: bool) -> list[inspect.Parameter]:
    """An option for each field of `TrainConfig`; with `optional` its default is None.

    Values stay text: `TrainConfig` alone parses and checks them, here, under `mlflow run` and in the notebook.
    """
    from normstudy.config import TrainConfig

    options = []
    for name, field in TrainConfig.model_fields.items():
        choices = getattr(field.annotation, "__args__", ())  # of a `Literal`
        metavar = "|".join(choices) or getattr(field.annotation, "__name__", "").upper()
        annotation = Annotated[str | None, typer.Option(metavar=metavar, help=field.description)]
        default = None if optional else str(field.default)
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return options


def with_options(command: Callable[..., None], options: list[inspect.Parameter]) -> Callable[..., None]:
    """The command with these options in place of its `**keywords`, which receive those that are not None."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]

    def call(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if value is not None})

    call.__doc__ = command.__doc__
    call.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return call


def main() -> None:
    """Run a command; every expected failure is one line on standard error and an exit status."""
    # the list of commands needs no options, and without them no pydantic: 0.25 s less
    app = build_app(config_options=sys.argv[1:] not in ([], ["--help"]))
    try:
        app(standalone_mode=False)
        sys.stdout.flush()
    except NormstudyError as error:
        fail(str(error), error.exit_status)
    except TyperException as error:
        fail(explain(error), 2)
    except KeyboardInterrupt:
        fail("stopped by signal 2", 130)
    except BrokenPipeError:  # `| head` has read enough: quiet, as Typer is where the pipe breaks in a command
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more as it ends
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests")):
            from normstudy.tracking.store import first_line, where

            fail(f"tracking server {where()}: {first_line(error)}", 1)
        raise


def explain(error: TyperException) -> str:
    """The parser's message, with the choices where an option or command is unknown."""
    message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if context is None:
        return message
    if message.startswith("No such option"):
        choices = [option for parameter in context.command.params for option in parameter.opts if option[:2] == "--"]
        return f"{message}; choose from {', '.join(choices)}"
    if commands := getattr(context.command, "commands", None):
        return f"{message}; choose from {', '.join(commands)}"
    return message


def fail(message: str, status: int) -> None:
    """One line on standard error, whatever the message quotes, then exit."""
    print(f"normstudy: error: {one_line(message, None)}", file=sys.stderr)
    sys.exit(status)
