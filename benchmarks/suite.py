"""What is measured, in which order and in which process. All times are in seconds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.contenders import BARE, OURS, contenders, shipped_epoch, take_turn
from normstudy.config import VARIANTS, TrainConfig
from normstudy.provenance import PROJECT


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    rounds: int = 4
    variants: tuple[dict[str, Any], ...] = VARIANTS
    threads: tuple[int, ...] = (1, 2)
    images: int = 4_800  # trained on in a turn: 8 % of an epoch, a whole number of batches
    shipped_images: int = 60_000  # trained on in an epoch with the tracker, and in one without
    shipped_rounds: int = 3
    commands: int = 3  # times that a command is run


TINY: dict[str, Any] = {"images": 640, "shipped_images": 640}
QUICK = Settings(rounds=2, variants=VARIANTS[:1], threads=(1,), shipped_rounds=1, commands=1, **TINY)


class Suite:
    """The measurements. Each kind of loop has a process of its own: ours changes how glibc keeps freed memory."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """MLflow's stores and all output of the measured go to `folder`."""
        self.settings, self.folder = settings, folder
        self.processes: dict[str, ProcessPoolExecutor] = {}
        self.configs = [
            TrainConfig(**variant, threads=threads, train_size=settings.images, device="cpu")
            for variant in settings.variants
            for threads in settings.threads
        ]

    def run(self) -> dict[str, Any]:
        """What each stage measured, and how long the stage took."""
        measured: dict[str, Any] = {"stage_seconds": {}}
        with ExitStack() as stack:
            kinds = {name: OURS if name == BARE else name.partition(",")[0] for name in contenders()}
            for kind in dict.fromkeys(kinds.values()):
                process = ProcessPoolExecutor(1, get_context("spawn"), initializer=os.chdir, initargs=(self.folder,))
                stack.enter_context(process)
                self.processes |= {name: process for name in kinds if kinds[name] == kind}
            for stage in (self.turns, self.shipped, self.reports, self.helps):
                begin, name = time.perf_counter(), stage.__name__
                measured[name] = list(stage())
                measured["stage_seconds"][name] = time.perf_counter() - begin
                print(f"{name}: {measured['stage_seconds'][name]:.0f} s", flush=True)
        return measured

    def turns(self) -> Iterator[dict[str, Any]]:
        """In every round each contender takes a turn in each case; what disturbs a round disturbs all alike."""
        turns = [(name, config) for config in self.configs for name in self.processes]
        # one turn that doesn't count, in all processes at once: data, kernels, the workers of DataLoaders
        for warm_up in [self.processes[name].submit(take_turn, name, config) for name, config in turns]:
            warm_up.result()
        for number in range(1, self.settings.rounds + 1):
            for name, config in turns:
                case = {"round": number, "variant": config.variant, "threads": config.threads, "contender": name}
                yield case | self.processes[name].submit(take_turn, name, config).result()

    def shipped(self) -> Iterator[dict[str, Any]]:
        """A whole epoch of the first variant as it is shipped, with and without the tracker in turn."""
        for number in range(1, self.settings.shipped_rounds + 1):
            for tracked in (True, False):
                yield {"round": number, "tracked": tracked, "seconds": self.shipped_seconds(number, tracked)}

    def shipped_seconds(self, number: int, tracked: bool) -> float:
        """Of one epoch, in our process. Another seed in each round: a trial that was stopped would be resumed."""
        options = {"train_size": self.settings.shipped_images % 60_000, "seed": 100 * number}
        config = self.configs[0].model_copy(update=options)
        return self.processes[OURS].submit(shipped_epoch, config, tracked=tracked).result()

    def reports(self) -> Iterator[float]:
        """`normstudy report` of all exported runs."""
        for _ in range(self.settings.commands):
            yield self.command_seconds(
                "report", "--from", str(PROJECT / "results"), "--out", str(self.folder / "pages")
            )

    def helps(self) -> Iterator[float]:
        """`normstudy --help`."""
        for _ in range(self.settings.commands):
            yield self.command_seconds("--help")

    def command_seconds(self, *arguments: str) -> float:
        """`python -m normstudy ARGUMENTS`, from the start of the process to its exit.

        Raises `CalledProcessError` when it fails.
        """
        command, environment = (
            [sys.executable, "-m", "normstudy", *arguments],
            {**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        begin = time.perf_counter()
        subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begin
