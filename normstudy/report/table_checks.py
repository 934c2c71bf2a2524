"""Reads the files of an export, and refuses what no report was made of: cut off, or changed by hand."""

import json
import re
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pandas as pd

from normstudy.config import ADDED, TrainConfig
from normstudy.errors import ConfigError, ReportError, one_line
from normstudy.report.validation import COLUMNS, COUNT, MEASURES, NATS, SHARE, Columns
from normstudy.tracking import Metric

TEST_IMAGES = 10_000
NUMBER, TEXT = ("if", 1e300), frozenset[str]()  # any text
IDENTITY: Columns = {"variant": TEXT, "group": TEXT, "run_id": TEXT, "seed": ("i", 2**31)}  # of a run
KINDS = {int: ("i", 1e9), float: NUMBER}
SETTINGS: Columns = {name: KINDS.get(field.annotation, TEXT) for name, field in TrainConfig.model_fields.items()}  # type: ignore[arg-type]
TABLES: Mapping[str, Columns] = {
    "results": {
        "study": TEXT,
        **IDENTITY,
        # the keys of runs are without the settings in ADDED at their defaults, and so may an old export be
        **{name: kind for name, kind in SETTINGS.items() if name not in ("device", *ADDED)},
        "parameters": COUNT,
        "test_accuracy": SHARE,
        "test_loss": NATS,
        "train_accuracy": SHARE,
        "val_accuracy": SHARE,
        "val_loss": NATS,
        "errors": ("i", TEST_IMAGES),
        "diverged_at": ("i", 1e12),
        "seconds_per_epoch": NUMBER,
        "side_by_side": COUNT,
        "stack": COUNT,
        "cores": COUNT,
    },
    "epochs": {
        "epoch": COUNT,
        Metric.TRAIN_LOSS: NATS,
        Metric.TRAIN_ACCURACY: SHARE,
        Metric.TRAIN_PENALTY: NUMBER,
        Metric.TEST_LOSS: NATS,
        Metric.TEST_ACCURACY: SHARE,
        Metric.LEARNING_RATE: NUMBER,
        Metric.EPOCH_SECONDS: NUMBER,
        **IDENTITY,
    },
    "misclassified": {**COLUMNS, **IDENTITY},
    "images": {"index": ("i", TEST_IMAGES - 1), "pixels": TEXT},
    **{str(measure): {**columns, **IDENTITY} for measure, columns in MEASURES.items()},
}
OF_FINISHED = ("test_accuracy", "test_loss", "train_accuracy", "errors")  # numbers that a run that diverged has not
HELD_OUT = ("val_accuracy", "val_loss")
POSITIVE = ("epoch", "parameters", "side_by_side", "stack", "cores")
TEXTS = {name for columns in TABLES.values() for name, rule in columns.items() if isinstance(rule, frozenset)}


