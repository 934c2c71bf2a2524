"""Many trials: processes side by side, under one parent run."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.errors import Interrupted, NormstudyError, StudyError
from normstudy.experiments import Experiment
from normstudy.processes import Processes, preload
from normstudy.provenance import usable_cores
from normstudy.signals import StopSignal
from normstudy.tracking import connect, end_if_left_running, open_study, status_of
from normstudy.train import build_model, pick_device, train_together
from normstudy.trial_log import MlflowTracker


def study(
    experiment: Experiment, *, workers: int = 0, stack: int = 0, stop_signal: Callable[[], int | None] = lambda: None
) -> str:
    """Run every trial, and return their parent run's id.

    `stack` trials that differ only in their seed train in lock-step in one process (0: by `lock_steps`), `workers`
    processes run at once (0: by `side_by_side`).

    Raises `ConfigError` before any run exists, `StudyError` naming the trials that did not finish, `Interrupted`
    after a stop signal, once every process has ended its runs.
    """
    preload()
    for config in experiment.configs:
        pick_device(config.device)
        build_model(config)
    jobs = lock_steps(experiment.configs, stack)
    workers = workers or side_by_side([job[0] for job in jobs])
    with (
        open_study(experiment.name, experiment.question, experiment.configs, workers) as (parent_id, run_ids),
        tqdm(total=sum(c.epochs for c in experiment.configs), unit="epoch", disable=None) as bar,
    ):
        run_of = {config.trial_key: run_id for config, run_id in zip(experiment.configs, run_ids, strict=True)}
        processes = Processes(bar)

        def run(job: tuple[TrainConfig, ...]) -> None:
            processes.run(job[0].variant, run_trials, job, run_of, connect())
            for config in job:
                end_if_left_running(run_of[config.trial_key])

        with ThreadPoolExecutor(workers) as pool:
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
        if signal_number := stop_signal():
            raise Interrupted(signal_number)
        states = [(c.variant, run_id, status_of(run_id)) for c, run_id in zip(experiment.configs, run_ids, strict=True)]
        if unfinished := [f"{name} is {state} (run {run_id})" for name, run_id, state in states if state != "FINISHED"]:
            raise StudyError(f"study {experiment.name}: {', '.join(unfinished)}")
    return parent_id


def run_trials(configs: tuple[TrainConfig, ...], run_ids: dict[str, str], tracking_uri: str) -> None:
    """What the process of a job does: train its configurations into the runs that wait for them, by trial key."""
    stop_signal = StopSignal()
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    try:
        train_together(configs, MlflowTracker(run_ids), stop_signal=stop_signal)
    except NormstudyError as error:
        print(f"normstudy: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def lock_steps(configs: Sequence[TrainConfig], stack: int) -> list[tuple[TrainConfig, ...]]:
    """The jobs of a study: the trials that differ only in their seed, `stack` of them a job.

    0 chooses: all of them on a GPU, which one such network leaves idle; one on a CPU, though 2 to 4 in lock-step are a
    sixth faster there: a trial's last bits would depend on how many stand beside it.
    """
    same_but_seed: dict[TrainConfig, list[TrainConfig]] = {}
    for config in configs:
        same_but_seed.setdefault(config.model_copy(update={"seed": 0}), []).append(config)
    jobs: list[tuple[TrainConfig, ...]] = []
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
    room = max(1, usable_cores() // max(config.threads for config in configs))
    return len(configs) if len(configs) < 2 * room else room
