"""Brings one record to its run: compares what the log says with what the server has, and sends what lacks. A server
that was restored from a backup neither doubles an epoch nor misses one."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from normstudy.errors import NormstudyError, Refused, RunDeleted, ServerAway, Superseded
from normstudy.tracking import Tag, TrainedModel, is_of_process
from normstudy.tracking.client import Content, Server, StoredRun, canonical, folder_of, is_result, now
from normstudy.tracking.event_log import Event, EventLog, RunState
from normstudy.tracking.store import where


class Upload:
    """One record on its way to its run, by the one thread that sends."""

    def __init__(self, log: EventLog, server: Server) -> None:
        self.log, self.server, self.begin = log, server, log.begin
        self.bell = threading.Event()  # of the thread that sends: there is something new
        self.trains = False  # whether a process of this machine trains it now
        self.study = self.begin.parent  # id of the record of the study that its run is made for
        self.run: StoredRun | None = None
        self.content: Content | None = None  # what the run holds, as far as is known; None: to be asked
        self.sent: Sequence[Event] | None = None  # the log's events, when all in them was last sent
        self.unwritten_end: Event | None = None  # of a run whose disk is full
        self.stopped: NormstudyError | None = None  # why nothing more is sent
        self.done = False  # the run has ended, and all is there

    @property
    def run_id(self) -> str:
        assert self.run
        return self.run.run_id

    def attach(self, waiting: str | None = None) -> None:
        """Find the run of this record, or make it. `waiting` is an empty run to use instead of a new one. Of runs that
        several processes made of copies of one record at once, all keep the same one.

        Raises `RunDeleted`, or `Superseded` when its trial has finished in another run.
        """
        begin, experiment = self.begin, self.server.experiment(self.begin.experiment)
        known = self.server.runs(experiment, Tag.RECORD, self.log.id, deleted=True)
        if known and all(run.deleted for run in known):
            raise RunDeleted(f"{begin.name}: run {known[0].run_id} was deleted")
        if not known:
            if (other := self._rival(experiment, None)) and other.status == "FINISHED":
                raise Superseded(f"{begin.name} has finished elsewhere, as run {other.run_id}")
            made = self._make(experiment, waiting)
            known = self.server.runs(experiment, Tag.RECORD, self.log.id)
            if (kept := canonical(known)) and kept.run_id != made:
                self.server.delete(made)
        self.run, self.content = canonical([run for run in known if not run.deleted]), None
        if self.run is None:
            raise RunDeleted(f"{begin.name}: its run was deleted as it was made")

    def _make(self, experiment: str, waiting: str | None) -> str:
        begin = self.begin
        marks: dict[str, str] = {
            Tag.NAME: begin.name,
            begin.key_tag: self.log.key,
            Tag.RECORD: self.log.id,
            Tag.MACHINE: begin.machine,
            Tag.HOST: begin.host,
            Tag.HEARTBEAT: now(),
            **({Tag.REPLACES: ",".join(begin.replaces)} if begin.replaces else {}),
        }
        if self.study:
            studies = self.server.runs(experiment, Tag.RECORD, self.study)
            if not studies:
                raise ServerAway(f"tracking server {where()}: the study of {begin.name} is not there")
            marks[Tag.PARENT] = studies[0].run_id
        if waiting:
            self.server.log(waiting, tags=marks)
        return waiting or self.server.create(experiment, marks)

    def _rival(self, experiment: str, own: str | None) -> StoredRun | None:
        """The run that counts for this trial, if that is not `own`; studies have no rivals. A process that trains gives
        way to one that runs or has diverged, too; a result that is there to be sent only to one that has finished."""
        if self.begin.key_tag != Tag.TRIAL_KEY:
            return None
        gives_way = self.trains and not self.log.has_result
        counts = [
            run
            for run in self.server.runs(experiment, Tag.TRIAL_KEY, self.log.key)
            if run.status == "FINISHED" or (gives_way and (is_result(run) or run.status == "RUNNING"))
        ]
        best = canonical([run for run in counts if run.run_id not in self.begin.replaces])
        return None if best is None or best.run_id == own else best

    def is_ahead(self) -> bool:
        """Whether its run has epochs that the log lacks: the record was replaced by an older copy of itself."""
        assert self.run
        self.content, logged = self.server.content(self.run, ()), self.log.epochs
        return any(steps - logged for steps in self.content.steps.values())

    def require_lease(self) -> None:
        """The run is this process's to write. Raises `Superseded` when another run counts, `RunDeleted`, and
        `ServerAway` when the server has lost the run: the next push makes it anew."""
        run = self.server.get(self.run_id)
        if run is None:
            lost, self.run = self.run_id, None
            raise ServerAway(f"tracking server {where()}: it has lost run {lost}")
        if run.deleted:
            raise RunDeleted(f"{self.begin.name}: run {run.run_id} was deleted; the same command trains it anew")
        if by := run.tags.get(Tag.SUPERSEDED_BY):
            raise Superseded(f"{self.begin.name}: run {run.run_id} was taken over by run {by}")
        if rival := self._rival(run.experiment_id, run.run_id):
            self.server.retire(run.run_id, rival.run_id, f"run {rival.run_id} has this trial")
            raise Superseded(f"{self.begin.name}: run {rival.run_id} has this trial, run {run.run_id} ends")
        self.run = run

    def push(self) -> None:
        """Send what the server lacks. Raises `ServerAway`, `Refused`, `Superseded`, or `StorageError` for a record that
        is damaged."""
        events, unwritten = self.log.events(), self.unwritten_end
        if events == self.sent and unwritten is None:
            return
        wanted = RunState.after([*events, *([unwritten] if unwritten else [])])
        if self.run is None:
            self.attach()
        self.require_lease()
        assert self.run
        if is_result(self.run) and not self.log.has_result:  # a later copy of this record has brought it to its end
            self.sent, self.done = events, True
            return
        try:
            self._send(wanted)
            if wanted.end:
                self.content = None  # asked anew: the server may have been restored from a backup since
                self._send(wanted)
                self._end(wanted.end, wanted.model)
        except Refused:
            self.require_lease()  # a deleted run refuses everything
            raise
        self.sent = events
        if unwritten:  # one that was set meanwhile is still to be sent
            self.unwritten_end = None

    def _send(self, wanted: RunState) -> None:
        """What the run has not of this, as far as its content is known."""
        assert self.run
        has = self.content = self.content or self.server.content(self.run, {folder_of(name) for name in wanted.files})
        if wanted.end is None and self.run.status != "RUNNING":
            self.server.set_status(self.run_id, "RUNNING")
            self._forget_failure({})
        # `mlflow run` has logged its -P values as they were typed, and MLflow refuses another spelling of one
        params = {name: value for name, value in wanted.params.items() if name not in self.run.params}
        tags = {name: value for name, value in wanted.tags.items() if self.run.tags.get(name) != value}
        if any(map(is_of_process, tags)):  # they are one tag, and so sent together
            tags = {name: value for name, value in self.run.tags.items() if is_of_process(name)} | tags
        if params or tags:
            self.server.log(self.run_id, tags=tags, params=params)
        if len(wanted.datasets) > has.datasets:
            self.server.log_datasets(self.run_id, wanted.datasets)
            has.datasets = len(wanted.datasets)
        points = [
            (name, value, event.time, event.step)
            for event in wanted.epochs.values()
            for name, value in event.metrics.items()
            if event.step not in has.steps.setdefault(name, set())
        ]
        if points:
            self.server.log_metrics(self.run_id, points)
        for name, _, _, step in points:
            has.steps[name].add(step)
        for name, (folder, digest) in wanted.files.items():
            size = self.log.file(folder, name).stat().st_size
            if has.files.get(name) != size:
                self.server.upload(self.run_id, self.log.file(folder, name, digest), folder_of(name))
                has.files[name] = size
        if (trained := wanted.model) and not has.model:
            folder, digest = wanted.files.get(trained.weights, ("", "unknown"))
            self.server.log_model(self.run_id, trained, self.log.file(folder, trained.weights, digest))
            has.model = True

    def _end(self, end: Event, trained: TrainedModel | None) -> None:
        """End the run, and register the model of one that finished; if it was taken over just before, it must not
        count."""
        self.require_lease()
        self._forget_failure(end.tags)  # of a process whose content the store refused, and takes now
        if end.tags:
            self.server.log(self.run_id, tags=end.tags)
        self.server.set_status(self.run_id, str(end.status))
        try:
            self.require_lease()
        except Superseded:
            with suppress(Refused):  # it was deleted
                self.server.set_status(self.run_id, "KILLED")
            raise
        if end.status == "FINISHED":
            self.server.publish(self.run, trained.registered if trained else "")
        self.done = True

    def _forget_failure(self, kept: Mapping[str, str]) -> None:
        assert self.run
        stale = [tag for tag in (Tag.FAILURE, Tag.FAILURE_STEP) if tag in self.run.tags and tag not in kept]
        if stale:
            self.server.drop_tags(self.run_id, stale)
            others = {tag: value for tag, value in self.run.tags.items() if tag not in stale}
            self.run = replace(self.run, tags=others)

    def give_up(self) -> str:
        """End a run whose content is refused as FAILED; a line that says what became of it."""
        reason = f"not all of it could be stored: {self.stopped}"
        try:
            self.require_lease()
            self.server.log(self.run_id, tags={Tag.FAILURE: reason})
            self.server.set_status(self.run_id, "FAILED")
        except (NormstudyError, AssertionError):
            reason += "; its run stays as it is"
        return f"{self.begin.name}: {reason}; its record waits in {self.log.folder} for `python -m normstudy sync`"

    def beat(self) -> None:
        """Tell the server that this process lives. Raises `Superseded` when the run was deleted or taken over."""
        if self.run and not self.done and not self.stopped and (run := self.server.get(self.run_id)):
            if run.deleted or Tag.SUPERSEDED_BY in run.tags:
                raise Superseded(f"{self.begin.name}: run {run.run_id} was deleted or taken over")
            self.server.log(run.run_id, tags={Tag.HEARTBEAT: now()})
