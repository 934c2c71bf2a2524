"""The settings of a trial as options of the command line, in panels: they come from `TrainConfig`."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

PANELS = {  # in which the help shows the settings of a trial
    "Identity": ("norm", "l1", "l1_on", "l1_method", "seed"),
    "Data": ("dataset", "train_size", "val_size", "held_out_by"),
    "Model": ("network", "groups", "ghost_batch_size", "init"),
    "Optimiser": ("epochs", "batch_size", "lr", "momentum", "weight_decay", "warmup", "ema_decay"),
    "Augmentation": ("rotation", "translation", "scale"),
    "Machine": ("device", "threads", "kernels"),
}
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


def field_options(*, optional: bool) -> list[inspect.Parameter]:
    """An option for each field of `TrainConfig`; with `optional` its default is None.

    Values stay text: `TrainConfig` alone parses and checks them, here, under `mlflow run` and in the notebook.
    """
    from normstudy.config import TrainConfig

    options = []
    for name, field in TrainConfig.model_fields.items():
        choices = getattr(field.annotation, "__args__", ())  # of a `Literal`
        metavar = "|".join(choices) or getattr(field.annotation, "__name__", "").upper()
        panel = PANEL_OF[name]
        option = typer.Option(metavar=metavar, help=field.description, rich_help_panel=panel)
        annotation = Annotated[str | None, option]
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
