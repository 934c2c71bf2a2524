"""Files that are either what they were or all of the new, and folders that can't be written."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normstudy import files
from normstudy.errors import ConfigError, StorageError
from normstudy.files import require_folder, write_atomically


def refusing(monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int = 0) -> None:
    """`os.fsync` raises in `normstudy.files` alone, from the call after the first `after` on."""
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > after:
            raise error

    own: dict[str, Any] = {**vars(os), "fsync": fsync}
    monkeypatch.setattr(files, "os", SimpleNamespace(**own))


@pytest.mark.parametrize("name", ["README.md", "new.md"])
def test_a_full_disk_leaves_a_file_as_it_was_and_nothing_beside_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("old")
    refusing(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match=rf"^can't write {tmp_path}/{name}: No space left on device$"):
        write_atomically(tmp_path / name, b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "old"}


def test_ctrl_c_leaves_a_file_as_it_was_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("old")
    refusing(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "README.md", b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "old"}


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "a" / "b" / "file", content)
        assert [path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()] == [content]


def test_a_folder_that_can_be_written_or_made_is_not_made_yet(tmp_path: Path) -> None:
    require_folder("out", tmp_path)
    require_folder("out", tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file", "{folder}/file is no folder"),
        ("file/below", "Not a directory"),
        ("dangling", "{folder}/dangling is no folder"),
        ("dangling/below", "{folder}/dangling is no folder"),
        ("x" * 300, "File name too long"),
        ("fi\nle", "{folder}/fi le is no folder"),
    ],
)
def test_a_place_that_is_no_folder_is_refused_by_name(name: str, problem: str, tmp_path: Path) -> None:
    for file in ("file", "fi\nle"):
        (tmp_path / file).write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError) as caught:
        require_folder("out", tmp_path / name)
    said = str(caught.value)
    assert said.isprintable()
    assert said.startswith(f"out={tmp_path}/".replace("\n", " "))
    assert said.endswith(f": {problem.format(folder=tmp_path)}; expected a folder to write to, or to make")


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=rf"^out={tmp_path}/new: {tmp_path} can't be written; expected a folder"):
        require_folder("out", tmp_path / "new")
