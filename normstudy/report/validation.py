"""What is read, checked before it is used: of a server's all, as whoever may write there chooses it; of an export's
files that they are there, with their columns, and of the same runs."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from normstudy.config import ADDED, BINS, CORRUPTIONS, MNIST_C, STATISTICS_BATCH, TrainConfig
from normstudy.errors import ReportError, Unfinished, one_line
from normstudy.tracking import Measure, Metric, Tag

# of a table: each column's kinds of number and its highest value, the lowest is 0; or the words that may stand in it
Columns = Mapping[str, tuple[str, int | float] | frozenset[str]]
SHARE, NATS, COUNT = ("if", 1.0), ("if", 1e39), ("i", 1e9)  # nats of float32 logits are at most 7e38
COLUMNS: Columns = {  # of the misclassified images
    "index": ("i", 9_999),
    "true": ("i", 9),
    "predicted": ("i", 9),
    "confidence": SHARE,
    "confidence_true": SHARE,
    "loss": NATS,
}
STATISTICS = ("as trained", "re-estimated")
BY_BATCH = f"batches of {STATISTICS_BATCH}"  # where BatchNorm was asked with those of each batch, too
SHIFTS: Columns = {
    "statistics": frozenset(STATISTICS),
    "corruption": frozenset(["none", *CORRUPTIONS]),
    "severity": ("i", 5),
    "accuracy": SHARE,
    "loss": NATS,
}
MEASURES: Mapping[Measure, Columns] = {
    Measure.WEIGHTS: {"zero_share": SHARE},
    Measure.STATISTICS: SHIFTS,
    Measure.SHIFT: SHIFTS,
    Measure.MNIST_C: {
        **SHIFTS,
        "statistics": frozenset([*STATISTICS, BY_BATCH]),
        "corruption": frozenset(["none", *MNIST_C]),
    },
    Measure.CALIBRATION: {
        "temperature": ("if", 1e6),
        "nll": NATS,
        "nll_scaled": NATS,
        "ece": SHARE,
        "ece_scaled": SHARE,
    },
    Measure.RELIABILITY: {
        "scaled": ("i", 1),
        "bin": ("i", BINS - 1),
        "count": COUNT,
        "confidence": SHARE,
        "accuracy": SHARE,
    },
    Measure.TRAINING: {"accuracy": SHARE, "loss": NATS},
    Measure.CROSSFIT: {
        "fold": ("i", 99),
        "temperature": ("if", 1e6),
        "temperature_all": ("if", 1e6),
        "nll": NATS,
        "nll_scaled": NATS,
    },
}
FORMS = {"a run id": r"[a-zA-Z0-9][\w-]{0,255}", "a whole number": "[0-9]{1,12}"}  # run ids: MLflow's own rule


def checked(kind: str, text: str | None, what: str) -> str:
    """The text. Raises `ReportError` when it is not of this kind, a key of `FORMS`."""
    if text is None or not re.fullmatch(FORMS[kind], text, re.ASCII):
        raise ReportError(f"{what}={one_line(str(text))}: not {kind}")
    return text


def logged_table(content: bytes) -> pd.DataFrame:
    """The table of misclassified images from its artifact; columns as in `evaluate.misclassified`.

    Raises `ValueError` for anything else: whoever may write to the server chooses it, and file names are made of it.
    """
    table = _logged_rows(content, COLUMNS)
    if table["index"].duplicated().any():
        raise ValueError("it has an index twice")
    return table


def logged_measure(measure: Measure) -> Callable[[bytes], pd.DataFrame]:
    """A function that makes a measure's table of its artifact, and raises `ValueError` for anything else."""
    return partial(_logged_rows, columns=MEASURES[measure])


def _logged_rows(content: bytes, columns: Columns) -> pd.DataFrame:
    try:
        parts = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(parts, dict) or set(parts) != {"columns", "data"}:
        raise ValueError("it is not a table of columns and data")
    if parts["columns"] != [*columns]:
        raise ValueError(f"its columns are not {', '.join(columns)}")
    rows = parts["data"]
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise ValueError(f"it is not rows of {len(columns)} values")
    table = pd.DataFrame(rows, columns=[*columns])
    for name, rule in columns.items():
        if isinstance(rule, frozenset):
            if not all(isinstance(word, str) and word in rule for word in table[name]):
                raise ValueError(f"{name} is not one of {', '.join(sorted(rule))} in every row")
            continue
        kinds, highest = rule
        if rows and (table[name].dtype.kind not in kinds or not table[name].between(0, highest).all()):
            number = "a whole number" if kinds == "i" else "a number"
            raise ValueError(f"{name} is not {number} from 0 to {highest:g} in every row")
    return table


