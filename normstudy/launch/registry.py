"""Which trials are left to train, and leave to train one: asked of the server, or, without one, of this machine."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from normstudy.errors import ConfigError, RunDeleted, ServerAway, Superseded, say
from normstudy.launch.state import Outcome, TrialState, outcome_in, outcome_of, run_in_words, usable_logs
from normstudy.tracking import Metric, Tag
from normstudy.tracking.client import Server, StoredRun, canonical, is_result
from normstudy.tracking.event_log import Begin, Event, EventLog, Status, TrialLock, logs
from normstudy.tracking.run import Lease
from normstudy.tracking.store import where
from normstudy.tracking.upload import Upload

SERVER_AWAY_SECONDS = 60.0  # that a trial waits to begin while the server is away
STALE_SECONDS = 45.0  # a run whose heartbeat stays the same for so long has no process: it is sent every 10 s
WATCH_SECONDS = 2.0  # between two looks at a heartbeat
PREDECESSOR_SECONDS = 5.0  # that a killed process of the same trial may take to be gone
GONE = "its process ended without a word"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is to begin: a trial, or a study, which is a run, too."""

    key: str
    name: str
    key_tag: Tag = Tag.TRIAL_KEY
    parent: str | None = None  # id of the record of its study
    seeds: tuple[int, ...] = ()  # that train together, from the checkpoints of this name
    checkpoints: str = ""


