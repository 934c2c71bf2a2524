"""The targets and what the results say of them: every row has its figure and an honest verdict."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.suite import BARE, LIGHTNING, OURS, USUAL
from benchmarks.summary import Limit, Results, Spread, exponents, ratio

NOT_MEASURED = "not measured"
TRAINING = ("training steps", "augmentation", "evaluation")  # shares of a run; all others are around the training
EPOCH, AUGMENTATION = Limit("at most", 1.05, " x"), Limit("at most", 10, " %")
OVER_USUAL, OVER_LIGHTNING, STUDY = (Limit("at least", factor, " x") for factor in (1.8, 2.2, 3.5))
AROUND = Limit("under", 10, " %")
REPORT = {"sqlite": Limit("under", 15, " s"), "HTTP": Limit("under", 25, " s")}
GROWTH = Limit("at most", 1.05)
CUDA = {1: Limit("under", 8, " s"), 30: Limit("under", 60, " s")}  # by the number of runs
SCALING, DRIVER = Limit("at least", 1.7, " x"), Limit("under", 50, " ms")


@dataclass(frozen=True)
class Judged:
    """A target in one case: what, where, the figure, its limit, and met, not met or why there is no verdict."""

    target: str
    case: str
    figure: str
    limit: str
    verdict: str


def judged(target: str, case: str, spread: Spread, limit: Limit, digits: int = 2) -> Judged:
    """The median against the limit."""
    return Judged(target, case, spread.text(limit.unit, digits), str(limit), limit.verdict(spread.median))


def judge(results: Results) -> list[Judged]:
    """All targets, in order."""
    everything = (judge_epochs, judge_study, judge_run, judge_reports, judge_cuda, judge_many)
    return [row for judges in everything for row in judges(results)]


def case_name(norm: str, threads: int) -> str:
    """`GN, 1 thread`."""
    return f"{norm.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def judge_epochs(results: Results) -> Iterator[Judged]:
    """Targets 1 and 2: our epoch against the bare limit, the usual loop and Lightning, round by round."""
    rows: list[tuple[int, Judged]] = []
    for norm, threads in results.cases():
        case = case_name(norm, threads)
        bare, ours = results.epochs(BARE, norm, threads), results.epochs(OURS, norm, threads)
        augmentation = results.epochs(OURS, norm, threads, "augmentation_seconds")
        usual = results.epochs(results.fastest(USUAL.values(), norm, threads), norm, threads)
        lightning = results.epochs(LIGHTNING, norm, threads)
        over = "1. Our epoch without augmentation, over the bare limit"
        rows.append((0, judged(over, case, ratio(ours - augmentation, bare), EPOCH, 3)))
        over = "1. Augmentation, on top of the bare limit"
        rows.append((1, judged(over, case, ratio(100 * augmentation, bare), AUGMENTATION, 1)))
        rows.append((2, judged("2. The usual loop's epoch, over ours", case, ratio(usual, ours), OVER_USUAL)))
        over = "2. Lightning's epoch, over ours"
        missing = Judged(over, case, "", str(OVER_LIGHTNING), f"{NOT_MEASURED}: Lightning is not installed")
        rows.append((3, judged(over, case, ratio(lightning, ours), OVER_LIGHTNING) if len(lightning) else missing))
    yield from (row for _, row in sorted(rows, key=lambda pair: pair[0]))


def usual_three_in_a_row(results: Results) -> dict[int, Spread]:
    """By number of threads: seconds of three runs of the usual loop one after another, computed.

    Three times start-up and as many of its median epochs as the study had, with its faster norm and number of workers;
    the range is that of its epochs.
    """
    epochs = results.raw["settings"]["epochs"]
    found: dict[int, Spread] = {}
    for norm, threads in results.cases():
        name = results.fastest(USUAL.values(), norm, threads)
        startup = results.epochs(name, norm, threads, "startup_seconds").median()
        spread = Spread.of(3 * (startup + epochs * results.epochs(name, norm, threads)))
        if threads not in found or spread.median < found[threads].median:
            found[threads] = spread
    return found


def judge_study(results: Results) -> Iterator[Judged]:
    """Target 3: the study's wall time against the usual loop's, for each number of threads of the loop."""
    target, study, usual = "3. The usual loop three times in a row, over the study", results.table("study"), {}
    if not study.empty:
        usual = usual_three_in_a_row(results)
    if not usual:
        yield Judged(target, "", "", str(STUDY), NOT_MEASURED)
        return
    seconds = study.wall_seconds.median()
    fastest = min(usual, key=lambda threads: usual[threads].median)
    for threads, spread in usual.items():
        over = Spread(spread.median / seconds, spread.low / seconds, spread.high / seconds, spread.count)
        case = f"loop on {threads} thread{'s' if threads > 1 else ''}{', the fastest' if threads == fastest else ''}"
        yield judged(target, case, over, STUDY)


def judge_run(results: Results) -> Iterator[Judged]:
    """Target 4: what a whole run spends around its training."""
    target, shares = "4. Everything around the training, of a whole run", results.table("run")
    if shares.empty:
        yield Judged(target, "", "", str(AROUND), NOT_MEASURED)
        return
    around = shares[~shares.share.isin(TRAINING)].seconds.sum()
    case = f"{results.raw['settings']['epochs']} epochs, GN, 1 thread"
    yield judged(target, case, Spread.of([100 * around / shares.wall_seconds.iloc[0]]), AROUND, 1)


def judge_reports(results: Results) -> Iterator[Judged]:
    """Target 5: the report of the most runs, and its growth between neighbouring numbers of runs."""
    table = results.table("report")
    for access, limit in REPORT.items():
        if table.empty:
            yield Judged("5. Report", access, "", str(limit), NOT_MEASURED)
            continue
        own = table[table.access == access]
        most = own.runs.max()
        seconds = Spread.of(own[own.runs == most].wall_seconds)
        yield judged(f"5. Report of {most} runs", access, seconds, limit, 1)
        for small, large, exponent in exponents(own.rename(columns={"runs": "size", "wall_seconds": "seconds"})):
            growth = "5. Growth of the report, exponent"
            yield judged(growth, f"{access}, {small} to {large} runs", Spread.of([exponent]), GROWTH)


def judge_cuda(results: Results) -> Iterator[Judged]:
    """A single run and thirty of them on a CUDA device, where one was at hand."""
    table = results.table("cuda")
    reason = "no CUDA device was at hand" if "cuda" in results.raw["stages"] else "this stage did not run"
    for runs, limit in CUDA.items():
        target = "6. A single run" if runs == 1 else f"6. {runs} runs"
        own = [] if table.empty else list(table[table.runs == runs].wall_seconds)
        missing = Judged(target, "CUDA", "", str(limit), f"{NOT_MEASURED}: {reason}")
        yield judged(target, "CUDA", Spread.of(own), limit, 1) if own else missing


def scaling_of(results: Results) -> list[tuple[int, float, float]]:
    """Workers, trials an hour, and these over one worker's."""
    table = results.table("scaling")
    hourly = 3600 * table.trials / table.wall_seconds
    return list(zip(table.workers, hourly, hourly / hourly.iloc[0], strict=True))


def judge_many(results: Results) -> Iterator[Judged]:
    """Targets 7 and 8: trials an hour by number of workers, and what the driver spends on each trial."""
    target = "7. Trials an hour, over one worker's"
    if results.table("scaling").empty:
        yield Judged(target, "", "", str(SCALING), NOT_MEASURED)
    else:
        for workers, _, over in scaling_of(results)[1:]:
            yield judged(target, f"{workers} workers", Spread.of([over]), SCALING)
    target, driver = "8. The driver's time for a trial", results.table("driver")
    if driver.empty:
        yield Judged(target, "", "", str(DRIVER), NOT_MEASURED)
    else:
        case = f"study of {driver.trials.iloc[0]:,} trials, sqlite"
        yield judged(target, case, Spread.of(driver.driver_ms), DRIVER, 1)
