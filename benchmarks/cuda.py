"""`python -m benchmarks.cuda`: stacks of seeds on one GPU, against bare replay, the usual loop and Lightning there.

All times are in seconds: medians of the rounds, after a first turn that doesn't count.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.__main__ import DOCS, provenance_of, refuse, require_fit, use_store
from benchmarks.contenders import LIGHTNING, USUAL, NoTracker, contenders, take_turn, total_steps
from benchmarks.page import render
from normstudy.config import TRAIN_IMAGES, VARIANTS, TrainConfig
from normstudy.data import MEMORY_FORMAT, TrainingStream, load_data
from normstudy.evaluate import evaluate_stack
from normstudy.launch.study import single
from normstudy.model import stacked
from normstudy.step import build_optimizer, training_step
from normstudy.tracking.store import connect
from normstudy.train import initial_model, make_reproducible, pick_device, train, train_epoch

PARTS = ("batches", "replay", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    rounds: int = 3
    stacks: tuple[int, ...] = (1, 10, 32)
    images: int = 60_000  # trained on in an epoch of ours
    epochs: int = 20  # of a whole run
    usual_images: int = 4_800  # trained on in a turn of the usual loop and of Lightning


QUICK = Settings(rounds=1, stacks=(1, 2), images=640, epochs=4, usual_images=640)


class Stack:
    """Seeds of one configuration that train as one network: their epoch, and each of its parts alone."""

    def __init__(self, config: TrainConfig, seeds: int) -> None:
        device = pick_device(config.device)
        make_reproducible(config)
        networks = [initial_model(config.model_copy(update={"seed": seed})) for seed in range(seeds)]
        self.model, self.data = stacked(networks).to(device), load_data(config, device)
        self.model.to(memory_format=MEMORY_FORMAT[device.type])
        optimizer, self.schedule = build_optimizer(self.model, config, total_steps(config))
        self.stream = TrainingStream(self.data.train, config, range(seeds))
        self.batch, self.steps = next(self.stream.epoch()), config.training_images // config.batch_size
        self.step = training_step(self.model.train(), optimizer, config)

    def epoch(self) -> None:
        self.model.train()
        train_epoch(self.step, self.schedule, self.stream.epoch()).cpu()
        self.evaluation()

    def batches(self) -> None:
        for _ in self.stream.epoch():
            pass

    def replay(self) -> None:
        """As many steps on one batch, which lies on the device."""
        for _ in range(self.steps):
            self.step(*self.batch)

    def evaluation(self) -> None:
        evaluate_stack(self.model, self.data.test)

    def utilisation(self) -> float:
        """The part of an epoch in which a kernel runs, as the profiler has it; 0 without a GPU."""
        activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            elapsed = seconds(self.epoch)
        return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / elapsed


def seconds(work: Callable[[], Any]) -> float:
    """From an idle device to an idle device."""
    idle()
    begin = time.perf_counter()
    work()
    idle()
    return time.perf_counter() - begin


def idle() -> None:
    """Wait for the device, where it works beside this process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(settings: Settings, device: str) -> dict[str, Any]:
    """All figures. On another device than CUDA they mean nothing: the step is not captured, nothing is utilised."""
    names = [name for name in (USUAL, LIGHTNING) if name in contenders()]
    first = TrainConfig(**VARIANTS[0], device=device, train_size=settings.images % TRAIN_IMAGES, epochs=settings.epochs)
    small = first.model_copy(update={"train_size": settings.usual_images})
    rounds = [{"contender": name, **take_turn(name, small)} for _ in range(settings.rounds + 1) for name in names]
    connect()  # a store's first use is no part of a run
    runs = {"untracked": seconds(lambda: train(first, NoTracker())), "tracked": seconds(lambda: single(first))}
    return {"stacks": list(stacks_of(first, settings)), "turns": rounds[len(names) :], "runs": runs}


def stacks_of(first: TrainConfig, settings: Settings) -> Iterator[dict[str, Any]]:
    """Of each stack a dictionary: a single seed of the first variant; the larger ones of each variant."""
    for size in settings.stacks:
        for variant in VARIANTS[: 1 if size == 1 else None]:
            stack = Stack(TrainConfig(**{**dict(first), "l1": 0.0, **variant}), size)
            stack.epoch()
            times = [
                {name: seconds(getattr(stack, name)) for name in ("epoch", *PARTS)} for _ in range(settings.rounds)
            ]
            medians = {name: statistics.median(turn[name] for turn in times) for name in times[0]}
            yield {"seeds": size, "variant": variant["norm"], "utilisation": stack.utilisation(), **medians}


def rows_of(raw: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """A row for each size of a stack, over its variants: times by seed, and ours over the others'."""
    settings = raw["settings"]
    usual = {
        name: settings["images"]
        / settings["usual_images"]
        * statistics.median(turn["seconds"] for turn in raw["turns"] if turn["contender"] == name)
        for name in names
    }
    rows = []
    for size in settings["stacks"]:
        stacks = [stack for stack in raw["stacks"] if stack["seeds"] == size]
        epoch, count = sum(stack["epoch"] for stack in stacks), size * len(stacks)
        row = {"what": f"{len(stacks)} x {size}" if count > 1 else "1", "epoch": epoch, "seed": epoch / count}
        row |= {name: sum(stack[name] for stack in stacks) / epoch for name in PARTS}
        row |= {f"over {name}": epoch / count / theirs for name, theirs in usual.items()}
        row["utilisation"] = sum(stack["utilisation"] * stack["epoch"] for stack in stacks) / epoch
        rows.append(row)
    return rows


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny, to see that it works; figures mean nothing")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="write to docs/ from a changed tree")] = False,
    out: Annotated[Path, typer.Option(help="folder for the page and the raw results")] = DOCS / "benchmarks" / "cuda",
) -> None:
    """Measure one GPU in under 6 minutes: a single run, stacks of 10 and of 32 seeds, and what each part takes."""
    if not torch.cuda.is_available():
        refuse("no CUDA device here; this benchmark needs one")
    settings, begin, out = QUICK if quick else Settings(), time.perf_counter(), out.resolve()
    provenance = provenance_of()
    require_fit(out, provenance, quick=quick, allow_dirty=allow_dirty)
    with TemporaryDirectory(prefix="benchmark_") as folder:
        use_store(Path(folder))
        measured = measure(settings, "cuda")
    raw = {**provenance, "quick": quick, "settings": asdict(settings), **measured}
    write_cuda_page(raw | {"seconds_in_all": time.perf_counter() - begin}, out)
    print(f"{time.perf_counter() - begin:.0f} s in all; results written to {out}/")


def write_cuda_page(raw: dict[str, Any], folder: Path) -> None:
    """README.md, and raw.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "raw.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(turn["contender"] for turn in raw["turns"]))
    render("cuda.md.j2", folder, rows=rows_of(raw, names), contenders=names, **raw)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
