"""Loads an experiment file: a Python file whose docstring states the question, and whose `trials()` lists configs."""

import importlib.util
import re
import reprlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from normstudy.config import TrainConfig, in_one_line
from normstudy.errors import ConfigError, one_line

MEASURES = ("weights", "statistics", "shift", "calibration")  # what an experiment's `MEASURES` may name


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What an experiment file says: its name (the file's), its docstring, its configurations."""

    name: str
    question: str
    configs: tuple[TrainConfig, ...]
    may_diverge: bool = False  # `MAY_DIVERGE`: a loss that is not finite is a result, not a failure of the study
    measures: tuple[str, ...] = ()  # `MEASURES`: what `normstudy measure` adds to its runs

    @property
    def parts(self) -> dict[str, str]:
        """The docstring taken apart: `Question`, its first line, then what stands behind `Bet:`, `Method:`, ..."""
        first, _, rest = self.question.partition("\n")
        found = re.findall(r"^([A-Z]\w+): (.*?)(?=^[A-Z]\w+: |\Z)", rest, re.MULTILINE | re.DOTALL)
        return {"Question": first, **{name: " ".join(text.split()) for name, text in found}}


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
    may_diverge = getattr(module, "MAY_DIVERGE", False)
    if not isinstance(may_diverge, bool):
        raise _refused(path, f"MAY_DIVERGE is {_shown(may_diverge)}; expected True or False")
    return Experiment(
        name=path.stem,
        question=_question(module, path),
        configs=tuple(config for config in trials.values() if config.seed in chosen),
        may_diverge=may_diverge,
        measures=_measures(module, path),
    )


def _module(path: Path) -> ModuleType:
    """The file, after it has run."""
    _require_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader  # of a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    with _blamed(path, str(spec.origin)):
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
    expected = "expected a list of TrainConfig, at least one"
    if not hasattr(module, "trials"):
        raise _refused(path, "has no function trials() that lists its configurations")
    if not callable(module.trials):
        raise _refused(
            path, f"trials is {_shown(module.trials)}; expected a function that returns a list of TrainConfig"
        )
    with _blamed(path, str(module.__file__)):
        listed = module.trials()
        if not isinstance(listed, Sequence | Iterator):
            raise ConfigError(f"trials() returned {_shown(listed)}; {expected}")
        listed = list(listed)
    if not listed:
        raise _refused(path, f"trials() returned no configuration; {expected}")
    for place, config in enumerate(listed):
        if not isinstance(config, TrainConfig):
            raise _refused(path, f"trials() returned {_shown(config)} at position {place}; {expected}")
    if overrides:
        return [TrainConfig.of(**{**vars(config), **overrides}) for config in listed]
    with _blamed(path, str(module.__file__)):  # `model_copy` checks nothing
        return [TrainConfig.of(**vars(config)) for config in listed]


def _question(module: ModuleType, path: Path) -> str:
    question = module.__doc__ or ""
    if not isinstance(question, str) or any("\ud800" <= sign <= "\udfff" for sign in question):
        raise _refused(path, f"its docstring is {_shown(question)}; expected text")
    return question.strip()


def _measures(module: ModuleType, path: Path) -> tuple[str, ...]:
    named = getattr(module, "MEASURES", ())
    if not isinstance(named, list | tuple) or not all(name in MEASURES for name in named):
        raise _refused(path, f"MEASURES is {_shown(named)}; expected a list of names from {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(named))


@contextmanager
def _blamed(path: Path, source: str) -> Iterator[None]:
    """Turns whatever the file's own code raises into a `ConfigError` that names its line, the exception and why."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [
            number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == source
        ]
        place, line = str(path), lines[-1] if lines else None
        if isinstance(error, SyntaxError):  # of this file, or of one that it imports
            place, line = (place if error.filename in (source, None) else str(error.filename)), error.lineno
        where = f"{one_line(place)}:{line}" if line else one_line(place)
        raise ConfigError(f"experiment={where}: {_in_words(error)}") from None


def _in_words(error: BaseException) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ValidationError) and error.title == TrainConfig.__name__:
        return in_one_line(error)
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({_shown(error.code)}); expected a file that only lists configurations"
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {one_line(said)}".removesuffix(": ")


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"experiment={one_line(str(path))}: {why}")


def _shown(value: Any) -> str:
    """A value of the file in a few words."""
    return one_line(reprlib.repr(value))
