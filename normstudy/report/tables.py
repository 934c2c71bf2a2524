"""The exported tables: all that figures and pages are made of, and the only thing that is kept of the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from normstudy.config import TrainConfig, in_one_line
from normstudy.errors import ConfigError, ReportError, one_line
from normstudy.experiment import About
from normstudy.files import write_atomically
from normstudy.report.validation import read_table, require_same_runs
from normstudy.tracking import Measure

ABOUT = "experiment.json"
TEST_IMAGES = 10_000
T = TypeVar("T", bound="Tables")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One experiment. A row a run; a run and epoch; a run and misclassified image. A kind of experiment that has more
    tables is a type of its own.

    A group is the runs that are the same but for the seed; the column `group` has its label, and with the seed it names
    the run. A run that diverged has the step in `diverged_at` and no numbers. `about` is what the experiment's file
    says of it. `misclassified` is empty but in `ErrorTables`, and where every run is of full size. `provenance` has the
    code, data and machine of each run, "unknown" where the run doesn't say.
    """

    results: pd.DataFrame
    epochs: pd.DataFrame
    misclassified: pd.DataFrame
    provenance: pd.DataFrame
    about: About = field(default_factory=About)

    @classmethod
    def names(cls) -> list[str]:
        """The names of its tables, which are those of their files."""
        return [field.name for field in fields(cls) if field.name != "about"]

    @classmethod
    def measures(cls) -> list[Measure]:
        """Those of its tables that `normstudy measure` adds to the runs."""
        return [Measure(name) for name in cls.names() if name in {*Measure}]

    def frames(self) -> dict[str, pd.DataFrame]:
        """Each table by its name."""
        return {name: getattr(self, name) for name in self.names()}

    def save(self, folder: Path) -> None:
        """As CSV files, floats in full; text that a spreadsheet would run as a formula gets a ' before it."""
        for name, table in self.frames().items():
            write_atomically(folder / f"{name}.csv", as_csv(table))
        write_atomically(folder / ABOUT, TypeAdapter(About).dump_json(self.about, indent=1) + b"\n")

    @classmethod
    def load(cls: type[T], folder: Path) -> T:
        """What `save` wrote, to the digit.

        Raises `ReportError` where one of its tables is missing, and for a file that `save` didn't write: without a
        column, with a row that is no run's.
        """
        paths = {name: folder / f"{name}.csv" for name in cls.names()}
        if missing := [path.name for path in paths.values() if not path.is_file()]:
            raise ReportError(
                f"{one_line(str(folder))}: holds no whole export of an experiment: {missing[0]} is missing"
            )
        frames = {name: read_table(path) for name, path in paths.items()}
        require_same_runs(frames, folder)
        tables = cls(**frames, about=read_about(folder / ABOUT))
        try:
            tables.configs()
        except ConfigError as error:
            raise ReportError(f"{one_line(str(paths['results']))}: {error}") from None
        return tables

    def configs(self) -> list[TrainConfig]:
        """The configuration of each run."""
        names = [name for name in TrainConfig.model_fields if name in self.results]
        return [TrainConfig.of(**row) for row in self.results[names].to_dict(orient="records")]


@dataclass(frozen=True, kw_only=True)
class ErrorTables(Tables):
    """Of an experiment that asks which images are misclassified; `images` has the pixels of those that are shown,
    28 x 28 of two hexadecimal digits."""

    images: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class CollapseTables(Tables):
    """With a row a run and kind of BatchNorm's statistics: accuracy on the test images."""

    statistics: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class PenaltyTables(CollapseTables):
    """With a row a run: the share of its weights at zero."""

    weights: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class ShiftTables(Tables):
    """With a row a run, corruption and severity."""

    shift: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class MnistCTables(Tables):
    """With a row a run and corruption of MNIST-C."""

    mnist_c: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class CalibrationTables(Tables):
    """With a row a run, its temperature; and a row a run and bin of confidence, before and after scaling by it."""

    calibration: pd.DataFrame
    reliability: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class OverfittingTables(Tables):
    """With a row a run: accuracy and loss on the training images as they are, without augmentation."""

    training: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class TemperatureTables(Tables):
    """With a row a run and fold of the test images; the columns are those of `robustness.cross_fitted`."""

    crossfit: pd.DataFrame


def read_about(path: Path) -> About:
    """What the experiment's file says of it; what says nothing where there is no such file. Raises `ReportError` for
    one that `Tables.save` didn't write.
    """
    if not path.is_file():
        return About()
    try:
        return TypeAdapter(About).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReportError(f"{one_line(str(path))}: {in_one_line(error)}") from None
    except OSError as error:
        raise ReportError(f"{one_line(str(path))}: can't be read: {one_line(str(error))}") from None


def as_csv(table: pd.DataFrame) -> bytes:
    """A table's file; text that a spreadsheet would run as a formula gets a ' before it."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    safe = table.assign(**{column: texts[column].astype(object).map(no_formula) for column in texts})
    return safe.to_csv(index=False, lineterminator="\n").encode()


def no_formula(text: Any) -> Any:
    """A cell of a CSV that spreadsheets show and don't compute."""
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def errors_by(tables: Tables, column: str) -> dict[str, set[int]]:
    """Indices of the misclassified test images by `group` or `run_id`, in the order of the results."""
    found = dict(tuple(tables.misclassified.groupby(column)["index"]))
    return {name: set(found.get(name, ())) for name in tables.results[column]}


def by_seed(results: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame | None:
    """A value, a row a seed and a column a group; None unless every group has it for every seed."""
    table = results.pivot(index="seed", columns="group", values=value)[list(results["group"].unique())]
    return None if table.isna().to_numpy().any() else table


def whole_mean(values: pd.Series) -> float:
    """Missing where any value is: a mean of the seeds that happened not to diverge would flatter a norm."""
    return float(values.mean(skipna=False))


def pixels(images: pd.DataFrame, indices: Sequence[int]) -> list[np.ndarray]:
    """The pictures of these test images, 28 x 28 grey values each, from the table of images."""
    texts = images.set_index("index")["pixels"]
    if missing := [index for index in indices if index not in texts.index]:
        raise ReportError(f"images.csv has no image {missing[0]}, which is to be shown")
    try:
        return [np.frombuffer(bytes.fromhex(texts[index]), np.uint8).reshape(28, 28) for index in indices]
    except ValueError:
        raise ReportError("images.csv: pixels are not 28 x 28 of two hexadecimal digits") from None


def image_table(pictures: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """The table that `pixels` reads."""
    rows = [{"index": index, "pixels": picture.tobytes().hex()} for index, picture in sorted(pictures.items())]
    return pd.DataFrame(rows, columns=["index", "pixels"])
