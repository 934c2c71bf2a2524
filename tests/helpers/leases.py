"""Short ways to begin, train and end a trial."""

from helpers.fake_server import FakeServer
from normstudy.launch.registry import Registry, Trial
from normstudy.launch.state import Outcome, TrialState
from normstudy.tracking import Tag
from normstudy.tracking.event_log import Event
from normstudy.tracking.run import Lease

KEY = "0123456789abcdef"
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


def run_of(lease: Lease) -> str:
    assert lease.upload
    return lease.upload.run_id


def living(server: FakeServer) -> list[str]:
    return [run_id for run_id, run in server.stored.items() if not run.deleted]
