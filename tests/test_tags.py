"""The tags of a run: what only programs ask for is one of them, and runs of earlier versions are read the same."""

import pytest

from normstudy.tracking import Tag, packed_tags, unpacked_tags

TAGS: dict[str, str] = {Tag.VARIANT: "GN", Tag.HOST: "h", Tag.REPLACES: "a,b", Tag.TORCH: "2.15.0", Tag.HEARTBEAT: "1"}


def test_packed_tags_come_back_each_by_its_own_name() -> None:
    kept = packed_tags(TAGS)
    assert kept.keys() == {Tag.VARIANT, Tag.HEARTBEAT, Tag.PROCESS}
    assert unpacked_tags(kept).items() >= TAGS.items()
    assert packed_tags({Tag.FAILURE: "why"}) == {Tag.FAILURE: "why"}


def test_runs_with_separate_tags_and_a_commit_of_their_own_are_read_the_same() -> None:
    ours = {"normstudy.git_commit": "ours", "normstudy.git_dirty": "true"}
    old: dict[str, str] = {**TAGS, **ours, Tag.GIT_COMMIT: "of another repository"}
    read = unpacked_tags(old)
    assert read.items() >= TAGS.items()
    assert (read[Tag.GIT_COMMIT], read[Tag.GIT_DIRTY]) == ("ours", "true")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"host": 1}', '{"failure": "made up"}', "[" * 100_000])
def test_a_tag_that_is_no_such_json_says_nothing(text: str) -> None:
    assert unpacked_tags({Tag.PROCESS: text, Tag.VARIANT: "GN"}) == {Tag.PROCESS: text, Tag.VARIANT: "GN"}
