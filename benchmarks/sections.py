"""The parts of the benchmark's page, one function each, as Markdown made from the raw results."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from benchmarks.measurement import BATCH_SIZE, ROTATION, SCALE, TRANSLATION, WARM_UP_STEPS
from benchmarks.suite import BARE, CONTENDERS, LIGHTNING, OURS, USUAL
from benchmarks.summary import Results, Spread, exponents, ratio
from benchmarks.targets import AROUND, TRAINING, case_name, scaling_of, usual_three_in_a_row

MEBIBYTE = 2**20


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; `tabulate`, which pandas would need for it, is no dependency of this project."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def epochs_section(results: Results) -> str:
    """Seconds an epoch of every contender, what ours is made of, and how each was measured."""
    rows, parts = [], []
    for norm, threads in results.cases():
        bare, ours = results.epochs(BARE, norm, threads), results.epochs(OURS, norm, threads)
        for name in CONTENDERS:
            seconds = results.epochs(name, norm, threads)
            if seconds.empty:
                rows.append((case_name(norm, threads), name, "not measured: not installed", "", "", ""))
                continue
            startup = Spread.of(results.epochs(name, norm, threads, "startup_seconds"))
            cells = (Spread.of(seconds).text(" s"), ratio(seconds, bare).text(), ratio(seconds, ours).text())
            rows.append((case_name(norm, threads), name, *cells, f"{startup.median:.1f} s"))
        columns = ("augmentation_seconds", "evaluation_seconds", "tracking_seconds")
        spreads = [Spread.of(results.epochs(OURS, norm, threads, column)).text(" s", 3) for column in columns]
        rest = ours - sum(results.epochs(OURS, norm, threads, column) for column in columns)
        parts.append((case_name(norm, threads), *spreads, ratio(rest, bare).text("", 3)))
    epochs = markdown(("case", "contender", "an epoch", "over the bare limit", "over ours", "start-up"), rows)
    made_of = markdown(
        ("case", "augmentation", "evaluation", "tracking", "all the rest, over the bare limit"),
        parts,
    )
    settings = results.raw["settings"]
    evaluation = [
        ratio(results.epochs(OURS, *case, "evaluation_seconds"), results.epochs(BARE, *case)).median
        for case in results.cases()
    ]
    return f"""![Seconds an epoch](epoch.png)

{epochs}
Start-up: from the start of the process to the first step. What our epoch is made of:

{made_of}
The evaluation alone, a forward pass over 10,000 images, is {100 * min(evaluation):.1f} to \
{100 * max(evaluation):.1f} % of the bare limit, which has none.

{how_epochs_were_measured(settings["images"])}"""


def how_epochs_were_measured(images: int) -> str:
    """What each contender does."""
    augmentation = f"rotation {ROTATION:g} degrees, translation {TRANSLATION:g} pixels, scale {SCALE:g}"
    return f"""All train DigitNet on {images:,} images in batches of {BATCH_SIZE}, with the same augmentation \
({augmentation}) and, but for the bare limit, evaluate 10,000 test images an epoch; each in a process of its own, with \
`OMP_NUM_THREADS` and `MKL_NUM_THREADS` set to the number of threads. They take turns: a round measures each once.

