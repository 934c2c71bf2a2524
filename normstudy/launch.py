"""One trial, or the many of a study: which are left to train, who trains them, and how each ended."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter
from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.courier import Courier
from normstudy.errors import Interrupted, NormstudyError, StudyError
from normstudy.experiments import Experiment
from normstudy.ledger import Ledger, LocalLedger, ServerLedger
from normstudy.processes import Processes, preload
from normstudy.provenance import require_archives, usable_cores
from normstudy.record import RunRecord, write_json
from normstudy.signals import StopSignal, nobody_reads_output
from normstudy.spool import STATE
from normstudy.tracking import Artifact, Tag, first_line, has_store, identity, use
from normstudy.train import build_model, pick_device, train_together
from normstudy.trial_log import SpoolTracker
from normstudy.trials import Claim, State

Stop = Callable[[], int | None]
Job = tuple[TrainConfig, ...]  # trials in lock-step in one process
Outcome = tuple[State, str]  # and the run, with the reason where it failed


@runtime_checkable
class Engine(Protocol):
    """Where jobs run. For each job it asks the study to begin it, has `run_trials` called with the answer in another
    process, and tells the study when that process is gone."""

    def __call__(self, study: "OpenStudy", jobs: Sequence[Job], stop_signal: Stop) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the process of a job is given."""

    trials: tuple[tuple[TrainConfig, Claim], ...]
    tracking_uri: str | None  # None: without a server
    store: str | None  # the URI without a password, which names the folder of records
    state: str | None = None  # `NORMSTUDY_STATE`: a process may come from a server that was started before it was set

    def to_json(self) -> bytes:
        """For a machine elsewhere."""
        return TypeAdapter(Work).dump_json(self)

    @classmethod
    def from_json(cls, text: bytes) -> "Work":
        """The same work again."""
        return TypeAdapter(Work).validate_json(text)


@dataclass(kw_only=True)
class OpenStudy:
    """A study while it runs: gives out work, and keeps how each trial ended."""

    ledger: Ledger
    parent: Claim
    tags: Mapping[str, str]
    force: bool
    bar: "tqdm[Any]"
    outcomes: dict[str, Outcome]

    def begin(self, job: Job) -> Work | None:
        """Leave to train the job's trials, but for those that another process has meanwhile."""
        claimed = []
        for config in job:
            tags = {**identity(config), **self.tags}
            claim = self.ledger.claim(config.trial_key, Tag.TRIAL_KEY, tags, self.parent, force=self.force)
            self.outcomes[config.trial_key] = (State.UNFINISHED, "") if claim else (State.RUNNING, "")
            if claim:
                claimed.append((config, claim))
        if not claimed:
            return None
        state = os.environ.get(STATE)
        return Work(trials=tuple(claimed), tracking_uri=self.ledger.uri, store=self.ledger.store, state=state)

    def conclude(self, work: Work) -> None:
        """The process of this work is gone: each of its runs has ended, or is ended now."""
        for config, claim in work.trials:
            try:
                self.outcomes[config.trial_key] = self.ledger.settle(claim)
            except Exception as error:  # whatever the way to a server raises
                folder = claim.folder(self.ledger.store)
                reason = f"its record waits in {folder} for `python -m normstudy sync`: {first_line(error)}"
                self.outcomes[config.trial_key] = (State.UNSENT, reason)


def single(
    config: TrainConfig, *, force: bool = False, offline: bool = False, stop_signal: Stop = lambda: None
) -> None:
    """Train one configuration as one run; one that has finished is left alone, an unfinished one goes on.

    Raises `ConfigError` before any run exists, `StudyError` for a trial that diverged before or runs elsewhere.
    """
    check([config])
    key, tags = config.trial_key, identity(config)
    with open_ledger(offline=offline) as ledger:
        state, what = ledger.states([key], Tag.TRIAL_KEY)[key]
        claim = None
        if force or state in (State.NEW, State.UNFINISHED):
            claim = ledger.claim(key, Tag.TRIAL_KEY, tags, None, force=force)
            if claim is None:  # another process was first: whose run it is may show only in a moment
                state, what = ledger.states([key], Tag.TRIAL_KEY)[key]
                state = State.RUNNING if state == State.NEW else state
        if claim is None:
            ledger.point_to(key, tags)
        if claim is None and state == State.FINISHED:
            print(f"{tags[Tag.NAME]} has finished already: {what}; --force trains it again")
        elif claim is None:
            raise StudyError(f"{tags[Tag.NAME]}: {in_words(state, what)}")
        else:
            train_claimed([(config, claim)], ledger.store, stop_signal)


