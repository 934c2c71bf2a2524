"""Loads an experiment file: a Python file that says all of an experiment, whose `trials()` lists its configurations."""

import importlib.util
import inspect
import re
import reprlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Strict, ValidationError
from pydantic.dataclasses import dataclass

from normstudy.config import TrainConfig, in_one_line
from normstudy.errors import ConfigError, one_line

Kind = Literal[  # a row of `KINDS` in report/pages.py
    "errors",
    "groups",
    "baseline",
    "factorial",
    "held_out",
    "sweep",
    "penalty",
    "collapse",
    "batch_size",
    "learning_rate",
    "shift",
    "calibration",
]
STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What names of an experiment file in capitals say of its page, such as `TITLE`."""

    title: str = ""  # short, for navigation
    number: int = 1_000  # place in the order of experiments; those without one come last
    report: Kind = "errors"  # how it is reported
    targets: dict[Literal["every", "best", "first"], float] = field(default_factory=dict)  # set beforehand: accuracies


@dataclass(frozen=True, kw_only=True, config=STRICT)
class About(Settings):
    """All that a page says of an experiment beside its runs; an export holds it as `experiment.json`."""

    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment(Settings):
    """What an experiment file says: its name (the file's), its docstring, its configurations, its settings."""

    name: str
    question: str
    configs: tuple[TrainConfig, ...]
    may_diverge: bool = False  # a loss that is not finite is a result, not a failure of the study
    # what `normstudy measure` adds to its runs
    measures: Annotated[tuple[Literal["weights", "statistics", "shift", "calibration"], ...], Strict(False)] = ()

    @property
    def parts(self) -> dict[str, str]:
        """The docstring taken apart: `Question`, its first line, then what stands behind `Prediction:` and so on."""
        first, _, rest = self.question.partition("\n")
        found = re.findall(r"^([A-Z][\w-]+): (.*?)(?=^[A-Z][\w-]+: |\Z)", rest, re.MULTILINE | re.DOTALL)
        return {"Question": first, **{name: " ".join(text.split()) for name, text in found}}

    @property
    def command(self) -> str:
        """What to run, as the docstring has it; empty where it names nothing."""
        return self.parts.get("Command", "")

    @property
    def commands(self) -> list[str]:
        """The same, one by one, without what sets the environment before them."""
        return [text[max(0, text.find("python -m")) :] for text in self.command.split(", then ") if text]

    @property
    def settings(self) -> dict[str, Any]:
        """What goes with a study, so that it is reported without the file."""
        return {each.name: getattr(self, each.name) for each in fields(Settings)}

    @property
    def about(self) -> About:
        """What goes with the tables."""
        return About(**self.settings, parts=self.parts)


def all_experiments(folder: Path) -> list[Experiment]:
    """The experiments of a folder in the order of their numbers. Raises `ConfigError` for a file that is none."""
    found = [load_experiment(path, {}) for path in sorted(folder.glob("*.py"))]
    return sorted(found, key=lambda experiment: experiment.number)


def load_experiment(path: Path, overrides: dict[str, Any], *, seeds: int = 0) -> Experiment:
    """Run the file and apply `overrides` to each of its configurations; of these those with the `seeds` lowest seeds.

    A trial that is listed several times, or becomes the same as another by an override, is one trial.

    Raises `ConfigError`, in one line, when there is no such file, when it isn't an experiment, or for a bad override.
    """
    module = _module(path)
    trials: dict[str, TrainConfig] = {}
    for config in _trials(module, path, overrides):
        trials.setdefault(config.trial_key, config)
    chosen = set(sorted({config.seed for config in trials.values()})[: seeds or None])
    names = {each.name for each in fields(Experiment)} - {"name", "question", "configs"}
    said = {name: getattr(module, name.upper()) for name in names if hasattr(module, name.upper())}
    with _blamed(path):
        return Experiment(
            name=path.stem,
            question=inspect.getdoc(module) or "",
            configs=tuple(config for config in trials.values() if config.seed in chosen),
            **{"title": path.stem, **said},
        )


def _module(path: Path) -> ModuleType:
    """The file, after it has run."""
    _require_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader  # of a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    with _blamed(path):
        spec.loader.exec_module(module)
    return module


def _require_file(path: Path) -> None:
    """Raises `ConfigError` unless a Python file can be read there."""
    try:
        if not path.is_file():
            others = ", ".join(one_line(str(file)) for file in sorted(path.parent.glob("*.py"))) or "(none there)"
            raise _refused(path, f"{'a folder' if path.is_dir() else 'no such file'}; choose from {others}")
        if path.suffix != ".py" or not path.stem.isprintable():
            raise _refused(path, "not a Python file; expected a name of printable characters that ends in .py")
        with path.open("rb"):
            pass
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from None


def _trials(module: ModuleType, path: Path, overrides: dict[str, Any]) -> list[TrainConfig]:
    """What `trials()` lists, each configuration checked, and with the overrides."""
    if not callable(getattr(module, "trials", None)):
        raise _refused(path, "has no function trials() that lists its configurations")
    with _blamed(path):
        returned = module.trials()
        listed = list(returned) if isinstance(returned, Sequence | Iterator) else []
        if not listed or not all(isinstance(config, TrainConfig) for config in listed):
            raise ConfigError(f"trials() returned {_brief(returned)}; expected a list of TrainConfig, at least one")
        if not overrides:  # `model_copy` checks nothing
            return [TrainConfig.of(**vars(config)) for config in listed]
    return [TrainConfig.of(**{**vars(config), **overrides}) for config in listed]


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Turns whatever the file's own code raises into a `ConfigError` that names its line, the exception and why."""
    source = str(path)
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [
            number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == source
        ]
        place, line = source, lines[-1] if lines else None
        if isinstance(error, SyntaxError):  # of this file, or of one that it imports
            place, line = (place if error.filename in (source, None) else str(error.filename)), error.lineno
        where = f"{one_line(place)}:{line}" if line else one_line(place)
        raise ConfigError(f"experiment={where}: {_in_words(error)}") from None


def _in_words(error: BaseException) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ValidationError) and error.title in (TrainConfig.__name__, Experiment.__name__):
        return in_one_line(error)
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({_brief(error.code)}); expected a file that only lists configurations"
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {one_line(said)}".removesuffix(": ")


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"experiment={one_line(str(path))}: {why}")


def _brief(value: Any) -> str:
    """A value of the file in a few words."""
    return one_line(reprlib.repr(value))
