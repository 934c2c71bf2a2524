"""Files that are either what they were or all of the new, and folders that can't be written."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from normstudy import files
from normstudy.errors import ConfigError, StorageError
from normstudy.files import require_folder, write_atomically


@pytest.mark.parametrize("name", ["README.md", "new.md"])
@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (OSError(28, "No space left on device"), StorageError, r"^can't write \S*md: No space left on device$"),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_a_full_disk_and_ctrl_c_leave_a_file_as_it_was_and_nothing_beside_it(
    name: str,
    error: BaseException,
    raised: type[BaseException],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fsync(handle: int) -> None:
        raise error

    (tmp_path / "README.md").write_text("old")
    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))  # there alone
    with pytest.raises(raised, match=match):
        write_atomically(tmp_path / name, b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "old"}


@pytest.mark.parametrize("name", ["", "new/newer", "file", "file/below", "dangling/below", "fi\nle"])
def test_a_place_that_is_no_folder_is_refused_by_name_and_one_that_can_be_made_is_not_made_yet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("file", "fi\nle"):
        (tmp_path / file).touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before, path = sorted(tmp_path.iterdir()), tmp_path / name
    if name in ("", "new/newer"):
        require_folder("out", path)
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError) as caught:
        require_folder("out", path)
    bad = (
        f"{tmp_path} cannot be written"
        if name in ("", "new/newer")
        else f"{tmp_path / name.split('/')[0]} is no folder"
    )
    said = f"out={path}: {bad}; expected a folder to write to, or to make"
    assert str(caught.value) == said.replace("\n", " ")
    assert sorted(tmp_path.iterdir()) == before