def read_table(path: Path) -> pd.DataFrame:
    """A table as `Tables.save` wrote it. Raises `ReportError` for a file that is none, or is without a column."""
    try:
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            raise ValueError("its last line has no end" if content else "it is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row has more cells than the header
            table = pd.read_csv(
                BytesIO(content),
                keep_default_na=False,
                na_values=[""],
                dtype=dict.fromkeys(TEXTS, str),
                index_col=False,
                low_memory=False,
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' own errors are ValueErrors
        raise refused(path, f"no table of an export: {one_line(str(error))}") from None
    if missing := [name for name in TABLES[path.stem] if name not in table]:
        raise refused(path, f"no table of an export: it has no column {missing[0]}")
    return table


def read_parts(path: Path) -> dict[str, str]:
    """What the experiment's file says of it. Raises `ReportError` for a file that `Tables.save` didn't write."""
    try:
        parts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"no JSON: {one_line(str(error))}") from None
    if not isinstance(parts, dict) or not all(isinstance(text, str) for text in parts.values()):
        raise refused(path, "no JSON object whose values are text")
    return parts


def require_whole(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Raises `ReportError` unless these tables are whole, and all of the same runs."""
    paths, results = {name: folder / f"{name}.csv" for name in tables}, tables["results"]
    diverged, held_out = results["diverged_at"].notna(), results["val_size"] != 0
    may_lack = dict.fromkeys((*OF_FINISHED, "seconds_per_epoch"), diverged)
    may_lack |= dict.fromkeys(HELD_OUT, diverged | ~held_out) | {"diverged_at": ~diverged}
    _require_columns(results, "results", paths["results"], may_lack)
    if results.empty:
        raise refused(paths["results"], "it holds no run")
    _require_configs(results, paths["results"])
    _require_none(results.duplicated("run_id"), paths["results"], "a run that stands there twice")
    _require_none(results.duplicated(["group", "seed"]), paths["results"], "a second run of its group and seed")
    runs = pd.MultiIndex.from_frame(results[[*IDENTITY]])
    finished = results.loc[~diverged, "run_id"]
    for name, table in tables.items():
        if name in ("results", "images"):
            continue
        stopped = ~table["run_id"].isin(finished)
        lack = dict.fromkeys((column for column in table if "/" in column), stopped) if name == "epochs" else {}
        _require_columns(table, name, paths[name], lack)
        unknown = ~pd.MultiIndex.from_frame(table[[*IDENTITY]]).isin(runs)
        _require_none(pd.Series(unknown, table.index), paths[name], "a run that results.csv hasn't")
        if name in [*MEASURES] and (lost := set(finished) - set(table["run_id"])):
            raise refused(paths[name], f"run {one_line(min(lost))} has no row")
    _require_epochs(tables["epochs"], results, paths["epochs"])
    _require_errors(tables["misclassified"], results, paths["misclassified"])
    if "images" in tables:
        _require_images(tables["images"], paths["images"])


def refused(path: Path, why: str) -> ReportError:
    """The error that names a file and what is wrong with it."""
    return ReportError(f"{one_line(str(path))}: {why}")


def _require_columns(table: pd.DataFrame, name: str, path: Path, may_lack: Mapping[str, pd.Series]) -> None:
    for column, rule in TABLES[name].items():
        values, lack = table[column], may_lack.get(column)
        _require_none(values.isna() & ~(False if lack is None else lack), path, f"{column} is empty")
        values = values.dropna()
        if values.empty or rule == TEXT:
            continue
        if isinstance(rule, frozenset):
            wrong, expected = ~values.isin(rule), f"one of {', '.join(sorted(rule))}"
        else:
            wrong, expected = _wrong_numbers(values, *rule, lowest=int(column in POSITIVE))
        if wrong.any():
            value = one_line(str(values[wrong].iloc[0]))
            _require_none(wrong, path, f"{column}={value}: expected {expected}")


def _wrong_numbers(values: pd.Series, kinds: str, highest: int | float, *, lowest: int) -> tuple[pd.Series, str]:
    """Which of these are not numbers of these kinds, and what was expected."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    wrong = ~numbers.between(lowest, highest)
    if kinds == "i":
        wrong |= numbers % 1 != 0
    if values.dtype.kind not in "iuf" and not wrong.any():  # True and False
        wrong[:] = True
    return wrong, f"{'a whole number' if kinds == 'i' else 'a number'} from {lowest} to {highest:g}"


def _require_none(wrong: pd.Series, path: Path, why: str) -> None:
    """Raises `ReportError` with the line of the first row that is wrong."""
    if wrong.any():
        raise refused(path, f"line {wrong.idxmax() + 2}: {why}")


def _require_configs(results: pd.DataFrame, path: Path) -> None:
    names = [name for name in TrainConfig.model_fields if name in results]
    for place, row in enumerate(results[names].to_dict(orient="records")):
        try:
            TrainConfig.of(**row)
        except ConfigError as error:
            raise refused(path, f"line {place + 2}: {error}") from None


def _require_epochs(epochs: pd.DataFrame, results: pd.DataFrame, path: Path) -> None:
    """Each run has its epochs, from 1 on, one that diverged those before."""
    _require_none(epochs.groupby("run_id").cumcount() + 1 != epochs["epoch"], path, "not the epoch that is next")
    finished = results[results["diverged_at"].isna()].set_index("run_id")["epochs"]
    sizes = epochs.groupby("run_id").size().reindex(finished.index, fill_value=0)
    if len(short := finished[finished != sizes]):
        run_id = short.index[0]
        raise refused(path, f"run {one_line(run_id)} has {sizes[run_id]} of its {finished[run_id]} epochs")


def _require_errors(wrong: pd.DataFrame, results: pd.DataFrame, path: Path) -> None:
    """Each run has as many misclassified images as errors, unless the export keeps none."""
    _require_none(wrong.duplicated(["run_id", "index"]), path, "an image that its run has twice")
    finished = results[results["diverged_at"].isna()].set_index("run_id")["errors"]
    sizes = wrong.groupby("run_id").size().reindex(finished.index, fill_value=0)
    if len(wrong) and len(short := finished[finished != sizes]):
        run_id = short.index[0]
        raise refused(path, f"run {one_line(run_id)} has {sizes[run_id]} of its {finished[run_id]:g} errors")


def _require_images(images: pd.DataFrame, path: Path) -> None:
    _require_columns(images, "images", path, {})
    _require_none(images["index"].duplicated(), path, "an image that stands there twice")
    wrong = pd.Series([not re.fullmatch("[0-9a-f]{1568}", text) for text in images["pixels"]], images.index, bool)
    _require_none(wrong, path, "pixels are not 28 x 28 of two hexadecimal digits")
