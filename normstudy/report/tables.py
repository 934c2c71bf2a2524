"""The exported tables: all that figures and pages are made of, and the only thing that is kept of the runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normstudy.config import TrainConfig
from normstudy.errors import ReportError, one_line
from normstudy.files import write_atomically
from normstudy.report.table_checks import TEST_IMAGES as TEST_IMAGES
from normstudy.report.table_checks import read_parts, read_table, require_whole

PARTS = "experiment.json"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One experiment. A row a run; a run and epoch; a run and misclassified image; and what `normstudy measure` added.

    A group is the runs that are the same but for the seed; the column `group` has its label, and with the seed it names
    the run. A run that diverged has the step in `diverged_at` and no numbers. `images` has the pixels of the pictures
    that are shown, 28 x 28 of two hexadecimal digits. `parts` is what the experiment's file says of it.
    """

    results: pd.DataFrame
    epochs: pd.DataFrame
    misclassified: pd.DataFrame
    images: pd.DataFrame | None = None
    weights: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    shift: pd.DataFrame | None = None
    calibration: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None
    parts: Mapping[str, str] | None = None

    def present(self) -> dict[str, pd.DataFrame]:
        """Each table that there is, by its name."""
        return {name: table for name, table in vars(self).items() if isinstance(table, pd.DataFrame)}

    def save(self, folder: Path) -> None:
        """As CSV files, floats in full; text that a spreadsheet would run as a formula gets a ' before it."""
        for name, table in self.present().items():
            texts = table.select_dtypes(exclude=["number", "bool"])
            table = table.assign(**{column: texts[column].map(no_formula) for column in texts})
            write_atomically(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
        if self.parts is not None:
            text = json.dumps(self.parts, indent=1, ensure_ascii=False) + "\n"
            write_atomically(folder / PARTS, text.encode())

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """What `save` wrote, to the digit.

        Raises `ReportError` where a table that every experiment has is missing, and for a file that `save` didn't
        write, or not as it is now: cut off, without a column, with a row that is no run's.
        """
        for name in ("results", "epochs", "misclassified"):
            if not (folder / f"{name}.csv").is_file():
                where = one_line(str(folder))
                raise ReportError(f"{where}: holds no export of an experiment: {name}.csv is missing")
        names = [field.name for field in fields(cls) if field.name != "parts"]
        paths = {name: path for name in names if (path := folder / f"{name}.csv").is_file()}
        parts = folder / PARTS
        tables = cls(
            **{name: read_table(path) for name, path in paths.items()},
            parts=read_parts(parts) if parts.is_file() else None,
        )
        require_whole(tables.present(), folder)
        return tables

    def configs(self) -> list[TrainConfig]:
        """The configuration of each run."""
        names = [name for name in TrainConfig.model_fields if name in self.results]
        return [TrainConfig.of(**row) for row in self.results[names].to_dict(orient="records")]


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


def pixels(images: pd.DataFrame, indices: Sequence[int]) -> list[np.ndarray]:
    """The pictures of these test images, 28 x 28 grey values each, from the table of images."""
    texts = images.set_index("index")["pixels"]
    if missing := [index for index in indices if index not in texts.index]:
        raise ReportError(f"images.csv has no image {missing[0]}, which is to be shown")
    return [np.frombuffer(bytes.fromhex(texts[index]), np.uint8).reshape(28, 28) for index in indices]


def image_table(pictures: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """The table that `pixels` reads."""
    rows = [{"index": index, "pixels": picture.tobytes().hex()} for index, picture in sorted(pictures.items())]
    return pd.DataFrame(rows, columns=["index", "pixels"])
