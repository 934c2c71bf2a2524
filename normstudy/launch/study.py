"""One trial, or the many of a study: which are left to train, who trains them, and how each ended."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.errors import Interrupted, ResultWaits, StudyError
from normstudy.experiment import Experiment
from normstudy.launch.local import Processes, preload
from normstudy.launch.registry import GONE, LEFT, Outcome, Registry, State, Trial
from normstudy.launch.worker import Job, Stop, Work, run_trials, train_leased
from normstudy.provenance import require_archives, usable_cores
from normstudy.tracking import Artifact, Tag
from normstudy.tracking.client import Server
from normstudy.tracking.event_log import STATE, Event, logs
from normstudy.tracking.run import Lease, LeasedRun, write_json
from normstudy.tracking.store import chosen_experiment, connect, experiment_name, first_line, has_store, identity
from normstudy.tracking.uploader import Uploader
from normstudy.train import build_model, pick_device


@runtime_checkable
class Engine(Protocol):
    """Where jobs run. It has `run_trials` called with each job's work in another process, and tells the study when that
    process is gone."""

    def __call__(self, study: "OpenStudy", jobs: Sequence[Job], stop_signal: Stop) -> None: ...


@dataclass(kw_only=True)
class OpenStudy:
    """A study while it runs: gives out work, and keeps how each trial ended."""

    registry: Registry
    parent: str
    tags: Mapping[str, str]
    force: bool
    bar: "tqdm[Any]"
    outcomes: dict[str, Outcome]

    def work(self, job: Job) -> Work:
        """The job, for a process of its own."""
        return Work(
            configs=job,
            experiment=self.registry.experiment,
            parent=self.parent,
            tags=self.tags,
            force=self.force,
            tracking_uri=os.environ["MLFLOW_TRACKING_URI"] if self.registry.server else None,
            stale=self.registry.stale,
            state=os.environ.get(STATE),
        )

    def conclude(self, work: Work) -> None:
        """The process of this work is gone: each of its runs has ended, or is ended now."""
        for config in work.configs:
            key = config.trial_key
            try:
                state, what = self.registry.conclude(key, self.tags[Tag.LAUNCHER], force=self.force)
                self.outcomes[key] = state, what or (GONE if state == State.NEW else "")
            except Exception as error:  # whatever the way to a server raises
                reason = f"its record waits here for `python -m normstudy sync`: {first_line(error)}"
                self.outcomes[key] = (State.UNSENT, reason)


def single(
    config: TrainConfig, *, force: bool = False, offline: bool = False, stop_signal: Stop = lambda: None
) -> None:
    """Train one configuration as one run; one that has finished is left alone, an unfinished one goes on.

    Raises `ConfigError` before any run exists, `StudyError` for a trial that diverged before or runs elsewhere,
    `ResultWaits` when the server has not got the result.
    """
    check([config])
    registry = open_registry(offline=offline)
    refused = train_leased(registry, (config,), force=force, stop_signal=stop_signal)
    name = identity(config)[Tag.NAME]
    if config.trial_key in refused:
        state, what = refused[config.trial_key]
        if state != State.FINISHED:
            raise StudyError(f"{name}: {in_words(state, what)}")
        print(f"{name} has finished already: {what}; --force trains it again")
    elif offline:
        print(f"{name} waits on this machine; `python -m normstudy sync` sends it to a tracking server")


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
    """Run every trial that has not finished, under one parent run; the parent's id, or its record without a server,
    and nothing where no trial was left.

    `stack` trials that differ only in their seed train in lock-step in one process (0: by `lock_steps`), `workers`
    processes run at once (0: by `side_by_side`), on this machine unless an `engine` takes them elsewhere.

    Raises `ConfigError` before any run exists, `StudyError` naming the trials that neither finished nor run elsewhere,
    `Interrupted` after a stop signal, once every process has ended its runs.
    """
    configs = experiment.configs
    check(configs)
    registry = open_registry(offline=offline)
    known = registry.states([config.trial_key for config in configs])
    left = [
        config
        for config in configs
        if (force and known[config.trial_key][0] != State.RUNNING) or known[config.trial_key][0] in LEFT
    ]
    if len(left) < len(configs):
        print(f"{len(configs) - len(left)} of {len(configs)} trials are left as they are", flush=True)
    if not left:
        require_finished(experiment, known)
        return ""
    if engine is None:
        preload()
    jobs = lock_steps(left, stack)
    tags: dict[str, str] = {Tag.STUDY: experiment.name, Tag.LAUNCHER: uuid.uuid4().hex}
    if engine is None:
        workers = workers or side_by_side([job[0] for job in jobs])
        tags[Tag.SIDE_BY_SIDE] = str(workers)
    with open_parent(experiment, registry, tags) as (record, run):
        with tqdm(total=sum(c.epochs for c in left), unit="epoch", disable=None) as bar:
            opened = OpenStudy(
                registry=registry,
                parent=record,
                tags={**tags, Tag.PARENT: run} if run else tags,
                force=force,
                bar=bar,
                outcomes=dict(known),
            )
            (engine or LocalEngine(workers))(opened, jobs, stop_signal)
        if signal_number := stop_signal():
            raise Interrupted(signal_number)
        require_finished(experiment, opened.outcomes)
    return run or record


def dry_run(experiment: Experiment, *, offline: bool = False) -> list[tuple[str, State, str]]:
    """Name and state of each trial, and its run; nothing is trained or made."""
    check(experiment.configs)
    keys = [config.trial_key for config in experiment.configs]
    known: Mapping[str, Outcome] = dict.fromkeys(keys, (State.NEW, ""))
    if offline or has_store():
        known = open_registry(offline=offline).states(keys)
    return [(identity(config)[Tag.NAME], *known[key]) for key, config in zip(keys, experiment.configs, strict=True)]


def check(configs: Sequence[TrainConfig]) -> None:
    """Raises `ConfigError` or `DataError` for what no process could train."""
    different = {(one.dataset, one.device, one.norm, one.network, one.groups): one for one in configs}
    for config in different.values():  # a network of torch takes a millisecond to build, in each of 100,000 trials
        require_archives(config.dataset)
        pick_device(config.device)
        build_model(config)


@contextmanager
def open_parent(
    experiment: Experiment, registry: Registry, tags: Mapping[str, str]
) -> Iterator[tuple[str, str | None]]:
    """The run of the study itself, over those of its trials: ids of its record and, where there is a server, its run.

    That of an earlier start on this machine goes on, unless it has finished; one whose process lives is shared. It ends
    as its block ends.
    """
    keys = sorted(config.trial_key for config in experiment.configs)
    key = sha256("+".join([experiment.name, *keys]).encode()).hexdigest()[:16]
    begun = registry.begin(Trial(key=key, name=f"study {experiment.name}", key_tag=Tag.STUDY_KEY))
    if not isinstance(begun, Lease):
        yield record_of(key), None
        return
    with ExitStack() as stack:
        stack.callback(begun.lock.release)
        run = LeasedRun(begun, stack.enter_context(Uploader()) if begun.upload else None)
        try:
            run.log.append(Event(status="RUNNING", tags={**tags, Tag.NOTE: experiment.question}))
            trials = [{"variant": config.variant, **config.model_dump()} for config in experiment.configs]
            plan: dict[str, Any] = {"study": experiment.name, "question": experiment.question, "trials": trials}
            plan |= {"may_diverge": experiment.may_diverge, "measures": experiment.measures}
            write_json(run.log.files / "study" / Artifact.STUDY, plan)
            run.log.add_files("study")
            run.tell()
            yield begun.log.id, begun.upload.run_id if begun.upload else None
        except BaseException as error:
            run.end(error)
            raise
        run.end(None)


def record_of(key: str) -> str:
    """Id of the record of a study that another process is just making, or has made."""
    patience, is_empty = stop_after_delay(30), retry_if_result(lambda found: not found)
    return str(Retrying(retry=is_empty, stop=patience, wait=wait_fixed(0.1))(lambda: logs(key))[-1].id)


def open_registry(*, offline: bool) -> Registry:
    """Who decides what is left to train. Raises `TrackingError` when the server can't be used."""
    if offline:
        return Registry(server=None, experiment=experiment_name())
    connect()
    waiting = os.environ.pop("MLFLOW_RUN_ID", None)  # of `mlflow run`
    return Registry(server=Server(), experiment=chosen_experiment(waiting), waiting=waiting)


