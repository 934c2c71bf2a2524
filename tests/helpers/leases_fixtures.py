"""Made-up machines and a server in memory: a plugin of the tests that need them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.fake_server import FakeServer
from normstudy.launch import maintenance, registry
from normstudy.tracking import uploader


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only waiting moves; `meanwhile` is called at each wait. The state folder is machine "a"."""
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path / "a"))
    clock = SimpleNamespace(now=0.0, meanwhile=lambda: None)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.meanwhile()

    monkeypatch.setattr(registry, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock.now))
    monkeypatch.setattr(registry, "PREDECESSOR_SECONDS", 0.0)
    monkeypatch.setattr(registry, "SERVER_AWAY_SECONDS", 0.5)
    for module in (registry, maintenance, uploader):
        monkeypatch.setattr(module, "where", lambda: "fake")
    return clock


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    monkeypatch.setattr(maintenance, "connect", lambda: "fake")
    monkeypatch.setattr(maintenance, "Server", lambda: server)
    return server


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What follows happens on another machine."""
    return lambda name: monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path / name))
