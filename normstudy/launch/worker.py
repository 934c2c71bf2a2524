"""What the process of a job does: trains the trials that it may, and says of the others why not."""

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from normstudy.config import TrainConfig
from normstudy.errors import Diverged, NormstudyError, Superseded, say
from normstudy.launch.registry import Outcome, Registry, Trial
from normstudy.launch.signals import StopSignal, nobody_reads_output
from normstudy.tracking import Tag
from normstudy.tracking.client import Server
from normstudy.tracking.event_log import STATE
from normstudy.tracking.run import Lease, LogTracker
from normstudy.tracking.store import identity, use
from normstudy.tracking.uploader import Uploader
from normstudy.train import train_together

Stop = Callable[[], int | None]
Job = tuple[TrainConfig, ...]  # trials in lock-step in one process


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the process of a job is given."""

    configs: Job
    experiment: str  # name
    parent: str  # id of the record of the study
    tags: Mapping[str, str]
    force: bool
    tracking_uri: str | None  # None: without a server
    stale: Mapping[str, str] = field(default_factory=dict)  # runs of other machines that the study found dead
    state: str | None = None  # `NORMSTUDY_STATE`: a process may come from a server that was started before it was set

    def to_json(self) -> bytes:
        """For a machine elsewhere."""
        return TypeAdapter(Work).dump_json(self)

    @classmethod
    def from_json(cls, text: bytes) -> "Work":
        """The same work again."""
        return TypeAdapter(Work).validate_json(text)

    def registry(self) -> Registry:
        """What to ask, in the process of the job."""
        if self.tracking_uri:
            use(self.tracking_uri)
        server = Server() if self.tracking_uri else None
        return Registry(server=server, experiment=self.experiment, stale=dict(self.stale))


def train_leased(
    registry: Registry,
    configs: Job,
    *,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    force: bool = False,
    stop_signal: Stop,
) -> dict[str, Outcome]:
    """Train the trials of a job that nobody else has, and say of the others why not.

    Trials whose earlier process stopped go on in the group that they began in: one network has the seeds of all, and
    those that are not to be trained any more log nothing.
    """
    seeds, checkpoints = tuple(config.seed for config in configs), uuid.uuid4().hex
    groups: dict[str, dict[str, Lease]] = {}
    refused: dict[str, Outcome] = {}
    stopped: list[NormstudyError] = []
    with ExitStack() as locks, Uploader() if registry.server else nullcontext() as uploader:
        for config in configs:
            trial = Trial(
                key=config.trial_key,
                name=identity(config)[Tag.NAME],
                parent=parent,
                seeds=seeds,
                checkpoints=checkpoints,
            )
            begun = registry.begin(trial, force=force)
            if isinstance(begun, Lease):
                locks.callback(begun.lock.release)
                groups.setdefault(begun.log.begin.checkpoints, {})[config.trial_key] = begun
            else:
                refused[config.trial_key] = begun
        with ExitStack() as stack:
            opened = [stack.enter_context(LogTracker(leases, tags or {}, uploader)) for leases in groups.values()]
            for tracker in opened:
                members = [configs[0].model_copy(update={"seed": seed}) for seed in tracker.seeds]
                try:
                    train_together(members, tracker, stop_signal=stop_signal)
                except (Diverged, Superseded) as error:
                    stopped.append(error)
            if stopped:
                raise stopped[0]
    return refused


def run_trials(work: Work) -> None:
    """What the process of a job does: train into runs that it has the lease of."""
    stop_signal = StopSignal(gone=nobody_reads_output)
    if work.state:
        os.environ[STATE] = work.state
    try:
        train_leased(
            work.registry(), work.configs, parent=work.parent, tags=work.tags, force=work.force, stop_signal=stop_signal
        )
    except NormstudyError as error:
        say(f"error: {error}")
        sys.exit(error.exit_status)
