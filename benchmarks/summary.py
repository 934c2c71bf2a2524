"""Raw results to medians, spreads, ratios and verdicts. Pure functions; no figure is made up for one not measured."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Spread:
    """Median of some measurements, with their smallest and largest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Raises `ValueError` without any measurement."""
        values = [float(value) for value in values]
        if not values:
            raise ValueError("no measurement to summarise")
        return cls(median(values), min(values), max(values), len(values))

    def text(self, unit: str = "", digits: int = 2) -> str:
        """`1.20 s (1.10 to 1.30)`; without a range where there is a single measurement."""
        figure = f"{self.median:,.{digits}f}{unit}"
        return figure if self.count == 1 else f"{figure} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def ratio(numerator: pd.Series, denominator: pd.Series) -> Spread:
    """Spread of the ratios round by round: what disturbed a whole round cancels out.

    Both are indexed by round. Raises `ValueError` when they share no round.
    """
    return Spread.of((numerator / denominator).dropna())


def growth_exponent(small: float, small_seconds: float, large: float, large_seconds: float) -> float:
    """The p of seconds = constant * size ** p through two points: 1 is linear growth.

    Raises `ValueError` for sizes that don't grow.
    """
    if not 0 < small < large:
        raise ValueError(f"sizes {small} and {large} don't grow")
    return math.log(large_seconds / small_seconds) / math.log(large / small)


def exponents(table: pd.DataFrame) -> list[tuple[int, int, float]]:
    """Growth of the median seconds between neighbouring sizes: smaller, larger, exponent.

    `table` has the columns size and seconds.
    """
    medians = table.groupby("size")["seconds"].median()
    steps = zip(medians.items(), list(medians.items())[1:], strict=False)
    return [(a, b, growth_exponent(a, seconds_a, b, seconds_b)) for (a, seconds_a), (b, seconds_b) in steps]


@dataclass(frozen=True)
class Limit:
    """What a figure must reach: at most, or at least, a number."""

    kind: str
    number: float
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("at most", "at least", "under"):
            raise ValueError(f"unknown kind {self.kind!r}; choose from at most, at least, under")

    def __str__(self) -> str:
        return f"{self.kind} {self.number:g}{self.unit}"

    def verdict(self, figure: float) -> str:
        """`met` or `not met`."""
        met = {"at most": figure <= self.number, "at least": figure >= self.number, "under": figure < self.number}
        return "met" if met[self.kind] else "not met"


@dataclass(frozen=True)
class Results:
    """The records of all stages, as tables."""

    raw: dict[str, Any]

    def table(self, stage: str) -> pd.DataFrame:
        """All records of a stage, those of its rounds together; empty where it was not measured."""
        stages: dict[str, list[dict[str, Any]]] = self.raw["stages"]
        return pd.DataFrame([record for name, found in stages.items() if name.split()[0] == stage for record in found])

    def cases(self) -> list[tuple[str, int]]:
        """Norm and threads of every case whose epochs were measured."""
        table = self.table("epochs")
        return (
            [] if table.empty else list(table[["norm", "threads"]].drop_duplicates().itertuples(index=False, name=None))
        )

    def epochs(self, contender: str, norm: str, threads: int, column: str = "epoch_seconds") -> pd.Series:
        """A measurement by round; empty where it was not measured."""
        table = self.table("epochs")
        own = table[(table.contender == contender) & (table.norm == norm) & (table.threads == threads)]
        return own.set_index("round")[column]

    def fastest(self, contenders: Iterable[str], norm: str, threads: int) -> str:
        """The contender with the smallest median epoch. Raises `ValueError` when none was measured."""
        medians = {name: self.epochs(name, norm, threads).median() for name in contenders}
        medians = {name: seconds for name, seconds in medians.items() if not math.isnan(seconds)}
        return min(medians, key=lambda name: medians[name])
