"""Short ways to begin, train and end a trial."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.fake_server import FakeServer
from normstudy.launch import maintenance, registry
from normstudy.launch.registry import Registry, Trial
from normstudy.launch.state import Outcome, TrialState
from normstudy.tracking import Tag, uploader
from normstudy.tracking.event_log import Begin, Event, EventLog
from normstudy.tracking.run import Lease

KEY = "0123456789abcdef"
BEGIN = Begin(name="GN, seed 0", key_tag=Tag.TRIAL_KEY, experiment="x", store=None)
TRIAL = Trial(key=KEY, name="GN, seed 0", seeds=(0,), checkpoints="c" * 32)


def begin(server: FakeServer | None, *, force: bool = False, trial: Trial = TRIAL) -> Lease | Outcome:
    return Registry(server=server, experiment="x").begin(trial, force=force)


def refused(server: FakeServer | None) -> TrialState:
    """Why there is no lease."""
    outcome = begin(server)
    assert not isinstance(outcome, Lease)
    return outcome[0]


def leased(server: FakeServer | None, *, force: bool = False, trial: Trial = TRIAL) -> Lease:
    lease = begin(server, force=force, trial=trial)
    assert isinstance(lease, Lease), lease
    lease.log.append(Event(status="RUNNING"))
    return lease


def train(lease: Lease, *epochs: int, status: str | None = None, diverged: bool = False) -> Lease:
    """Train epochs, and end; without a status as a process that was killed."""
    for step in epochs:
        lease.log.append(Event(step=step, metrics={"loss": 1 / step}))
    if status:
        lease.log.append(Event(status=status, diverged=diverged, tags={Tag.FAILURE_STEP: "7"} if diverged else {}))
    if lease.upload:
        lease.upload.push()
        if lease.upload.done and lease.log.has_result:
            lease.log.remove()
    lease.lock.release()
    return lease


def finish(log: EventLog) -> None:
    """Log a result of one file, and the end."""
    (log.files / "result" / "misclassified").mkdir(parents=True, exist_ok=True)
    (log.files / "result" / "misclassified" / "table.json").write_text("{}")
    log.add_files("result", tags={"note": "finished"})
    log.append(Event(status="FINISHED"))


def run_of(lease: Lease) -> str:
    assert lease.upload
    return lease.upload.run_id


def living(server: FakeServer) -> list[str]:
    return [run_id for run_id, run in server.stored.items() if not run.deleted]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder: machine "a"."""
    monkeypatch.setenv("NORMSTUDY_STATE", str(tmp_path / "a"))
    return tmp_path / "a"


@pytest.fixture
def clock(state: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only waiting moves; `meanwhile` is called at each wait."""
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
