"""The two pictures of the benchmark's page. Each function returns a figure and reads nothing but the results."""

from itertools import product

from matplotlib.figure import Figure

from benchmarks.suite import BARE, CONTENDERS, OURS
from benchmarks.summary import Results, Spread
from benchmarks.targets import TRAINING, case_name

# Okabe and Ito's colours, as in normstudy.plots
OURS_COLOUR, OTHERS_COLOUR, LIMIT_COLOUR = "#0072B2", "#E69F00", "#999999"


def epoch_bars(results: Results) -> Figure:
    """Seconds an epoch of every contender: a panel for each norm and number of threads, the spread as error bars."""
    cases = results.cases()
    norms, counts = (list(dict.fromkeys(column)) for column in zip(*cases, strict=True))
    figure = Figure(figsize=(10, 0.7 + 2.4 * len(counts)), layout="constrained")
    panels = figure.subplots(len(counts), len(norms), sharex=True, sharey=True, squeeze=False)
    for (row, threads), (column, norm) in product(enumerate(counts), enumerate(norms)):
        axes = panels[row, column]
        axes.set_title(case_name(norm, threads), fontsize=10)
        for name in CONTENDERS:
            measured = results.epochs(name, norm, threads)
            if measured.empty:
                axes.barh(name, 0)
                axes.annotate(" not measured", (0, name), va="center", fontsize=9)
                continue
            spread = Spread.of(measured)
            reach = [[spread.median - spread.low], [spread.high - spread.median]]
            colour = {BARE: LIMIT_COLOUR, OURS: OURS_COLOUR}.get(name, OTHERS_COLOUR)
            axes.barh(name, spread.median, xerr=reach, color=colour, error_kw={"capsize": 3, "linewidth": 1})
            label = f"{spread.median:.2f} s" if spread.median < 1 else f"{spread.median:.1f} s"
            axes.annotate(label, (spread.high, name), (5, 0), textcoords="offset points", va="center", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    panels[0, 0].invert_yaxis()  # shared: the first contender on top
    for axes in panels[-1]:
        axes.set_xlabel("seconds an epoch")
    images, rounds = results.raw["settings"]["images"], results.raw["settings"]["rounds"]
    title = f"One epoch of {images:,} images: median of {rounds}, bars from smallest to largest"
    figure.suptitle(title if rounds > 1 else f"One epoch of {images:,} images, measured once", fontsize=11)
    return figure


def run_shares(results: Results) -> Figure:
    """Where the wall time of a whole run goes, in the order of the run."""
    table = results.table("run")
    wall = table.wall_seconds.iloc[0]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    colours = [OURS_COLOUR if share in TRAINING else OTHERS_COLOUR for share in table.share]
    axes.barh(table.share, table.seconds, color=colours)
    for share, seconds in zip(table.share, table.seconds, strict=True):
        label = f"{seconds:.2f} s, {100 * seconds / wall:.1f} %"
        axes.annotate(label, (seconds, share), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds (blue: training, augmentation and evaluation; orange: everything around them)")
    axes.set_title(f"A run of {results.raw['settings']['epochs']} epochs on one thread: {wall:.1f} s", fontsize=11)
    return figure