- {BARE}: forward, loss, backward, optimiser step, {images // BATCH_SIZE} times on one batch that is already \
normalised, in our memory format; no data, no evaluation.
- {OURS}: `normstudy.train` as shipped, into an sqlite store; the second epoch, from the end of one epoch's logging to \
the end of the next. Augmentation is a pass over the training batches with it less one without, evaluation a second \
one of the test set, tracking the mean of the epochs' logging: each apart, in the same process.
- usual loop, {" or ".join(map(str, USUAL))} workers: torchvision's dataset and transforms, a DataLoader with \
so many worker processes, \
`loss.item()` at each step, the default memory format, no tracking. An epoch after a first one of {WARM_UP_STEPS} steps.
- {LIGHTNING}: a LightningModule on the same DataLoader, with the number of workers that was faster before, under \
`mlflow.pytorch.autolog()`, into an sqlite store; an epoch with its validation and autologging, after a first one of \
{WARM_UP_STEPS} steps.

Every store had its tables already: the first use of an empty one makes them, once.
"""


def anatomy_section(results: Results) -> str:
    """What each thing that an epoch does beside the bare steps adds."""
    rows = []
    for norm, own in results.table("anatomy").groupby("norm", sort=False):
        bare = own.epoch_seconds.iloc[0]
        rows += [
            (norm.upper(), r.what, f"{r.epoch_seconds:.2f} s", f"{r.epoch_seconds / bare:.3f}")
            for r in own.itertuples()
        ]
    return f"""All in one process in turn, on one thread, medians; each line does what the one above it does, and more.

{markdown(("norm", "", "an epoch", "over the bare steps"), rows)}"""


def profile_section(results: Results) -> str:
    """Shares of a training step by kind of operator."""
    table = results.table("profile")
    table["share"] = 100 * table.milliseconds / table.groupby("norm").milliseconds.transform("sum")
    shares = table.pivot(index="kind", columns="norm", values="share").fillna(0)
    shares = shares.sort_values(shares.columns[0], ascending=False)
    rows = [(kind, *(f"{value:.0f} %" for value in row)) for kind, row in zip(shares.index, shares.values, strict=True)]
    convolutions = shares[shares.index.str.startswith("convolutions")].sum()
    least, most = convolutions.min(), convolutions.max()
    return f"""Time of one training step on one thread, by kind of operator (torch's profiler; its own cost is in it). \
oneDNN's convolutions of 1 to 16 channels are {least:.0f} to {most:.0f} % of it: no loop around this model can do \
without them.

{markdown(("kind", *(norm.upper() for norm in shares.columns)), rows)}"""


def choices_section(results: Results) -> str:
    """The bare limit with the memory format and the compiler that we have, and those that we don't."""
    rows = [
        (row.norm.upper(), row.choice, f"{row.epoch_seconds:.2f} s", f"{row.first_step_seconds:.1f} s")
        for row in results.table("choices").itertuples()
    ]
    return f"""The bare limit's epoch on one thread, each measured once.

{markdown(("norm", "choice", "an epoch", "first step, before it"), rows)}"""


def run_section(results: Results) -> str:
    """Where the time of a whole run goes."""
    table, raw = results.table("run"), results.raw
    wall = table.wall_seconds.iloc[0]
    rows = [(row.share, f"{row.seconds:.2f} s", f"{100 * row.seconds / wall:.1f} %") for row in table.itertuples()]
    around = table[~table.share.isin(TRAINING)].seconds.sum()
    rows.append(("**everything around the training**", f"{around:.2f} s", f"{100 * around / wall:.1f} %"))
    return f"""`python -m normstudy train --norm gn`, {raw["settings"]["epochs"]} epochs, one thread, from the start \
of the process to its exit: {wall:.1f} s, measured once. Around the training is all but {", ".join(TRAINING)}; the \
target is {AROUND}. The store had its tables; making them at the first use of an empty one takes \
{raw["create_tables_seconds"]:.1f} s, imports included, and is not in the figures.

![Shares of a run](shares.png)

{markdown(("share", "wall time", "of the run"), rows)}"""


def study_section(results: Results) -> str:
    """The study's wall time against three runs of the usual loop."""
    study = results.table("study")
    seconds = study.wall_seconds.median()
    rows: list[tuple[str, ...]] = [("the study, measured once", f"{seconds:.0f} s", "1")]
    for threads, spread in usual_three_in_a_row(results).items() if results.cases() else ():
        over = Spread(spread.median / seconds, spread.low / seconds, spread.high / seconds, spread.count)
        name = f"usual loop three times in a row, {threads} thread{'s' if threads > 1 else ''}, computed"
        rows.append((name, spread.text(" s", 0), over.text()))
    bound = ""
    if any(threads == 1 for _, threads in results.cases()):
        bare = median(results.epochs(BARE, norm, 1).median() for norm, threads in results.cases() if threads == 1)
        cores = max(threads for _, threads in results.cases())
        least = 3 * study.epochs.iloc[0] * bare / cores
        best = min(spread.median for spread in usual_three_in_a_row(results).values())
        on = f"{cores} core{'s' if cores > 1 else ''}"
        bound = (
            f"What bounds it: the bare steps of three such runs, one thread each on {on}, take {least:.0f} s by "
            f"themselves. A study that did nothing else would be {best / least:.1f} times faster than the fastest loop."
        )
    return f"""`python -m normstudy study experiments/assignment.py --seeds 1`: three variants of \
{study.epochs.iloc[0]} epochs, from the start of the process to its exit. The usual loop's time is computed from its \
measured epochs: three times start-up and {study.epochs.iloc[0]} epochs, \
with the norm and number of workers that are fastest for it; \
the range is that of its epochs.

{markdown(("", "wall time", "over the study"), rows)}
{bound}
"""


def report_section(results: Results) -> str:
    """The report's wall time by the number of runs, and its growth."""
    table = results.table("report")
    rows, growth = [], []
    count = results.raw["settings"]["report_rounds"]
    times = "measured once" if count == 1 else f"measured {count} times"
    for (access, runs), own in table.groupby(["access", "runs"], sort=False):
        memory = Spread.of(own.peak_bytes / MEBIBYTE)
        rows.append((access, runs, Spread.of(own.wall_seconds).text(" s", 1), f"{memory.median:.0f} MiB"))
    for access, own in table.groupby("access", sort=False):
        for small, large, exponent in exponents(own.rename(columns={"runs": "size", "wall_seconds": "seconds"})):
            growth.append((access, f"{small} to {large}", f"{exponent:.2f}"))
    return f"""`python -m normstudy report EXPERIMENT`, from the start of the process to its exit, of synthetic \
finished runs (three variants, several seeds), from sqlite and through a `mlflow server` with one worker that also \
serves the artifacts; {times} each. Exponent: the p of time proportional to (number of runs) to the power of p; 1 is \
linear.

{markdown(("access", "runs", "wall time", "peak memory"), rows)}
{markdown(("access", "runs", "exponent"), growth)}"""


def memory_section(results: Results) -> str:
    """Peak memory of our run and of every contender."""
    rows = [
        (f"our run, {row.images:,} training images, one epoch", f"{row.peak_bytes / MEBIBYTE:,.0f} MiB")
        for row in results.table("memory").itertuples()
    ]
    for norm, threads in results.cases():
        for name in CONTENDERS:
            peak = results.epochs(name, norm, threads, "peak_bytes")
            if not peak.empty:
                rows.append((f"{name}, {case_name(norm, threads)}", Spread.of(peak / MEBIBYTE).text(" MiB", 0)))
    return f"""The largest resident size of one process; DataLoader workers share much of theirs with it.

{markdown(("", "peak memory"), rows)}"""


def growth_section(results: Results) -> str:
    """Our epoch by the number of training images."""
    table = results.table("growth").rename(columns={"images": "size", "epoch_seconds": "seconds"})
    rows = [(f"{size:,}", Spread.of(own.seconds).text(" s")) for size, own in table.groupby("size")]
    steps = [f"{small:,} to {large:,} images: {exponent:.2f}" for small, large, exponent in exponents(table)]
    return f"""Our epoch (GN, one thread), the evaluation of 10,000 test images included; measured once.

{markdown(("training images", "an epoch"), rows)}
Exponent of growth: {"; ".join(steps)}.
"""


def stack_section(results: Results) -> str:
    """Seconds for each seed and epoch, by the number of seeds in lock-step."""
    table = results.table("stack")
    alone = table.seconds_per_seed_and_epoch.iloc[0]
    rows = [
        (
            row.stack,
            f"{row.seconds_per_seed_and_epoch:.2f} s",
            f"{row.seconds_per_seed_and_epoch / alone:.2f}",
            f"{row.wall_seconds / (row.seeds * row.epochs):.2f} s",
        )
        for row in table.itertuples()
    ]
    first = table.iloc[0]
    header = ("seeds in lock-step", "a seed and epoch, within an epoch", "over the first", "of the whole command")
    return f"""`python -m normstudy study EXPERIMENT --stack N --workers 1`: {first.seeds:.0f} seeds of GN, \
{first.epochs:.0f} epochs, one process at a time on one thread, measured once. Within an epoch: the logged seconds of \
the last epoch; of the whole command: its wall time, start-up included; both divided by seeds (and epochs).

{markdown(header, rows)}"""


def scaling_section(results: Results) -> str:
    """Trials an hour by number of processes."""
    first = results.table("scaling").iloc[0]
    rows = [(workers, f"{hourly:.0f}", f"{over:.2f}") for workers, hourly, over in scaling_of(results)]
    return f"""`python -m normstudy study EXPERIMENT --workers N`: {first.trials:.0f} trials of GN, {first.epochs:.0f} \
epochs each, one thread a trial, from the start of the command to its exit, measured once.

{markdown(("workers", "trials an hour", "over one worker"), rows)}"""


def driver_section(results: Results) -> str:
    """What a study costs beside its trials."""
    row = results.table("driver").iloc[0]
    return f"""A study of {row.trials:,.0f} trials that do nothing, on sqlite: for each the driver gives out the \
work, and reads how its run ended. Its own wall time, the start of the study included, is {row.driver_ms:.1f} ms a \
trial. With normstudy's own processes, 2 at once, a trial of {row.trials_in_processes:.0f} takes \
{row.processes_wall_ms:.0f} ms from end to end, of which {row.processes_driver_cpu_ms:.0f} ms are CPU time of the \
driver.
"""


def cuda_section(results: Results) -> str:
    """What a run and many seeds take on a CUDA device, or that it is still to be measured, and how."""
    table, settings = results.table("cuda"), results.raw["settings"]
    commands = (
        "`python -m normstudy train --norm gn --device cuda`, and `python -m normstudy study EXPERIMENT --device cuda` "
        f"of three variants with {settings['cuda_seeds']} seeds each, all of a variant in lock-step; "
        f"{settings['epochs']} epochs, from the start of the process to its exit"
    )
    if table.empty:
        return f"""Still to be measured: no CUDA device was at hand, so the steps as CUDA graphs have not run on one; \
the same stacks of seeds are tested on the CPU. Where there is one, `python -m benchmarks --only cuda --out FOLDER` \
measures {commands}.
"""
    rows = [(row.runs, f"{row.wall_seconds:.1f} s") for row in table.itertuples()]
    return f"""Measured: {commands}.

{markdown(("runs", "wall time"), rows)}"""


def machine_section(raw: dict[str, Any]) -> str:
    """Machine and versions."""
    whole = sum(raw["stage_seconds"].values()) / 60
    return f"""{markdown(("", ""), [*raw["machine"].items(), *raw["versions"].items()])}
All stages together took {whole:.0f} minutes.
"""
