"""One trial on three machines, through random orders of kill, pause, copy, outage, backup, deletion and takeover."""

import hashlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.fake_server import FakeRun, FakeServer, away
from helpers.pausing import Pausing, Process
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from normstudy.errors import NormstudyError, Refused, ServerAway, Superseded
from normstudy.launch import maintenance, registry
from normstudy.launch.registry import Registry, Trial
from normstudy.tracking import Tag, event_log, uploader
from normstudy.tracking.event_log import Event
from normstudy.tracking.run import Lease

EPOCHS, MACHINES, KEY = 3, 3, "0123456789abcdef"
TRIAL = Trial(key=KEY, name="the trial", seeds=(0,), checkpoints="c" * 32)
ROOM = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # a disk would take time to sync
machines = st.integers(0, MACHINES - 1)
PAUSES = st.tuples(st.integers(0, 1), st.sampled_from(["set_status", "log", "log_metrics", "create", "upload"]))


def scrambled(number: int) -> str:
    """An id: as if drawn, in no order."""
    return hashlib.md5(str(number).encode()).hexdigest()


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=ROOM))
        self.server = FakeServer()
        self.server.before = self._request
        self.backup: dict[str, FakeRun] = {}
        self.down = False
        self.started = 0
        self.processes: dict[int, Process] = {}
        self.final: dict[str, dict[int, float]] = {}  # record to what its log has of each epoch when it finishes
        self.patches = pytest.MonkeyPatch()
        clock = SimpleNamespace(now=0.0)

        def sleep(seconds: float) -> None:
            clock.now += seconds
            for process in self.processes.values():
                if process.thread is None and not self.down:
                    with suppress(NormstudyError):
                        self._on(process.machine, process.upload.beat)

        self.patches.setattr(registry, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock.now))
        made = itertools.count(1)  # the same history has the same ids and times
        self.patches.setattr(event_log, "time", SimpleNamespace(time_ns=lambda: next(made) * 1_000_000))
        self.patches.setattr(
            event_log, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=scrambled(next(made))))
        )
        for name in ("PREDECESSOR_SECONDS", "SERVER_AWAY_SECONDS"):
            self.patches.setattr(registry, name, 0.0)
        for module in (registry, maintenance, uploader):
            self.patches.setattr(module, "where", lambda: "fake")
        for module in (registry, maintenance):
            self.patches.setattr(module, "say", lambda message: None)
        self.patches.setattr(maintenance, "connect", lambda: "fake")
        self.patches.setattr(maintenance, "Server", lambda: self.server)

    # what happens on one machine

    def _on(self, machine: int, do: Callable[..., Any], *arguments: Any) -> Any:
        before = os.environ.get("NORMSTUDY_STATE")
        os.environ["NORMSTUDY_STATE"] = str(self.root / str(machine))
        try:
            return do(*arguments)
        finally:
            os.environ["NORMSTUDY_STATE"] = before or str(self.root / str(machine))

    def _request(self, name: str) -> None:
        thread = threading.current_thread()
        if isinstance(thread, Pausing) and not thread.stopped.is_set():
            thread.left -= thread.at in (None, name)
            if thread.left < 0:
                thread.stopped.set()
                thread.process.resume.wait()
        if self.down:
            away(name)

    def _push(self, process: Process) -> None:
        """What the uploader's thread does, and the end of a process whose run is another's now or is whole."""
        upload, log = process.upload, process.lease.log
        try:
            upload.push()
        except ServerAway:
            return
        except (Superseded, Refused):
            process.ended = True
        if upload.done:
            process.ended = True
            if log.has_result:
                log.remove()

    def _settle(self, process: Process) -> None:
        if process.ended and process.thread is None:
            process.lease.lock.release()
            self.processes.pop(process.number, None)

    # rules

    @rule(machine=machines)
    def start(self, machine: int) -> None:
        if len(self.processes) >= 4:
            return
        lease = self._on(machine, self._begin)
        if isinstance(lease, Lease):
            self.started += 1
            process = self.processes[self.started] = Process(self.started, machine, lease)
            lease.log.append(Event(status="RUNNING", tags={"by": str(self.started)}, params={"epochs": str(EPOCHS)}))
            self._on(machine, self._push, process)
            self._settle(process)

    def _begin(self) -> Any:
        with suppress(NormstudyError):
            return Registry(server=self.server, experiment="x").begin(TRIAL)

    def _some(self, pick: int, *, paused: bool = False) -> Process | None:
        found = [one for one in self.processes.values() if (one.thread is not None) == paused]
        return found[pick % len(found)] if found else None

    @precondition(lambda self: self.processes)
    @rule(pick=st.integers(0, 3), pause=st.none() | st.tuples(st.integers(0, 9), st.none()) | PAUSES)
    def train(self, pick: int, pause: tuple[int, str | None] | None) -> None:
        """An epoch, or after the last the end; then a push, which may be stopped at any of its requests."""
        process = self._some(pick)
        if process is None:
            return
        log = process.lease.log
        missing = [step for step in range(1, EPOCHS + 1) if step not in log.epochs]
        if missing:
            value = missing[0] + process.number / 1000
            log.append(Event(step=missing[0], metrics={"loss": value, "accuracy": value}))
        elif log.end is None:
            (log.files / "result").mkdir(exist_ok=True)
            (log.files / "result" / "table.json").write_text(log.id)
            log.add_files("result")
            log.append(Event(status="FINISHED"))
            self.final[log.id] = {e.step: e.metrics["loss"] for e in log.events() if e.metrics}
        if pause is None:
            self._on(process.machine, self._push, process)
            self._settle(process)
            return
        thread = Pausing(process, *pause, lambda: self._on(process.machine, self._push, process))
        process.resume.clear()
        thread.start()
        while thread.is_alive() and not thread.stopped.wait(0.001):
            pass
        process.thread = thread if thread.is_alive() else None
        self._settle(process)

    @precondition(lambda self: any(one.thread for one in self.processes.values()))
    @rule(pick=st.integers(0, 3))
    def go_on(self, pick: int) -> None:
        process = self._some(pick, paused=True)
        if process is None or process.thread is None:
            return
        os.environ["NORMSTUDY_STATE"] = str(self.root / str(process.machine))
        process.resume.set()
        process.thread.join()
        process.thread = None
        self._settle(process)

    @precondition(lambda self: self.processes)
    @rule(pick=st.integers(0, 3))
    def kill(self, pick: int) -> None:
        if process := self._some(pick):
            process.lease.lock.release()
            del self.processes[process.number]

    @precondition(lambda self: self.processes)
    @rule(pick=st.integers(0, 3))
    def stop(self, pick: int) -> None:
        """SIGTERM: the run ends as KILLED."""
        process = self._some(pick)
        if process and process.lease.log.end is None:
            process.lease.log.append(Event(status="KILLED", tags={Tag.FAILURE: "stopped"}))
            self._on(process.machine, self._push, process)
            process.ended = True
            self._settle(process)

    @rule(source=machines, to=machines)
    def copy(self, source: int, to: int) -> None:
        """The records of one machine, as they are, to another, over what an earlier copy left there."""
        for folder in (self.root / str(source) / "records").glob("*"):
            if source != to:
                shutil.copytree(folder, self.root / str(to) / "records" / folder.name, dirs_exist_ok=True)

    @rule(machine=machines, command=st.sampled_from(["sync", "reap"]))
    def maintain(self, machine: int, command: str) -> None:
        with suppress(NormstudyError):
            self._on(machine, getattr(maintenance, command))

    @rule()
    def outage(self) -> None:
        self.down = not self.down

    @rule()
    def back_up(self) -> None:
        self.backup = self.server.backup()

    @rule()
    def restore(self) -> None:
        self.server.restore(self.backup)

    @precondition(lambda self: self.server.stored)
    @rule(pick=st.integers(0, 5))
    def delete_in_the_ui(self, pick: int) -> None:
        run_id = sorted(self.server.stored)[pick % len(self.server.stored)]
        self.server.stored[run_id].deleted = True

    # what must hold

    @staticmethod
    def _require_whole(run: FakeRun) -> None:
        for metric in ("loss", "accuracy"):
            assert [step for step, _ in run.history(metric)] == [*range(1, EPOCHS + 1)], run.history(metric)
        assert "table.json" in run.files

    @invariant()
    def finished_runs_are_whole_and_of_one_record(self) -> None:
        for run in self.server.stored.values():
            if run.status == "FINISHED":
                self._require_whole(run)
                record = run.tags[Tag.RECORD]
                assert dict(run.history("loss")) == self.final[record]
                assert run.files["table.json"].decode() == record

    def teardown(self) -> None:
        try:
            self._complete()
        finally:
            for process in self.processes.values():
                process.resume.set()
                process.lease.lock.release()
            self.patches.undo()
            shutil.rmtree(self.root, ignore_errors=True)

    def _complete(self) -> None:
        """The server is back, everybody goes on, and the trial is started until it has finished."""
        self.down = False
        while any(process.thread for process in self.processes.values()):
            self.go_on(0)
        for _ in range(20):
            while self.processes:
                self.train(0, None)
            for machine in range(MACHINES):
                self.maintain(machine, "sync")
            self.start(0)
            if not self.processes:
                break
        self.finished_runs_are_whole_and_of_one_record()
        counted = [run for run in self.server.stored.values() if run.status == "FINISHED" and not run.deleted]
        assert len([run for run in counted if Tag.SUPERSEDED_BY not in run.tags]) == 1, [
            (i, r.status, r.deleted, r.tags, len(r.points)) for i, r in self.server.stored.items()
        ]
        for machine in range(MACHINES):
            self.maintain(machine, "reap")
        assert not [run for run in self.server.stored.values() if run.status == "RUNNING" and not run.deleted]


def explore(examples: int) -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize="HYPOTHESIS_SEED" not in os.environ,
            suppress_health_check=[*HealthCheck],
            phases=[Phase.generate],
        ),
    )


def test_a_trial_is_never_lost_doubled_or_mixed_in_a_hundred_histories() -> None:
    explore(100)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_trial_is_never_lost_doubled_or_mixed_in_many_histories() -> None:
    explore(int(os.environ.get("HISTORIES", "400")))  # 2,000 take minutes