def in_words(state: State, what: str) -> str:
    """A trial's state, and where something says more, that."""
    return f"{state} ({what})" if what else str(state)


def require_finished(experiment: Experiment, outcomes: Mapping[str, Outcome]) -> None:
    """Says which trials run elsewhere. Raises `StudyError` naming each other trial that has not finished, its state,
    its run and why, one that diverged only where the experiment doesn't expect it; `ResultWaits` where all that lacks
    is on this machine."""
    lacking: dict[State, list[str]] = {}
    for config in experiment.configs:
        state, what = outcomes[config.trial_key]
        if state != State.FINISHED and not (experiment.may_diverge and state == State.DIVERGED):
            lacking.setdefault(state, []).append(f"{identity(config)[Tag.NAME]} is {in_words(state, what)}")
    for line in lacking.pop(State.RUNNING, []):
        print(line, flush=True)
    if lacking:
        error = ResultWaits if set(lacking) == {State.UNSENT} else StudyError
        raise error(f"study {experiment.name}: {'; '.join(line for lines in lacking.values() for line in lines)}")


class LocalEngine:
    """Processes of this machine, `workers` at once; each calls `trial`."""

    def __init__(self, workers: int, trial: Callable[[Work], None] = run_trials) -> None:
        self.workers, self.trial = workers, trial

    def __call__(self, study: OpenStudy, jobs: Sequence[Job], stop_signal: Stop) -> None:
        processes = Processes(study.bar)

        def run(job: Job) -> None:
            if not processes.stopped:
                work = study.work(job)
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
