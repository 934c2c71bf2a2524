"""What the suite measures: each stage gives records, one dictionary a measurement."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.processes import PROJECT, Workplace, tracking_server, workplace
from normstudy.config import VARIANTS
from normstudy.provenance import usable_cores

Record = dict[str, Any]
ASSIGNMENT = str(PROJECT / "experiments" / "assignment.py")
BARE, OURS, LIGHTNING = "bare limit", "normstudy", "Lightning"
USUAL = {workers: f"usual loop, {workers} workers" for workers in (0, 2)}
CONTENDERS = (BARE, OURS, *USUAL.values(), LIGHTNING)
CHOICES: dict[str, list[str]] = {
    "as shipped: eager, channels_last": [],
    "contiguous": ["--contiguous"],
    "torch.compile": ["--compiled"],
}
EXPERIMENT = '''"""Made for a benchmark."""
from normstudy.config import TrainConfig

def trials():
    return [TrainConfig(**variant, seed=seed) for variant in {variants!r} for seed in range({seeds})]
'''
LOG_FAKE_RUNS = """
from benchmarks.fake_runs import log_fake_runs
from normstudy.config import TrainConfig
log_fake_runs([TrainConfig(**variant) for variant in {variants!r}], {seeds})
"""
TINY: dict[str, Any] = {"scaling_trials": 2, "scaling_epochs": 1, "trivial_trials": 20}
HAS_CUDA = "import torch; print(torch.cuda.is_available())"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    rounds: int = 3
    norms: tuple[str, ...] = ("gn", "bn")
    threads: tuple[int, ...] = tuple(dict.fromkeys((1, usable_cores())))
    images: int = 60_000  # of an epoch
    epochs: int = 20  # of the single run and the study
    growth: tuple[int, ...] = (15_000, 30_000, 60_000)  # training images
    memory: tuple[int, ...] = (5_000, 60_000)  # training images
    report_seeds: tuple[int, ...] = (1, 10, 100)  # of three variants each
    report_rounds: int = 2
    stacks: tuple[int, ...] = (1, 2, 4)
    cuda_seeds: int = 10  # of three variants each
    workers: tuple[int, ...] = (1, 2)
    scaling_trials: int = 4
    scaling_epochs: int = 5
    trivial_trials: int = 1_000

    @classmethod
    def quick(cls, **chosen: Any) -> "Settings":
        """Tiny: to see that everything works. Its figures mean nothing."""
        small: dict[str, Any] = {
            "rounds": 1,
            "report_rounds": 1,
            "images": 640,
            "epochs": 2,
            "growth": (320, 640),
            "memory": (320, 640),
        }
        return cls(**{**small, "report_seeds": (1, 2), "stacks": (1, 2), "cuda_seeds": 2, **TINY, **chosen})

    def size_options(self, epochs: int) -> list[str]:
        """Options of `python -m normstudy` for so many epochs of this size."""
        return ["--epochs", str(epochs), "--train-size", str(self.images % 60_000), "--device", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Settings, a database with MLflow's tables to copy, and the records of the stages that are done."""

    settings: Settings
    tables: Path
    done: dict[str, list[Record]]

    @contextmanager
    def place(self) -> Iterator[Workplace]:
        """A folder and a store for one measurement."""
        with TemporaryDirectory(prefix="benchmark_") as folder, workplace(Path(folder), self.tables) as place:
            yield place

    def stages(self) -> dict[str, Callable[[], list[Record]]]:
        """Every stage by its name, in the order in which they run."""
        rounds = range(1, self.settings.rounds + 1)
        return {
            **{f"epochs {number}": partial(self.epochs, number) for number in rounds},
            "anatomy": self.anatomy,
            "profile": self.profile,
            "choices": self.choices,
            "run": self.run,
            "study": self.study,
            "report": self.report,
            "memory": self.memory,
            "growth": self.growth,
            "cuda": self.cuda,
            "stack": self.stack,
            "scaling": self.scaling,
            "driver": self.driver,
        }

    def epochs(self, number: int) -> list[Record]:
        """One round: an epoch of every contender, for each norm and number of threads."""
        records: list[Record] = []
        for norm, threads in product(self.settings.norms, self.settings.threads):
            case = {"round": number, "norm": norm, "threads": threads}
            for contender, module, workers in self.contenders(records, norm, threads):
                measured = self.contender(module, norm, threads, self.settings.images, workers)
                records.append({"contender": contender, **case, "workers": workers, **measured})
        return records

    def contenders(self, records: list[Record], norm: str, threads: int) -> Iterator[tuple[str, str, int | None]]:
        """Name, module and DataLoader workers; Lightning, where it is installed, has those of the faster usual loop."""
        yield BARE, "bare_limit", None
        yield OURS, "our_epoch", None
        for workers, name in USUAL.items():
            yield name, "usual_loop", workers
        if find_spec("lightning"):
            earlier = [record for name, stage in self.done.items() if name.startswith("epochs ") for record in stage]
            yield LIGHTNING, "lightning_loop", faster_workers([*earlier, *records], norm, threads)

    def contender(self, module: str, norm: str, threads: int, images: int, workers: int | None = None) -> Record:
        """What a contender's process prints."""
        options = ["--norm", norm, "--threads", str(threads), "--images", str(images)]
        if workers is not None:
            options += ["--workers", str(workers)]
        with self.place() as place:
            return place.module(f"benchmarks.{module}", *options, threads=threads).result()

    def anatomy(self) -> list[Record]:
        """From the bare limit to our epoch on one thread, one thing more at a time."""
        records = []
        for norm in self.settings.norms:
            with self.place() as place:
                options = ["--norm", norm, "--images", str(self.settings.images)]
                found = place.module("benchmarks.anatomy", *options).result()["epoch_seconds"]
            records += [{"norm": norm, "what": what, "epoch_seconds": value} for what, value in found.items()]
        return records

    def profile(self) -> list[Record]:
        """Where a training step's time goes, on one thread."""
        records = []
        for norm in self.settings.norms:
            with self.place() as place:
                found = place.module("benchmarks.step_profile", "--norm", norm).result()["milliseconds"]
            records += [{"norm": norm, "kind": kind, "milliseconds": value} for kind, value in found.items()]
        return records

    def choices(self) -> list[Record]:
        """The bare limit as we have it and as we don't, in turn, on one thread; compiled where there is a compiler."""
        records = []
        for norm, (choice, options) in product(self.settings.norms, CHOICES.items()):
            if choice != "torch.compile" or shutil.which("g++"):
                sizes = ["--norm", norm, "--images", str(self.settings.images)]
                with self.place() as place:
                    found = place.module("benchmarks.bare_limit", *sizes, *options).result()
                records.append({"norm": norm, "choice": choice, **found})
        return records

    def run(self) -> list[Record]:
        """A whole run on one thread, by shares of its wall time; the process's exit is the rest's."""
        options = ["train", "--norm", "gn", "--threads", "1", *self.settings.size_options(self.settings.epochs)]
        with self.place() as place:
            shares = place.folder / "shares.json"
            finished = place.module("benchmarks.single_run", str(shares), *options)
            seconds = json.loads(shares.read_text())
        seconds["exit and rest"] += finished.seconds - sum(seconds.values())
        return [
            {"share": share, "seconds": value, "wall_seconds": finished.seconds} for share, value in seconds.items()
        ]

    def study(self) -> list[Record]:
        """The three variants of the assignment, trained side by side, from start to exit."""
        with self.place() as place:
            options = self.settings.size_options(self.settings.epochs)
            finished = place.module("normstudy", "study", ASSIGNMENT, "--seeds", "1", *options)
        return [{"trials": len(VARIANTS), "epochs": self.settings.epochs, "wall_seconds": finished.seconds}]

    def report(self) -> list[Record]:
        """The report of finished runs, from start to exit, from sqlite and through a tracking server."""
        records: list[Record] = []
        for seeds in self.settings.report_seeds:
            with self.place() as place:
                records += self.reports(place, "sqlite", seeds)
            with self.place() as place, tracking_server(place) as served:
                records += self.reports(served, "HTTP", seeds)
        return records

    def reports(self, place: Workplace, access: str, seeds: int) -> list[Record]:
        """Log synthetic runs of the three variants with so many seeds each, then report them, again and again."""
        place.python("-c", LOG_FAKE_RUNS.format(variants=VARIANTS, seeds=seeds))
        experiment = experiment_file(place, VARIANTS, seeds)
        records = []
        for number in range(1, self.settings.report_rounds + 1):
            finished = place.module("normstudy", "report", experiment, "--out", f"report_{number}")
            size = {"round": number, "access": access, "runs": len(VARIANTS) * seeds}
            records.append({**size, "wall_seconds": finished.seconds, "peak_bytes": finished.peak_bytes})
        return records

    def memory(self) -> list[Record]:
        """Peak memory of a whole run of one epoch, by the number of training images."""
        records = []
        for images in self.settings.memory:
            with self.place() as place:
                options = ["--epochs", "1", "--train-size", str(images % 60_000), "--device", "cpu"]
                finished = place.module("normstudy", "train", "--norm", "gn", *options)
            records.append({"images": images, "peak_bytes": finished.peak_bytes})
        return records

    def growth(self) -> list[Record]:
        """Our epoch by the number of training images, on one thread."""
        sizes = self.settings.growth
        return [{"images": images, **self.contender("our_epoch", "gn", 1, images)} for images in sizes]

    def cuda(self) -> list[Record]:
        """A single run, and three variants of several seeds each, on a CUDA device; no record where there is none."""
        epochs = ["--epochs", str(self.settings.epochs), "--train-size", str(self.settings.images % 60_000)]
        options = [*epochs, "--device", "cuda"]
        with self.place() as place:
            if place.python("-c", HAS_CUDA).output.strip() != "True":
                return []
            single = place.module("normstudy", "train", "--norm", "gn", *options)
            experiment = experiment_file(place, VARIANTS, self.settings.cuda_seeds)
            study = place.module("normstudy", "study", experiment, *options)
        runs = len(VARIANTS) * self.settings.cuda_seeds
        return [{"runs": 1, "wall_seconds": single.seconds}, {"runs": runs, "wall_seconds": study.seconds}]

    def stack(self) -> list[Record]:
        """Seeds of one variant, in lock-step by so many, one process at a time, two epochs."""
        records, seeds, epochs = [], max(self.settings.stacks), 2
        for stack in self.settings.stacks:
            with self.place() as place:
                options = ["--stack", str(stack), "--workers", "1", *self.settings.size_options(epochs)]
                experiment = experiment_file(place, VARIANTS[:1], seeds)
                finished = place.module("normstudy", "study", experiment, *options)
                last = logged_epoch_seconds(place, epochs)
            size = {"stack": stack, "seeds": seeds, "epochs": epochs}
            records.append({**size, "wall_seconds": finished.seconds, "seconds_per_seed_and_epoch": last / stack})
        return records

    def scaling(self) -> list[Record]:
        """The same trials by one process at a time and by several, from the start of the command to its exit."""
        records, (trials, epochs) = [], (self.settings.scaling_trials, self.settings.scaling_epochs)
        for workers in self.settings.workers:
            with self.place() as place:
                options = ["--workers", str(workers), *self.settings.size_options(epochs)]
                finished = place.module("normstudy", "study", experiment_file(place, VARIANTS[:1], trials), *options)
            size = {"workers": workers, "trials": trials, "epochs": epochs}
            records.append({**size, "wall_seconds": finished.seconds})
        return records

    def driver(self) -> list[Record]:
        """What a study spends on each of many trials that do nothing."""
        with self.place() as place:
            return [place.module("benchmarks.driver", str(self.settings.trivial_trials)).result()]


def faster_workers(records: list[Record], norm: str, threads: int) -> int:
    """The number of DataLoader workers with which the usual loop had the smaller median epoch."""
    own = [record for record in records if (record["norm"], record["threads"]) == (norm, threads)]
    seconds = {
        workers: [record["epoch_seconds"] for record in own if record["contender"] == name]
        for workers, name in USUAL.items()
    }
    return min(seconds, key=lambda workers: median(seconds[workers]))


def logged_epoch_seconds(place: Workplace, epoch: int) -> float:
    """Mean over the runs of the store of `epoch_seconds` at this epoch."""
    query = "SELECT avg(value) FROM metrics WHERE key = 'epoch_seconds' AND step = ?"
    with closing(sqlite3.connect(place.folder / "mlflow.db")) as database:
        [seconds] = database.execute(query, [epoch]).fetchone()
    return float(seconds)


def experiment_file(place: Workplace, variants: tuple[dict[str, Any], ...], seeds: int) -> str:
    """A new experiment file; its name."""
    name = "generated.py"
    (place.folder / name).write_text(EXPERIMENT.format(variants=variants, seeds=seeds))
    return name
