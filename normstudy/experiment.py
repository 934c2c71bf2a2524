"""Loads an experiment file: a Python file that says all of an experiment, whose `trials()` lists its configurations."""

import inspect
import os
import re
import reprlib
import runpy
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Strict, ValidationError
from pydantic.dataclasses import dataclass

from normstudy.config import TITLES, TrainConfig, in_one_line
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
    "mnist_c",
    "calibration",
    "overfitting",
    "temperature",
    "ghost",
]
STRICT = ConfigDict(strict=True, extra="forbid")
PACKAGE = Path(__file__).parent
# in a wheel they are part of the package; in the repository they stand beside it
OURS = next(filter(Path.is_dir, [PACKAGE / "experiments"]), PACKAGE.parent / "experiments")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What names of an experiment file in capitals say of its page, such as `TITLE`."""

    title: str = ""  # short, for navigation
    number: int = 1_000  # place in the order of experiments; those without one come last
    report: Kind = "errors"  # how it is reported
    targets: dict[Literal["every", "best", "first"], float] = field(default_factory=dict)  # set beforehand: accuracies
    # pairs of groups that the file calls confirmatory, adjusted together; other margins of equivalence set beforehand
    confirmatory: Annotated[tuple[tuple[str, str], ...], Strict(False)] = ()
    margins: Annotated[tuple[float, ...], Strict(False)] = ()


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
    command_of_part: str = ""  # what trains just these configurations, where they are not all of the file as it is
    may_diverge: bool = False  # a loss that is not finite is a result, not a failure of the study
    # what `normstudy measure` adds to its runs
    measures: Annotated[
        tuple[Literal["weights", "statistics", "shift", "mnist_c", "calibration", "training", "crossfit"], ...],
        Strict(False),
    ] = ()

    @property
    def parts(self) -> dict[str, str]:
        """The docstring taken apart: `Question`, its first line, then what stands behind `Prediction:` and so on.

        Where only a part of it is meant, or some of its settings are overridden, what it says of method and size is not
        true; then what its configurations say stands there instead.
        """
        first, _, rest = self.question.partition("\n")
        found = re.findall(r"^([A-Z][\w-]+): (.*?)(?=^[A-Z][\w-]+: |\Z)", rest, re.MULTILINE | re.DOTALL)
        parts = {"Question": first, **{name: " ".join(text.split()) for name, text in found}}
        if self.command_of_part:
            kept = {name: text for name, text in parts.items() if name in ("Question", "Prediction")}
            return {**kept, "What ran": in_words(self.configs), "Command": self.command_of_part}
        return parts

    @property
    def command(self) -> str:
        """What to run, as the docstring has it; empty where it names nothing."""
        return self.parts.get("Command", "")

    @property
    def commands(self) -> list[str]:
        """The same, one by one, without what sets the environment before them."""
        return [text[max(0, text.find("python -m")) :] for text in self.command.split(", then ") if text]

    @property
    def description(self) -> str:
        """What a run says of the study, in Markdown: the question, what ran, and the command that repeats it."""
        parts = {**self.parts, "What ran": in_words(self.configs)}
        parts.pop("Outcome", "")  # of earlier runs
        question, command = parts.pop("Question"), parts.pop("Command", "").replace(", then ", "\n")
        repeat = f"To repeat it:\n\n```\n{command}\n```" if command else ""
        said = [f"**{name}.** {text}" for name, text in parts.items()]
        return "\n\n".join(filter(None, [question, *said, repeat]))

    @property
    def settings(self) -> dict[str, Any]:
        """What goes with a study, so that it is reported without the file."""
        return {each.name: getattr(self, each.name) for each in fields(Settings)}

    @property
    def about(self) -> About:
        """What goes with the tables."""
        return About(**self.settings, parts=self.parts)


def all_experiments(folder: Path = OURS) -> list[Experiment]:
    """The experiments of a folder in the order of their numbers. Raises `ConfigError` for a file that is none."""
    found = [load_experiment(path, {}) for path in sorted(folder.glob("*.py"))]
    return sorted(found, key=lambda experiment: experiment.number)


def located(named: str) -> Path:
    """The file of an experiment: of one of ours by its name, such as `main`, of any other by its path."""
    ours = OURS / f"{named}.py"
    is_path = named.endswith(".py") or os.sep in named or (Path(named).exists() and not ours.is_file())
    return Path(named) if is_path or not named else ours


def load_experiment(named: str | Path, overrides: dict[str, Any], *, seeds: int = 0) -> Experiment:
    """Run the file and apply `overrides` to each of its configurations; of these those with the `seeds` lowest seeds.

    A trial that is listed several times is one trial.

    Raises `ConfigError`, in one line, when there is no such file, when it isn't an experiment, or for an override that
    is bad, or of a setting in which the trials differ.
    """
    path = located(str(named))
    defined = _names(path)
    listed = _trials(defined, path)
    _require_same(path.stem, listed, overrides)
    trials: dict[str, TrainConfig] = {}
    for config in [TrainConfig.of(**{**vars(config), **overrides}) for config in listed]:
        trials.setdefault(config.trial_key, config)
    chosen = set(sorted({config.seed for config in trials.values()})[: seeds or None])
    names = {each.name for each in fields(Experiment)} - {"name", "question", "configs", "command_of_part"}
    said = {name: defined[name.upper()] for name in names if name.upper() in defined}
    configs = tuple(config for config in trials.values() if config.seed in chosen)
    all_of_it = {config.trial_key for config in listed} == {config.trial_key for config in configs}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in overrides.items()]
    options += [f"--seeds {seeds}"] if seeds else []
    with _blamed(path):
        return Experiment(
            name=path.stem,
            question=inspect.cleandoc(defined["__doc__"] or ""),
            configs=configs,
            command_of_part="" if all_of_it else " ".join(["normstudy study", shlex.quote(str(named)), *options]),
            **{"title": path.stem, **said},
        )


def _names(path: Path) -> dict[str, Any]:
    """What the file defines, after it has run."""
    _require_file(path)
    with _blamed(path):
        return runpy.run_path(str(path))


def _require_file(path: Path) -> None:
    """Raises `ConfigError` unless a Python file can be read there."""
    try:
        if not path.is_file():
            files = sorted(path.parent.glob("*.py"))
            others = ", ".join(one_line(file.stem if path.parent == OURS else str(file)) for file in files)
            what = "a folder" if path.is_dir() else "no such experiment" if path.parent == OURS else "no such file"
            raise _refused(path, f"{what}; choose from {others or '(none there)'}")
        if path.suffix != ".py" or not path.stem.isprintable():
            raise _refused(path, "not a Python file; expected a name of printable characters that ends in .py")
        with path.open("rb"):
            pass
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from None


def _require_same(name: str, listed: Sequence[TrainConfig], overrides: dict[str, Any]) -> None:
    """Raises `ConfigError` for an override of what the trials differ in: each would be trained as often as it is
    listed, under the name of another."""
    for setting, value in overrides.items():
        values = list(dict.fromkeys(str(getattr(config, setting, value)) for config in listed))
        if len(values) > 1:
            some = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            hint = "--seeds N takes the N lowest" if setting == "seed" else "`normstudy train` trains one configuration"
            raise ConfigError(f"{setting}={one_line(str(value))}: the trials of {name} differ in it ({some}); {hint}")


def in_words(configs: Sequence[TrainConfig]) -> str:
    """What these configurations train: how many, which seeds, on how much, for how long."""

    def every(name: str) -> str:
        values = sorted({getattr(config, name) for config in configs})
        return " to ".join(f"{value:,}" for value in dict.fromkeys([values[0], values[-1]]))

    variants = ", ".join(dict.fromkeys(config.variant for config in configs))
    seeds = sorted({config.seed for config in configs})
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"
    data = " and ".join(sorted({TITLES[config.dataset] for config in configs}))
    trials = f"{len(configs)} trial{'s' if len(configs) > 1 else ''}"
    epochs = f"{every('epochs')} epoch{'' if every('epochs') == '1' else 's'}"
    return f"{trials} ({variants}), {which}; {every('training_images')} training images of {data}, {epochs}."


def _trials(defined: dict[str, Any], path: Path) -> list[TrainConfig]:
    """What `trials()` lists, each configuration checked: `model_copy` checks nothing."""
    if not callable(defined.get("trials")):
        raise _refused(path, "has no function trials() that lists its configurations")
    with _blamed(path):
        returned = defined["trials"]()
        listed = list(returned) if isinstance(returned, Sequence | Iterator) else []
        if not listed or not all(isinstance(config, TrainConfig) for config in listed):
            raise ConfigError(f"trials() returned {_brief(returned)}; expected a list of TrainConfig, at least one")
        return [TrainConfig.of(**vars(config)) for config in listed]


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
    return ConfigError(f"experiment={one_line(path.stem if path.parent == OURS else str(path))}: {why}")


def _brief(value: Any) -> str:
    """A value of the file in a few words."""
    return one_line(reprlib.repr(value))