def train_claimed(trials: Sequence[tuple[TrainConfig, Claim]], store: str | None, stop_signal: Stop) -> None:
    """Train into claimed runs, while a courier brings what they log to the server; without a `store` nobody does."""
    with ExitStack() as stack:
        courier = stack.enter_context(Courier()) if store else None
        tracker = SpoolTracker([claim for _, claim in trials], store, courier)
        train_together([config for config, _ in trials], tracker, stop_signal=stop_signal)


def study(
    experiment: Experiment,
    *,
    engine: Engine | None = None,
    workers: int = 0,
    stack: int = 0,
    force: bool = False,
    offline: bool = False,
    stop_signal: Stop = lambda: None,
) -> str:
    """Run every trial that has not finished, under one parent run; the parent's id, or its record without a server.

    `stack` trials that differ only in their seed train in lock-step in one process (0: by `lock_steps`), `workers`
    processes run at once (0: by `side_by_side`), on this machine unless an `engine` takes them elsewhere.

    Raises `ConfigError` before any run exists, `StudyError` naming the trials that did not finish, `Interrupted`
    after a stop signal, once every process has ended its runs.
    """
    configs = experiment.configs
    check(configs)
    if engine is None:
        preload()
    with open_ledger(offline=offline) as ledger:
        known = ledger.states([config.trial_key for config in configs], Tag.TRIAL_KEY)
        wanted = (State.NEW, State.UNFINISHED)
        left = [config for config in configs if force or known[config.trial_key][0] in wanted]
        jobs = lock_steps(left, stack)
        if len(left) < len(configs):
            print(f"{len(configs) - len(left)} of {len(configs)} trials are left as they are", flush=True)
        tags: dict[str, str] = {Tag.STUDY: experiment.name}
        if engine is None:
            workers = workers or side_by_side([job[0] for job in jobs])
            tags[Tag.SIDE_BY_SIDE] = str(workers)
        with open_parent(experiment, ledger, tags, force=force) as parent:
            with tqdm(total=sum(c.epochs for c in left), unit="epoch", disable=None) as bar:
                opened = OpenStudy(
                    ledger=ledger, parent=parent, tags=tags,
                    force=force, bar=bar, outcomes=dict(known),
                )  # fmt: skip
                (engine or LocalEngine(workers))(opened, jobs, stop_signal)
            if signal_number := stop_signal():
                raise Interrupted(signal_number)
            elsewhere = [key for key, (state, _) in opened.outcomes.items() if state == State.RUNNING]
            opened.outcomes |= ledger.states(elsewhere, Tag.TRIAL_KEY)  # they may have finished meanwhile
            require_finished(experiment, opened.outcomes)
    return parent.run_id or parent.attempt


def dry_run(experiment: Experiment, *, offline: bool = False) -> list[tuple[str, State, str]]:
    """Name and state of each trial, and its run; nothing is trained or made. A finished record that a killed process
    left here unsent is sent."""
    check(experiment.configs)
    keys = [config.trial_key for config in experiment.configs]
    if not offline and not has_store():
        known: Mapping[str, Outcome] = dict.fromkeys(keys, (State.NEW, ""))
    else:
        with open_ledger(offline=offline) as ledger:
            known = ledger.states(keys, Tag.TRIAL_KEY)
    return [(identity(config)[Tag.NAME], *known[config.trial_key]) for config in experiment.configs]


def check(configs: Sequence[TrainConfig]) -> None:
    """Raises `ConfigError` or `DataError` for what no process could train."""
    for config in configs:
        require_archives(config.dataset)
        pick_device(config.device)
        build_model(config)


def open_ledger(*, offline: bool) -> Ledger:
    """Who decides what is left to train."""
    return LocalLedger() if offline else ServerLedger()


