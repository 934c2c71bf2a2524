"""Many trials: one process each, side by side, under one parent run."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from tqdm import tqdm

from normstudy.config import TrainConfig
from normstudy.errors import Interrupted, StudyError
from normstudy.experiments import Experiment
from normstudy.provenance import PROJECT, usable_cores
from normstudy.tracking import connect, open_study, status_of
from normstudy.train import build_model, pick_device


def study(experiment: Experiment, *, workers: int = 0, stop_signal: Callable[[], int | None] = lambda: None) -> str:
    """Run every trial in a process of its own, `workers` at once (0: by `side_by_side`); return their parent run's id.

    Raises `ConfigError` before any run exists, `StudyError` naming the trials that did not finish, `Interrupted`
    after a stop signal, once every process has ended its run.
    """
    for config in experiment.configs:
        pick_device(config.device)
        build_model(config)
    workers = workers or side_by_side(experiment.configs)
    with (
        open_study(experiment.name, experiment.question, experiment.configs, workers) as (parent_id, run_ids),
        tqdm(total=sum(c.epochs for c in experiment.configs), unit="epoch", disable=None) as bar,
    ):
        processes = Processes(bar)
        with ThreadPoolExecutor(workers) as pool:
            trials = zip(experiment.configs, run_ids, strict=True)
            pending = {pool.submit(processes.run, config, run_id) for config, run_id in trials}
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


def side_by_side(configs: tuple[TrainConfig, ...]) -> int:
    """How many trials to run at once: as many as the cores have room for with their pinned threads.

    Fewer than two rounds of trials all start together instead: three single-thread trials sharing 2 cores finish
    sooner than two and then one, which leaves a core idle.
    """
    room = max(1, usable_cores() // max(config.threads for config in configs))
    return len(configs) if len(configs) < 2 * room else room


class Processes:
    """The processes of the trials; their output, prefixed, is passed on line by line."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.bar = bar
        self.lock = Lock()
        self.alive: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(self, config: TrainConfig, run_id: str) -> None:
        """Train one configuration into the run that waits for it, unless a stop came first."""
        threads = str(config.threads)
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": connect(),
            "MLFLOW_RUN_ID": run_id,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            # keep freed memory: glibc gives each batch's large maps back and faults them in again, 10 % of an epoch
            "MALLOC_MMAP_THRESHOLD_": str(2**30),
            "MALLOC_TRIM_THRESHOLD_": str(2**31),
        }
        with self.lock:
            if self.stopped:
                return
            process = subprocess.Popen(
                [sys.executable, "-m", *config.command().split()[2:]],
                cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            self.alive.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            with self.lock:
                self.bar.write(f"{config.variant:8s} {line.rstrip()}", file=sys.stdout)
                self.bar.update(line.startswith("epoch "))
        process.wait()
        with self.lock:
            self.alive.discard(process)

    def stop(self) -> None:
        """Ask every process to end its run, and start no more."""
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.terminate()
