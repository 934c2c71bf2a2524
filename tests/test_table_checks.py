"""An export that is cut off, or was changed by hand, is refused in one line with its file and what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from helpers.project import PROJECT

from normstudy.errors import ReportError
from normstudy.report import report_from
from normstudy.report.tables import Tables

RESULTS = PROJECT / "results"
Change = Callable[[pd.DataFrame], pd.DataFrame]


def changed(tmp_path: Path, file: str, change: Change | bytes) -> Path:
    """An export of one experiment, with one file changed."""
    name = file.partition("/")[0]
    shutil.copytree(RESULTS / name, tmp_path / "kept" / name)
    path = tmp_path / "kept" / file
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)  # text, as it stands there
        change(table).to_csv(path, index=False, lineterminator="\n")
    return tmp_path / "kept"


def refusal(kept: Path, file: str) -> str:
    """What is said of the file; nothing is written."""
    out = kept.parent / "report"
    with pytest.raises(ReportError) as caught:
        report_from(kept, out=out)
    assert str(caught.value).isprintable()
    assert not out.exists()
    return str(caught.value).removeprefix(f"{kept}/{file}: ")


def cell(column: str, value: str, row: int = 3) -> Change:
    """The table with this value in that row; its line has a number two higher."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no table of an export: it is empty"),
        (b"\n", "no table of an export: No columns to parse from file"),
        (b"a,b\n1,2", "no table of an export: its last line has no end"),
        (b"a,b\n1,2\n", "no table of an export: it has no column study"),
        (b"a,b\n1,2,3\n", "no table of an export: "),
        (b"a,b\n1,2\n1,2,3\n", "no table of an export: Error tokenizing data. C error: Expected 2 fields in line 3"),
        (b'a,b\n"1,2\n', "no table of an export: Error tokenizing data. C error: EOF inside string"),
        (bytes(range(128, 256)) + b"\n", "no table of an export: 'utf-8' codec can't decode byte 0x80"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    kept = changed(tmp_path, "groups/results.csv", content)
    assert refusal(kept, "groups/results.csv").startswith(said)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("groups/results.csv", lambda table: table[:0], "it holds no run"),
        ("groups/results.csv", lambda table: table[:-1], "a run that results.csv hasn't"),
        ("groups/results.csv", lambda table: table.drop(columns="lr"), "no table of an export: it has no column lr"),
        ("groups/results.csv", cell("test_loss", "abc"), "line 5: test_loss=abc: expected a number from 0 to 1e+39"),
        ("groups/results.csv", cell("test_loss", "inf"), "line 5: test_loss=inf: expected a number from 0 to 1e+39"),
        ("groups/results.csv", cell("test_loss", ""), "line 5: test_loss is empty"),
        ("groups/results.csv", cell("errors", "1.5"), "line 5: errors=1.5: expected a whole number from 0 to 10000"),
        ("groups/results.csv", cell("stack", "0"), "line 5: stack=0: expected a whole number from 1 to 1e+09"),
        ("groups/results.csv", cell("run_id", ""), "line 5: run_id is empty"),
        (
            "groups/results.csv",
            cell("norm", "foo"),
            "line 5: norm=foo: input should be 'bn', 'gn', 'ln', 'in' or 'none'",
        ),
        ("groups/results.csv", cell("norm", "\x1b[2J"), "line 5: norm='\\x1b[2J': input should be 'bn'"),
        ("groups/results.csv", cell("batch_size", "70000"), "line 5: batch_size 70000 is more than the 60000 training"),
        ("groups/results.csv", lambda table: table.loc[[0, *table.index]], "line 3: a run that stands there twice"),
        ("groups/epochs.csv", lambda table: table[:-1], "run "),
        ("groups/epochs.csv", cell("epoch", "7"), "line 5: not the epoch that is next"),
        ("groups/epochs.csv", cell("test/accuracy", "True"), "line 5: test/accuracy=True: expected a number from 0"),
        ("groups/epochs.csv", cell("run_id", "another"), "line 5: a run that results.csv hasn't"),
        ("small/misclassified.csv", lambda table: table.drop(columns="index"), "no table of an export: it has no colu"),
        ("assignment/misclassified.csv", lambda table: table[:-1], "run "),
        ("assignment/misclassified.csv", cell("true", "10"), "line 5: true=10: expected a whole number from 0 to 9"),
        ("assignment/images.csv", cell("pixels", "00"), "line 5: pixels are not 28 x 28 of two hexadecimal digits"),
        ("shift/shift.csv", cell("corruption", "fog"), "line 5: corruption=fog: expected one of blur, brightness, "),
        ("shift/shift.csv", lambda table: table[:1], "run "),
        ("calibration/calibration.csv", cell("ece", "2.5"), "line 5: ece=2.5: expected a number from 0 to 1"),
    ],
)
def test_a_table_that_was_changed_is_refused_with_its_line(
    file: str, change: Change, said: str, tmp_path: Path
) -> None:
    assert said in refusal(changed(tmp_path, file, change), file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON: Expecting value"),
        (b'{"Question": "W', "no JSON: Unterminated string"),
        (b"\xff\xfe\x00", "no JSON: "),
        (b"[]", "no JSON object whose values are text"),
        (b'{"Question": 3}', "no JSON object whose values are text"),
    ],
)
def test_words_of_an_experiment_that_are_none_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    kept = changed(tmp_path, "groups/experiment.json", content)
    assert refusal(kept, "groups/experiment.json").startswith(said)


@pytest.mark.parametrize(
    "file",
    [
        "penalty/weights",
        "penalty/statistics",
        "collapse/statistics",
        "shift/shift",
        "calibration/calibration",
        "calibration/reliability",
        "assignment/images",
    ],
)
def test_a_table_that_the_page_shows_is_missed(file: str, tmp_path: Path) -> None:
    name, table = file.split("/")
    shutil.copytree(RESULTS / name, tmp_path / "kept" / name)
    (tmp_path / "kept" / f"{file}.csv").unlink()
    assert refusal(tmp_path / "kept", name) == f"holds no whole export of an experiment: {table}.csv is missing"


def test_a_picture_that_is_to_be_shown_is_missed(tmp_path: Path) -> None:
    kept = changed(tmp_path, "assignment/images.csv", lambda table: table[:1])
    assert refusal(kept, "assignment").startswith("images.csv has no image ")


def test_an_export_from_before_a_setting_was_added_has_its_default(tmp_path: Path) -> None:
    kept = changed(tmp_path, "groups/results.csv", lambda table: table.drop(columns="l1_on"))
    assert {config.l1_on for config in Tables.load(kept / "groups").configs()} == {"weights"}