@dataclass(kw_only=True)
class Registry:
    """Who decides, as the only one, what a process of normstudy trains: by the runs of one experiment and the records
    of this machine, or, without a server, by the latter alone."""

    server: Server | None
    experiment: str  # name
    waiting: str | None = None  # a run that `mlflow run` has made for this process
    stale: dict[str, str] = field(default_factory=dict)  # run id to the heartbeat that was watched in vain

    @property
    def store(self) -> str | None:
        """What records call the server."""
        return where() if self.server else None

    def runs(self, key_tag: Tag, key: str | None) -> list[StoredRun]:
        """Those of a trial or study, or of all (None), newest first."""
        return self.server.runs(self.server.experiment(self.experiment), key_tag, key) if self.server else []

    def studies(self, key: str) -> list[tuple[str, str | None]]:
        """Record and run of each study of this key that began on this machine; without a server the record alone. None
        while another process is still making them."""
        runs = {run.tags.get(Tag.RECORD, ""): run.run_id for run in self.runs(Tag.STUDY_KEY, key)}
        return [(log.id, runs.get(log.id)) for log in logs(key) if log.id in runs or not self.server]

    def states(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The state of each trial. Takes `STALE_SECONDS` where the heartbeat of another machine must be watched."""
        found = self._canonical(keys)
        self.watch(run for run in found.values() if run)
        own = usable_logs(logs(keys[0] if len(keys) == 1 else None), self.store)
        return {key: self._outcome(key, run, own.get(key, [])) for key, run in found.items()}

    def _canonical(self, keys: Sequence[str]) -> dict[str, StoredRun | None]:
        """The run that counts of each trial."""
        by_key: dict[str, list[StoredRun]] = {key: [] for key in keys}
        for run in self.runs(Tag.TRIAL_KEY, keys[0] if len(keys) == 1 else None):
            by_key.get(run.tags.get(Tag.TRIAL_KEY, ""), []).append(run)
        return {key: canonical(runs) for key, runs in by_key.items()}

    def _outcome(self, key: str, run: StoredRun | None, own: Sequence[EventLog]) -> Outcome:
        if (run and (is_result(run) or self.is_living(run))) or TrialLock(key).is_held():
            return outcome_of(run)
        if done := [outcome_in(log) for log in own if log.has_result]:
            state, what = next((one for one in done if one[0] == TrialState.FINISHED), done[-1])
            return (TrialState.UNSENT if self.server else state), what
        if own and not run:
            return outcome_in(own[-1])
        return (TrialState.UNFINISHED if run else TrialState.NEW), run_in_words(run)

    def accuracies(self, keys: Sequence[str]) -> dict[str, tuple[str, float]]:
        """Of each trial that has finished: its run, or without a server its record, and its last test accuracy."""
        found: dict[str, tuple[str, float]] = {}
        for key, best in self._canonical(keys).items():
            if best and best.status == "FINISHED" and Metric.TEST_ACCURACY in best.metrics:
                found[key] = best.run_id, best.metrics[Metric.TEST_ACCURACY]
        for log in logs() if self.server is None else []:
            if log.key in keys and log.end and log.end.status == "FINISHED":
                found[log.key] = log.folder.name, log.state.epochs[max(log.epochs)].metrics[Metric.TEST_ACCURACY]
        return found

    def is_living(self, run: StoredRun) -> bool:
        """Whether another machine works for it, as far as `watch` has found."""
        watched_in_vain = self.stale.get(run.run_id) == run.tags.get(Tag.HEARTBEAT, "")
        return run.status == "RUNNING" and not run.is_own and not watched_in_vain

    def watch(self, runs: Iterable[StoredRun]) -> None:
        """Learn which runs of other machines are dead: their heartbeat stays the same while it is watched. No two
        machines' clocks are compared."""
        doubtful = {run.run_id: run.tags.get(Tag.HEARTBEAT, "") for run in runs if self.is_living(run)}
        deadline = time.monotonic() + STALE_SECONDS
        while doubtful and self.server and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
            for run_id, heartbeat in list(doubtful.items()):
                run = self.server.get(run_id)
                if run is None or run.status != "RUNNING" or run.tags.get(Tag.HEARTBEAT, "") != heartbeat:
                    del doubtful[run_id]
        self.stale |= doubtful

    def begin(self, trial: Trial, *, force: bool = False) -> Lease | Outcome:
        """Leave to train it, or why not. With `force` what has a result is trained again, as a new run."""
        self._require_waiting(trial)
        lock, patience = TrialLock(trial.key), PREDECESSOR_SECONDS if trial.key_tag == Tag.TRIAL_KEY else 0.0
        begun: Lease | Outcome | None = None
        try:
            taken = lock.take(patience)
            begun = patiently()(self._begin, trial, lock, force=force) if taken else self._elsewhere(trial)
        finally:
            if not isinstance(begun, Lease):
                lock.release()
        if self.waiting and self.server:  # `mlflow run` shows the run that it has made: it says where to look
            used = begun.upload if isinstance(begun, Lease) else None
            run = used.run if used else canonical(self.runs(trial.key_tag, trial.key))
            if run and run.run_id != self.waiting:
                note = f"Nothing was logged here: {trial.name} is run `{run.run_id}`."
                self.server.log(self.waiting, tags={Tag.NAME: f"launch of {trial.name}", Tag.NOTE: note})
            self.waiting = None
        return begun

    def _require_waiting(self, trial: Trial) -> None:
        """Raises `ConfigError` where the run that waits for this process has ended, or is another trial's."""
        run = self.server.get(self.waiting) if self.server and self.waiting else None
        if run and run.tags.get(trial.key_tag) != trial.key and (run.status != "RUNNING" or Tag.RECORD in run.tags):
            problem = f"that run is {run.status}" if run.status != "RUNNING" else "that run is another trial's"
            raise ConfigError(f"MLFLOW_RUN_ID={run.run_id}: {problem}; expected one that has just been made, or none")

    def _begin(self, trial: Trial, lock: TrialLock, *, force: bool) -> Lease | Outcome:
        runs = self.runs(trial.key_tag, trial.key)
        own = usable_logs(logs(trial.key), self.store, runs).get(trial.key, [])
        if trial.key_tag == Tag.STUDY_KEY:  # one that has ended is left as it is, one of another machine too
            runs = [run for run in runs if run.is_own and not is_result(run)]
            own = [log for log in own if not log.has_result]
        current, results = canonical(runs), [run for run in runs if is_result(run)]
        if current and is_result(current) and not force:
            return outcome_of(current)
        lost = {run.tags.get(Tag.RECORD) for run in runs if Tag.SUPERSEDED_BY in run.tags}
        own = [log for log in own if log.id not in lost and (log.begin.replaces or not (force and results))]
        if force and self.server is None:  # only what an earlier `--force` has begun
            own = own[max((place for place, log in enumerate(own, 1) if log.has_result), default=0) :]
        for done in [log for log in own if log.has_result]:
            if outcome := self._bring(done):
                return outcome
        rivals = [run for run in runs if not is_result(run) and Tag.SUPERSEDED_BY not in run.tags]
        self.watch(rivals)
        if living := [run for run in rivals if self.is_living(run)]:
            return outcome_of(living[0])
        unfinished = sorted((log for log in own if not log.has_result), key=lambda log: log.is_of_this_machine)
        log: EventLog | None = unfinished[-1] if unfinished else None
        if log is None or not log.is_of_this_machine:
            log = self._new_log(trial, log, results)
        return self._lease(trial, log, lock, rivals) if self.server else Lease(log=log, lock=lock, upload=None)

    def _new_log(self, trial: Trial, old: EventLog | None, replaced: Sequence[StoredRun] = ()) -> EventLog:
        """For a new run. An `old` log, of another machine or of a lost run, lends its epochs and checkpoints."""
        known = {name: value for name, value in vars(trial).items() if name != "key"}
        ids = tuple(run.run_id for run in replaced)
        begin = Begin(**known, experiment=self.experiment, store=self.store, replaces=ids)
        return old.fork(begin) if old and not old.has_result else EventLog.create(trial.key, begin)

    def _bring(self, log: EventLog) -> Outcome | None:
        """The outcome of a record that has a result, once the server, if there is one, has all of it."""
        state, what = outcome_in(log)  # the record goes once it is sent
        if self.server is None:
            return state, what
        try:
            upload = deliver(log, self.server, "KILLED", GONE)
        except Superseded as error:
            say(f"{error}; {log.folder} is of no use any more")
            return None
        return (state, run_in_words(upload.run)) if upload.done else None

    def _lease(self, trial: Trial, log: EventLog, lock: TrialLock, rivals: Sequence[StoredRun]) -> Lease | Outcome:
        assert self.server
        self.server.require_artifacts(self.experiment)
        upload = Upload(log, self.server)
        upload.trains, upload.study = True, trial.parent  # that which began its record may be of another store, or gone
        try:
            upload.attach(self.waiting)
            if upload.is_ahead():  # epochs trained anew can't be told from the ones that are there
                return self._lease_anew(trial, log, lock, rivals)
            for run in rivals:  # which are dead
                if run.run_id != upload.run_id:
                    reason = f"taken over by run {upload.run_id} on {upload.begin.host}"
                    self.server.retire(run.run_id, upload.run_id, reason)
            upload.require_lease()
        except RunDeleted:
            return self._lease_anew(trial, log, lock, rivals)
        except Superseded:  # another machine began it at the same moment
            if upload.run and not log.epochs:
                self._withdraw(upload)
            return self._elsewhere(trial)
        if upload.run_id == self.waiting:
            self.waiting = None
        return Lease(log=log, lock=lock, upload=upload)

    def _lease_anew(self, trial: Trial, log: EventLog, lock: TrialLock, rivals: Sequence[StoredRun]) -> Lease | Outcome:
        """For a new run, which goes on with what the log has."""
        new = self._new_log(trial, log)
        log.remove()
        return self._lease(trial, new, lock, rivals)

    def _withdraw(self, upload: Upload) -> None:
        """Leave nothing of a run that was not needed."""
        assert self.server
        if upload.run_id == self.waiting:
            self.server.drop_tags(upload.run_id, [upload.begin.key_tag, Tag.RECORD, Tag.MACHINE, Tag.SUPERSEDED_BY])
        else:
            self.server.delete(upload.run_id)
        upload.log.remove()

    def _elsewhere(self, trial: Trial) -> Outcome:
        return outcome_of(canonical(self.runs(trial.key_tag, trial.key)))

    def finalize(self, key: str, launcher: str, *, force: bool = False) -> Outcome:
        """State of a trial whose process, started by this launcher, is gone; its run ends, if that left it open. With
        `force` the state of its newest run, whatever earlier ones have come to."""
        lock = TrialLock(key)
        if lock.take():
            try:
                patiently()(self._finalize, key, launcher)
            finally:
                lock.release()
        if not force:
            return self.states([key])[key]
        newest = self.runs(Tag.TRIAL_KEY, key)[:1]
        own = usable_logs(logs(key), self.store, newest).get(key, [])
        return self._outcome(key, newest[0] if newest else None, own[-1:])

    def _finalize(self, key: str, launcher: str) -> None:
        if self.server is None:
            for log in usable_logs(logs(key), None).get(key, [])[-1:]:
                if log.end is None and log.is_of_this_machine:
                    log.append(Event(status="KILLED", tags={Tag.FAILURE: GONE}))
            return
        for run in self.runs(Tag.TRIAL_KEY, key):
            if run.status == "RUNNING" and (run.is_own or run.tags.get(Tag.LAUNCHER) == launcher):
                end_for_another(run, self.server, "KILLED", GONE)


def patiently() -> Retrying:
    """Calls a function again while the server is away: one that restarts is waited for."""

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            say(f"{state.outcome.exception()}; a trial waits for it")

    again, stop = retry_if_exception_type(ServerAway), stop_after_delay(SERVER_AWAY_SECONDS)
    return Retrying(retry=again, stop=stop, wait=wait_fixed(2), before_sleep=tell, reraise=True)


def end_for_another(run: StoredRun, server: Server, status: Status, reason: str) -> None:
    """End a run whose process is gone, with what its record on this machine still has for it."""
    key = run.tags.get(Tag.TRIAL_KEY) or run.tags.get(Tag.STUDY_KEY, "")
    for log in logs(key) if run.is_own else []:
        if log.id == run.tags.get(Tag.RECORD):
            deliver(log, server, status, reason)
            return
    server.log(run.run_id, tags={Tag.FAILURE: reason})
    server.set_status(run.run_id, status)


def deliver(log: EventLog, server: Server, status: Status, reason: str) -> Upload:
    """Send what waits in a record whose lock the caller has; what has a result, and has arrived, is removed here.

    A record of this machine without an end is of a process that was killed: its run ends with this status and reason.
    That of another machine stays open: its process may still train.
    """
    if log.end is None and log.is_of_this_machine:
        log.append(Event(status=status, tags={Tag.FAILURE: reason}))
    upload = Upload(log, server)
    upload.push()
    if upload.done and (log.has_result or (upload.run and is_result(upload.run))):
        log.remove()
    return upload
