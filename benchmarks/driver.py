"""What a study's driver spends on each of many trials that do nothing: `python -m benchmarks.driver 1000`.

The trials are real to the driver: it makes and claims a run for each, and reads how it ended. Two engines: one that
ends each run in the driver's own thread, so that the wall time is the driver's; and normstudy's own processes.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

import mlflow

from normstudy.config import TrainConfig
from normstudy.experiments import Experiment
from normstudy.launch import Engine, Job, LocalEngine, OpenStudy, Stop, Work, study
from normstudy.tracking import use


def end_runs(work: Work) -> None:
    """A trial that does nothing: its runs end as FINISHED."""
    for _, claim in work.trials:
        mlflow.MlflowClient().set_terminated(str(claim.run_id), "FINISHED")


class InTheDriver:
    """Ends each run at once, in the driver's thread; `seconds` is the time that this took."""

    seconds = 0.0

    def __call__(self, study: OpenStudy, jobs: Sequence[Job], stop_signal: Stop) -> None:
        for job in jobs:
            work = study.begin(job)
            assert work
            began = time.perf_counter()
            end_runs(work)
            self.seconds += time.perf_counter() - began
            study.conclude(work)


def end_runs_in_a_process(work: Work) -> None:
    """The same in a process of its own."""
    use(str(work.tracking_uri))
    end_runs(work)


def seconds_of(norm: str, count: int, engine: Engine) -> tuple[float, float]:
    """Wall and CPU seconds of the driver for a study of so many new trials."""
    configs = tuple(TrainConfig(norm=norm, seed=seed, device="cpu") for seed in range(count))
    wall, processor = time.perf_counter(), time.process_time()
    study(Experiment(name="trivial", question="?", configs=configs), engine=engine)
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Prints milliseconds a trial."""
    count = int(sys.argv[1])
    os.environ["TQDM_DISABLE"] = "1"
    alone = InTheDriver()
    wall, _ = seconds_of("gn", count, alone)
    several = max(2, count // 50)
    wall_processes, processor = seconds_of("ln", several, LocalEngine(2, trial=end_runs_in_a_process))
    result = {
        "driver_ms": 1000 * (wall - alone.seconds) / count,
        "processes_wall_ms": 1000 * wall_processes / several,
        "processes_driver_cpu_ms": 1000 * processor / several,
        "trials": count,
        "trials_in_processes": several,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
