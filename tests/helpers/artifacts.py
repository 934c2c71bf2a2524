"""Artifacts as a trial logs them, and as an attacker would."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from normstudy.report.validation import COLUMNS


class Evil(str):
    """The path of a marker; to read its pickle makes that file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self),)


ROW = [17, 3, 5, 0.9, 0.05, 3.0]  # of the table of misclassified images


def table(*rows: list[Any]) -> bytes:
    return json.dumps({"columns": [*COLUMNS], "data": rows}).encode()


def picture(mode: str = "L", size: tuple[int, int] = (28, 28), form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()