def logged_image(content: bytes) -> np.ndarray:
    """The 28 x 28 grey pixels of an image's artifact. Raises `ValueError` for anything but such a PNG."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size == (28, 28) and image.mode == "L":  # its header says so; only now a pixel is decompressed
                return np.asarray(image)
    except Exception as error:  # what a decoder raises for damaged content has no common type
        raise ValueError("it is no PNG that can be read") from error
    raise ValueError("it is not 28 x 28 grey pixels")


PROVENANCE = {  # columns of an export, and the tags of a run that they come from
    "git_commit": Tag.GIT_COMMIT,
    "git_dirty": Tag.GIT_DIRTY,
    "data_digest": Tag.DATA_DIGEST,
    "device": Tag.DEVICE,
    "torch": Tag.TORCH,
    "processor": Tag.PROCESSOR,
}
IDENTITY = ("variant", "group", "run_id", "seed")  # of a run
# the keys of runs are without the settings in ADDED at their defaults, and so may an old export be
FIELDS = [name for name in TrainConfig.model_fields if name not in ("seed", "device", *ADDED)]
OF_FINISHED = ("test_accuracy", "test_loss", "train_accuracy", "errors")  # numbers that a run that diverged has not
OF_RUN = (
    "parameters",
    "val_accuracy",
    "val_loss",
    "diverged_at",
    "seconds_per_epoch",
    "side_by_side",
    "stack",
    "cores",
)
EXPORTED: Mapping[str, tuple[str, ...]] = {
    "results": ("study", *IDENTITY, *FIELDS, *OF_FINISHED, *OF_RUN),
    "epochs": ("epoch", *(metric for metric in Metric if not metric.startswith("val/")), *IDENTITY),
    "misclassified": (*COLUMNS, *IDENTITY),
    "provenance": ("run_id", *PROVENANCE),
    "images": ("index", "pixels"),
    **{str(measure): (*columns, *IDENTITY) for measure, columns in MEASURES.items()},
}
TEXTS = {"study", "variant", "group", "run_id", "pixels", "statistics", "corruption", *PROVENANCE} | {
    name for name, field in TrainConfig.model_fields.items() if field.annotation not in (int, float)
}


def read_table(path: Path) -> pd.DataFrame:
    """A table as `Tables.save` wrote it. Raises `ReportError` for a file that is none, or a column that is missing or
    has text among its numbers."""
    try:
        types = dict.fromkeys(TEXTS, str)
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=types, index_col=False, low_memory=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ReportError(f"{one_line(str(path))}: no table of an export: {one_line(str(error))}") from None
    for name in EXPORTED[path.stem]:
        if name not in table:
            raise ReportError(f"{one_line(str(path))}: it has no column {name}")
        if name not in TEXTS and len(table) and table[name].dtype.kind not in "iuf":
            raise ReportError(f"{one_line(str(path))}: {name} is not a number in every row")
    return table


def require_same_runs(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Raises `ReportError` unless results.csv has each run once, with its numbers, and the others have these runs."""
    results, diverged = tables["results"], tables["results"]["diverged_at"].notna()
    once = len(results) and not results.duplicated("run_id").any() and not results.duplicated(["group", "seed"]).any()
    if not once or results.loc[~diverged, [*OF_FINISHED]].isna().any(axis=None):
        raise ReportError(f"{one_line(str(folder / 'results.csv'))}: not a row for each run, with its results")
    for name, table in tables.items():
        who = [column for column in IDENTITY if column in table]
        same = pd.MultiIndex.from_frame(table[who]).isin(pd.MultiIndex.from_frame(results[who])) if who else True
        lacking = set(results["run_id"][~diverged]) - set(table["run_id"]) if who and name != "misclassified" else ()
        if lacking or not np.all(same):
            raise ReportError(f"{one_line(str(folder / name))}.csv: its runs are not those of results.csv")


def unfinished(seeds: Sequence[int], problems: Mapping[int, Sequence[str]], server: str) -> Unfinished:
    """How many trials have finished, and what to do; with few that lack, each of them."""
    each = [problem for of_seed in problems.values() for problem in of_seed]
    different = sorted(set(seeds))
    whole = list(takewhile(lambda seed: seed not in problems, different))  # those that a report can do with
    count = f"{len(seeds) - len(each)} of {len(seeds)} trials finished"
    if whole:
        which = f"seed {whole[0]}" if len(whole) == 1 else f"seeds {whole[0]} to {whole[-1]}"
        advice = f" ({which}): add --seeds {len(whole)}, or train the rest"
    else:
        advice = f" on {server}: train the rest, or point MLFLOW_TRACKING_URI to the store that has them"
    named = f": {'; '.join(each)}" if len(each) <= 5 else "; --verbose names each"
    return Unfinished(count + advice + named, each)
