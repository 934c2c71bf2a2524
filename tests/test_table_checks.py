"""An export that isn't whole is refused in one line with its file and what is wrong, and nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from helpers.project import PROJECT

from normstudy.errors import ReportError
from normstudy.report import report_from
from normstudy.report.tables import Tables

Change = Callable[[pd.DataFrame], pd.DataFrame]


def refusal(tmp_path: Path, file: str, change: Change | bytes | None) -> str:
    """What is said of an export of one experiment in which one file is changed, or missing."""
    name, kept = file.partition("/")[0], tmp_path / "kept"
    shutil.copytree(PROJECT / "results" / name, kept / name)
    path = kept / file
    if change is None:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)  # text, as it stands there
        change(table).to_csv(path, index=False, lineterminator="\n")
    with pytest.raises(ReportError) as caught:
        report_from(kept, out=tmp_path / "report")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "report").exists()
    return str(caught.value).removeprefix(f"{kept}/")


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no export of an experiment.*\(no \*/results\.csv\)"):
        report_from(tmp_path, out=tmp_path / "report")


def cell(column: str, value: str) -> Change:
    """The table with this value in its fourth row."""
    return lambda table: table.assign(**{column: table[column].where(table.index != 3, value)})


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("groups/results.csv", b"", "no table of an export: No columns to parse from file"),
        ("groups/results.csv", b"a,b\n1,2\n1,2,3\n", "no table of an export: Error tokenizing data"),
        ("groups/results.csv", bytes(range(128, 256)) + b"\n", "no table of an export: 'utf-8' codec can't decode"),
        ("groups/results.csv", lambda table: table.drop(columns="lr"), "it has no column lr"),
        ("groups/results.csv", lambda table: table[:0], "not a row for each run, with its results"),
        ("groups/results.csv", lambda table: table.loc[[0, *table.index]], "not a row for each run, with its results"),
        ("groups/results.csv", cell("test_accuracy", ""), "not a row for each run, with its results"),
        ("groups/results.csv", cell("test_loss", "abc"), "test_loss is not a number in every row"),
        ("groups/results.csv", cell("norm", "\x1b[2J"), "norm='\\x1b[2J': input should be 'bn', "),
        ("groups/epochs.csv", cell("run_id", "another"), "its runs are not those of results.csv"),
        ("groups/epochs.csv", lambda table: table[:-20], "its runs are not those of results.csv"),
        ("groups/provenance.csv", lambda table: table[1:], "its runs are not those of results.csv"),
        ("groups/experiment.json", b'{"parts": "W', "Invalid JSON: EOF"),
        ("groups/experiment.json", b"[]", "Input should be an object"),
        ("groups/experiment.json", b'{"report": "../x"}', "report=../x: input should be 'errors', 'groups', "),
        ("shift/shift.csv", lambda table: table[:1], "its runs are not those of results.csv"),
    ],
)
def test_a_file_that_was_changed_is_refused_by_name(
    file: str, change: Change | bytes, said: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, file, change).startswith(f"{file}: {said}")


@pytest.mark.parametrize(
    "file", ["groups/provenance.csv", "penalty/weights.csv", "collapse/statistics.csv", "main/images.csv"]
)
def test_a_table_that_the_experiment_has_is_missed(file: str, tmp_path: Path) -> None:
    name, table = file.split("/")
    assert refusal(tmp_path, file, None) == f"{name}: holds no whole export of an experiment: {table} is missing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table[:1], "main: images.csv has no image "),
        (lambda table: table.assign(pixels="00"), "main: images.csv: pixels are not 28 x 28 of two hexadecimal"),
    ],
)
def test_a_picture_that_is_to_be_shown_is_missed(change: Change, said: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "main/images.csv", change).startswith(said)


def test_an_export_from_before_a_setting_was_added_has_its_default(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "results" / "groups", tmp_path, dirs_exist_ok=True)
    pd.read_csv(tmp_path / "results.csv").drop(columns="l1_on").to_csv(tmp_path / "results.csv", index=False)
    assert {config.l1_on for config in Tables.load(tmp_path).configs()} == {"weights"}
