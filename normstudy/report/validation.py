"""What comes from a server, checked before it is used: whoever may write there chooses it."""

import io
import json
import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image

from normstudy.errors import ReportError, one_line
from normstudy.tracking import Measure

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
STATISTICS = frozenset(["as trained", "re-estimated"])
CORRUPTIONS = frozenset(["none", "noise", "blur", "contrast", "brightness", "rotation", "occlusion", "inversion"])
SHIFTS: Columns = {
    "statistics": STATISTICS,
    "corruption": CORRUPTIONS,
    "severity": ("i", 5),
    "accuracy": SHARE,
    "loss": NATS,
}
MEASURES: Mapping[Measure, Columns] = {
    Measure.WEIGHTS: {"zero_share": SHARE},
    Measure.STATISTICS: SHIFTS,
    Measure.SHIFT: SHIFTS,
    Measure.CALIBRATION: {
        "temperature": ("if", 1e6),
        "nll": NATS,
        "nll_scaled": NATS,
        "ece": SHARE,
        "ece_scaled": SHARE,
    },
    Measure.RELIABILITY: {
        "scaled": ("i", 1),
        "bin": ("i", 14),
        "count": COUNT,
        "confidence": SHARE,
        "accuracy": SHARE,
    },
}
NO_ERRORS = json.dumps({"columns": [*COLUMNS], "data": []}).encode()
KINDS = {"a run id": r"[a-zA-Z0-9][\w-]{0,255}", "a whole number": "[0-9]{1,12}"}  # run ids: MLflow's own rule


def checked(kind: str, text: str | None, what: str) -> str:
    """The text. Raises `ReportError` when it is not of this kind, a key of `KINDS`."""
    if text is None or not re.fullmatch(KINDS[kind], text, re.ASCII):
        raise ReportError(f"{what}={one_line(str(text))}: not {kind}")
    return text


def logged_table(content: bytes) -> pd.DataFrame:
    """The table of misclassified images from its artifact; columns as in `evaluate.misclassified`.

    Raises `ValueError` for anything else: whoever may write to the server chooses it, and file names are made of it.
    """
    table = _table(content, COLUMNS)
    if table["index"].duplicated().any():
        raise ValueError("it has an index twice")
    return table


def logged_measure(measure: Measure) -> Callable[[bytes], pd.DataFrame]:
    """A function that makes a measure's table of its artifact, and raises `ValueError` for anything else."""
    return partial(_table, columns=MEASURES[measure])


def _table(content: bytes, columns: Columns) -> pd.DataFrame:
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
