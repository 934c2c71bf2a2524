"""What comes from a server is refused unless it is what a trial or a measure logs."""

import json
import zlib
from typing import Any

import pytest
from helpers.artifacts import ROW, picture, table
from PIL import PngImagePlugin

from normstudy.report.validation import MEASURES, logged_image, logged_measure, logged_table
from normstudy.tracking import Measure

NO_INDEX = ["../../evil", 10_000, -1, 2**70, 17.0, None]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        *[(table([index, *ROW[1:]]), "index is not a whole number from 0 to 9999") for index in NO_INDEX],
        (table([1, True, *ROW[2:]]), "true is not a whole number from 0 to 9"),
        (table([*ROW[:3], float("nan"), *ROW[4:]]), "confidence is not a number from 0 to 1"),
        (table([*ROW[:5], float("inf")]), "loss is not a number from 0"),
        (table(ROW, ROW), "it has an index twice"),
        (table(ROW[:5]), "it is not rows of 6 values"),
        (b'{"columns": ["index"], "data": [[1]]}', "its columns are not index, true, predicted, confidence"),
        (b'{"columns": [], "data": [], "index": []}', "it is not a table of columns and data"),
        (b"[" * 100_000, "it is not JSON"),
    ],
)
def test_a_table_that_no_trial_logs_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logged_table(content)


def bomb() -> bytes:
    """A text chunk of 64 MiB, compressed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * 2**26, zip=True)
    return picture(pnginfo=text)


def claiming(side: int) -> bytes:
    """An image whose header claims a size that its pixels don't have."""
    content, header = picture(), b"IHDR" + 2 * side.to_bytes(4, "big") + picture()[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


NO_PNG = [picture(form="JPEG"), picture()[:50], bomb(), b"", claiming(60_000)]  # the last: beyond Pillow's own limit
OTHER_PNG = [picture(size=(28, 29)), picture(mode="RGB"), claiming(9_000)]


@pytest.mark.parametrize("content", NO_PNG + OTHER_PNG, ids=len)
def test_an_image_that_is_no_small_grey_png_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no PNG that can be read" if content in NO_PNG else "not 28 x 28 grey pixels"):
        logged_image(content)


# a row that each measure's table may have
MEASURED: dict[Measure, list[Any]] = {
    Measure.WEIGHTS: [0.25],
    Measure.STATISTICS: ["re-estimated", "none", 0, 0.99, 0.03],
    Measure.SHIFT: ["as trained", "blur", 5, 0.5, 2.5],
    Measure.MNIST_C: ["batches of 32", "fog", 1, 0.5, 2.5],
    Measure.CALIBRATION: [1.5, 0.02, 0.01, 0.003, 0.002],
    Measure.RELIABILITY: [1, 14, 9_900, 0.999, 0.998],
    Measure.TRAINING: [0.998, 0.006],
    Measure.CROSSFIT: [9, 1.02, 1.01, 0.015, 0.0149],
}


def measured(measure: Measure, **changed: Any) -> bytes:
    row = dict(zip(MEASURES[measure], MEASURED[measure], strict=True)) | changed
    return json.dumps({"columns": [*row], "data": [[*row.values()]]}).encode()


@pytest.mark.parametrize("measure", Measure)
def test_a_measures_table_is_read_as_it_was_logged(measure: Measure) -> None:
    found = logged_measure(measure)(measured(measure))
    assert found.to_dict(orient="split", index=False) == {"columns": [*MEASURES[measure]], "data": [MEASURED[measure]]}


@pytest.mark.parametrize(("measure", "column"), [(one, column) for one in Measure for column in MEASURES[one]])
def test_a_measures_table_with_a_value_of_another_kind_is_refused(measure: Measure, column: str) -> None:
    for value in (None, "<b>", [1], True, -1, float("nan"), float("inf")):
        if (column, value) != ("scaled", True):
            with pytest.raises(ValueError, match=f"^{column} is not "):
                logged_measure(measure)(measured(measure, **{column: value}))


@pytest.mark.parametrize(
    ("measure", "changed", "complaint"),
    [
        (Measure.WEIGHTS, {"zero_share": 1.1}, "zero_share is not a number from 0 to 1 in every row"),
        (Measure.WEIGHTS, {"more": 1}, "its columns are not zero_share$"),
        (Measure.SHIFT, {"corruption": "frost"}, "corruption is not one of blur, brightness, contrast, inversion,"),
        (Measure.SHIFT, {"severity": 6}, "severity is not a whole number from 0 to 5 in every row"),
        (Measure.SHIFT, {"severity": 2.5}, "severity is not a whole number from 0 to 5 in every row"),
        (Measure.RELIABILITY, {"bin": 15}, "bin is not a whole number from 0 to 14 in every row"),
    ],
)
def test_a_measures_table_beyond_its_bounds_is_refused(
    measure: Measure, changed: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        logged_measure(measure)(measured(measure, **changed))