@contextmanager
def open_parent(experiment: Experiment, ledger: Ledger, tags: Mapping[str, str], *, force: bool) -> Iterator[Claim]:
    """The run of the study itself, over those of its trials: that of an earlier start of the same study, or a new one
    where there is none, or its process lives. It ends as its block ends."""
    keys = sorted(config.trial_key for config in experiment.configs)
    key = sha256("+".join([experiment.name, *keys]).encode()).hexdigest()[:16]
    marks = {**tags, Tag.NAME: f"study {experiment.name}", Tag.NOTE: experiment.question}
    state, _ = ledger.states([key], Tag.STUDY_KEY)[key]
    claim = ledger.claim(key, Tag.STUDY_KEY, marks, None, force=force or state == State.RUNNING)
    claim = claim or ledger.claim(key, Tag.STUDY_KEY, marks, None, force=True)
    assert claim
    with ExitStack() as stack:
        courier = stack.enter_context(Courier()) if ledger.store else None
        record = RunRecord(claim, ledger.store, courier)
        try:
            record.open(marks, {})
            trials = [{"variant": config.variant, **config.model_dump()} for config in experiment.configs]
            with record.artifacts("study") as folder:
                plan: dict[str, Any] = {"study": experiment.name, "question": experiment.question, "trials": trials}
                plan |= {"may_diverge": experiment.may_diverge, "measures": experiment.measures}
                write_json(folder / Artifact.STUDY, plan)
            record.tell()
            yield claim
        except BaseException as error:
            record.end(error)
            raise
        record.end(None)


def in_words(state: State, what: str) -> str:
    """A trial's state, and where something says more, that."""
    return f"{state} ({what})" if what else str(state)


def require_finished(experiment: Experiment, outcomes: Mapping[str, Outcome]) -> None:
    """Raises `StudyError` naming each trial that has not finished, its state, its run and why; one that diverged only
    where the experiment doesn't expect it."""
    unfinished = []
    for config in experiment.configs:
        state, what = outcomes[config.trial_key]
        if state != State.FINISHED and not (experiment.may_diverge and state == State.DIVERGED):
            unfinished.append(f"{identity(config)[Tag.NAME]} is {in_words(state, what)}")
    if unfinished:
        raise StudyError(f"study {experiment.name}: {'; '.join(unfinished)}")


def run_trials(work: Work) -> None:
    """What the process of a job does: train into the runs that wait for it."""
    stop_signal = StopSignal(gone=nobody_reads_output)
    if work.state:
        os.environ[STATE] = work.state
    if work.tracking_uri:
        use(work.tracking_uri)
    try:
        train_claimed(work.trials, work.store, stop_signal)
    except NormstudyError as error:
        print(f"normstudy: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


class LocalEngine:
    """Processes of this machine, `workers` at once; each calls `trial`."""

    def __init__(self, workers: int, trial: Callable[[Work], None] = run_trials) -> None:
        self.workers, self.trial = workers, trial

    def __call__(self, study: OpenStudy, jobs: Sequence[Job], stop_signal: Stop) -> None:
        processes = Processes(study.bar)

        def run(job: Job) -> None:
            if not processes.stopped and (work := study.begin(job)):
                processes.run(job[0].variant, self.trial, work)
                study.conclude(work)

        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            pending = {pool.submit(run, job) for job in jobs}
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.2)
                    for future in done:
                        future.result()
                    if stop_signal():
                        processes.stop()
            except BaseException:  # an interrupted notebook, a process that can't be started
                processes.stop()
                raise


def lock_steps(configs: Sequence[TrainConfig], stack: int) -> list[Job]:
    """The jobs of a study: the trials that differ only in their seed, `stack` of them a job.

    0 chooses: all of them on a GPU, which one such network leaves idle; one on a CPU, though 2 to 4 in lock-step are a
    sixth faster there: a trial's last bits would depend on how many stand beside it.
    """
    same_but_seed: dict[TrainConfig, list[TrainConfig]] = {}
    for config in configs:
        same_but_seed.setdefault(config.model_copy(update={"seed": 0}), []).append(config)
    jobs: list[Job] = []
    for shared, trials in same_but_seed.items():
        size = stack or (len(trials) if pick_device(shared.device).type == "cuda" else 1)
        jobs += [tuple(trials[start : start + size]) for start in range(0, len(trials), size)]
    return jobs


def side_by_side(configs: Sequence[TrainConfig]) -> int:
    """How many jobs, given by one configuration each, to run at once: as many as the cores have room for with their
    pinned threads.

    Fewer than two rounds of jobs all start together instead: three single-thread trials sharing 2 cores finish sooner
    than two and then one, which leaves a core idle.
    """
    room = max(1, usable_cores() // max((config.threads for config in configs), default=1))
    return len(configs) if len(configs) < 2 * room else room
