"""Files that are either what they were or all of the new, and folders that can't be written."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from normstudy import files, provenance
from normstudy.errors import ConfigError, StorageError
from normstudy.files import require_folder, write_atomically
from normstudy.provenance import git_state
from normstudy.tracking import store


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


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("", "{here}/.normstudy"),
        ("sqlite:////data/runs/mlflow.db?timeout=60", "/data/runs/.normstudy"),
        ("sqlite:///below/mlflow.db", "{here}/below/.normstudy"),
        ("https://mlflow.example.com", "{home}/.local/state/normstudy"),
        ("postgresql://host/mlflow", "{home}/.local/state/normstudy"),
    ],
)
def test_state_lies_beside_a_store_that_is_a_file_and_else_where_the_user_keeps_it(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"MLFLOW_TRACKING_URI": uri, "HOME": "/home/me", "XDG_STATE_HOME": "", store.STATE: ""}.items():
        monkeypatch.setenv(name, value)
    assert str(store.state_root()) == expected.format(here=tmp_path, home="/home/me")
    monkeypatch.setenv(store.STATE, "/elsewhere")
    assert str(store.state_root()) == "/elsewhere"


def commit(folder: Path) -> str:
    """A repository with one commit; its hash."""
    who = ["-c", "user.name=a", "-c", f"user.email={folder.name}@example.com"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "x"], ["rev-parse", "HEAD"]):
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_project_and_of_no_repository_around_it_or_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, other = tmp_path / "project" / "site-packages", tmp_path / "other"
    for folder in (inside, other):
        folder.mkdir(parents=True)
    own, foreign = commit(tmp_path / "project"), commit(other)
    monkeypatch.setattr(provenance, "PROJECT", tmp_path / "project")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert own != foreign
    assert git_state() == (own, "false")
    if os.geteuid() == 0:  # another user's, which git refuses
        os.chown(tmp_path / "project" / ".git", 12345, 12345)
        os.chown(tmp_path / "project", 12345, 12345)
        assert git_state() == (own, "false")
    monkeypatch.setattr(provenance, "PROJECT", inside)
    assert git_state() == ("unknown", "unknown")
