"""Loads an experiment file: a Python file whose docstring states the question, and whose `trials()` lists configs."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError


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

    Raises `ConfigError` when there is no such file, when it isn't an experiment, or for a bad override.
    """
    if not path.is_file():
        others = ", ".join(str(file) for file in sorted(path.parent.glob("*.py"))) or "(none there)"
        raise ConfigError(f"experiment={path}: no such file; choose from {others}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"experiment={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "trials"):
        raise ConfigError(f"experiment={path}: has no function trials() that lists its configurations")
    configs = tuple(TrainConfig.of(**{**config.model_dump(), **overrides}) for config in module.trials())
    chosen = sorted({config.seed for config in configs})[: seeds or None]
    return Experiment(
        name=path.stem,
        question=(module.__doc__ or "").strip(),
        configs=tuple(config for config in configs if config.seed in chosen),
        may_diverge=getattr(module, "MAY_DIVERGE", False),
        measures=tuple(getattr(module, "MEASURES", ())),
    )
