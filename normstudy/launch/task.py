"""A task, which is what one process trains, and an executor, which decides where that process runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from normstudy.config import TrainConfig

STOP_SECONDS = 60.0  # that a task may take to end its runs: a batch, an evaluation, files, a slow server


class Task(BaseModel):
    """What the process of a task is given. As JSON it travels to another machine."""

    model_config = ConfigDict(frozen=True)

    configs: tuple[TrainConfig, ...]  # they train as one stack: all that differs is the seed
    experiment: str  # name
    parent: str  # id of the record of the study
    tags: Mapping[str, str]
    force: bool
    tracking_uri: str | None = Field(repr=False)  # with its password; None: without a server
    stale: Mapping[str, str] = {}  # runs of other machines that the study found dead
    state: str | None = None  # `NORMSTUDY_STATE`: a process may come from a server that was started before it was set


@runtime_checkable
class Executor(Protocol):
    """Where tasks run. It has `run_trials` called with each task in another process, and calls `finalize` once that
    process is gone; this says how each of its trials ended, a line each. A stop signal ends the tasks, in their own
    time."""

    def __call__(
        self,
        tasks: Sequence[Task],
        finalize: Callable[[Task], list[str]],
        bar: "tqdm[Any]",
        stop_signal: Callable[[], int | None],
    ) -> None: ...
