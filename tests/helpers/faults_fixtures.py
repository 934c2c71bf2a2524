"""Fixtures of the tests of faults: a plugin that those load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.faults_tools import KILLED_TRIAL, Place, outcome, require_whole, stopping


@pytest.fixture
def place(tmp_path: Path, migrated_store: Path) -> Iterator[Place]:
    """A store of this test's own; its processes end with the test."""
    with stopping(Place.at(tmp_path / "place", migrated_store)) as place:
        yield place


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> dict[str, bytes | str]:
    """What the trial comes to when nothing happens to it."""
    place = Place.at(tmp_path_factory.mktemp("uninterrupted"), migrated_store)
    place.finish(KILLED_TRIAL)
    return outcome(place, require_whole(place, KILLED_TRIAL))
