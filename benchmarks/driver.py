"""What a study's driver spends on each of many trials that do nothing: `python -m benchmarks.driver 1000`.

The trials are real to the driver: it asks which are left, gives out the work of each, and reads how its run ended. Two
executors: one that makes and ends each run in the driver's own thread, whose time is taken off, so that the rest is the
driver's; and normstudy's own processes.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlflow

from normstudy.config import TrainConfig
from normstudy.experiment import Experiment
from normstudy.launch.local import LocalExecutor
from normstudy.launch.registry import Trial
from normstudy.launch.study import study
from normstudy.launch.task import Executor, Task
from normstudy.launch.worker import registry_of
from normstudy.tracking import Tag
from normstudy.tracking.run import Lease
from normstudy.tracking.store import identity


def end_runs(task: Task) -> None:
    """A trial that does nothing: its runs are made, and end as FINISHED."""
    registry = registry_of(task)
    for config in task.configs:
        lease = registry.begin(Trial(key=config.trial_key, name=identity(config)[Tag.NAME], parent=task.parent))
        assert isinstance(lease, Lease)
        assert lease.upload
        mlflow.MlflowClient().set_terminated(lease.upload.run_id, "FINISHED")
        lease.log.remove()
        lease.lock.release()


class InTheDriver:
    """Makes and ends each run at once, in the driver's thread; `seconds` is the time that this took."""

    seconds = 0.0

    def __call__(
        self,
        tasks: Sequence[Task],
        finalize: Callable[[Task], list[str]],
        bar: Any,
        stop_signal: Callable[[], int | None],
    ) -> None:
        for task in tasks:
            began = time.perf_counter()
            end_runs(task)
            self.seconds += time.perf_counter() - began
            finalize(task)


def seconds_of(norm: str, count: int, executor: Executor) -> tuple[float, float]:
    """Wall and CPU seconds of the driver for a study of so many new trials."""
    configs = tuple(TrainConfig(norm=norm, seed=seed, device="cpu") for seed in range(count))
    wall, processor = time.perf_counter(), time.process_time()
    study(Experiment(name="trivial", question="?", configs=configs), executor=executor)
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Prints milliseconds a trial."""
    count = int(sys.argv[1])
    os.environ["TQDM_DISABLE"] = "1"
    alone = InTheDriver()
    wall, _ = seconds_of("gn", count, alone)
    several = max(2, count // 50)
    wall_processes, processor = seconds_of("ln", several, LocalExecutor(2, end_runs))
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
