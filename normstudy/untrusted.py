"""What comes from a server, checked before it is used: whoever may write there chooses it."""

import io
import json
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from PIL import Image

from normstudy.errors import ReportError

# of the table of misclassified images: each column's kinds of number and its highest value; the lowest is 0
COLUMNS: Mapping[str, tuple[str, float]] = {
    "index": ("i", 9_999), "true": ("i", 9), "predicted": ("i", 9),
    "confidence": ("if", 1), "confidence_true": ("if", 1), "loss": ("if", 1e39),  # nats; of float32 logits at most 7e38
}  # fmt: skip
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
    try:
        parts = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(parts, dict) or set(parts) != {"columns", "data"}:
        raise ValueError("it is not a table of columns and data")
    if parts["columns"] != [*COLUMNS]:
        raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
    rows = parts["data"]
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"it is not rows of {len(COLUMNS)} values")
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    for name, (kinds, highest) in COLUMNS.items():
        if rows and (table[name].dtype.kind not in kinds or not table[name].between(0, highest).all()):
            number = "a whole number" if kinds == "i" else "a number"
            raise ValueError(f"{name} is not {number} from 0 to {highest:g} in every row")
    if table["index"].duplicated().any():
        raise ValueError("it has an index twice")
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


def one_line(text: str) -> str:
    """Text of any origin for a message or a table: no line break, control character or change of direction in it."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:300]).strip()
