"""The benchmark's page and figure, made from the raw results alone."""

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.contenders import BARE, OURS, TEST_IMAGES, USUAL, USUAL_WORKERS
from normstudy.config import TRAIN_IMAGES

CASE = ["variant", "threads"]
PARTS = ["batches, augmented", "forward", "loss and backward", "optimiser", "evaluation", "rest"]
COLOURS = ("#56B4E9", "#009E73", "#0072B2", "#F0E442", "#CC79A7", "#000000")  # Okabe and Ito, one for each part
OTHERS_COLOUR = "#BBBBBB"


class Results:
    """What the page and the figure say, as tables with a row for each case: a variant and a number of threads."""

    def __init__(self, raw: dict[str, Any]) -> None:
        turns = pd.DataFrame(raw["turns"])
        times, scale = ["seconds", *PARTS], TRAIN_IMAGES / raw["settings"]["images"]  # a turn is a share of an epoch
        turns[times] *= scale
        self.contenders = list(turns.contender.unique())
        seconds = turns.pivot(index=[*CASE, "round"], columns="contender", values="seconds")[self.contenders]
        ours = turns[turns.contender == OURS].set_index(CASE)
        self.seconds = self.spread(seconds)  # per epoch, by contender
        self.ratios = self.spread(seconds.rdiv(seconds[OURS], axis=0))  # ours over each contender's, round by round
        self.shares = self.spread(ours[PARTS].div(ours.seconds, axis=0))  # of each part in our epoch
        self.cases = list(self.seconds.index)

    @staticmethod
    def spread(table: pd.DataFrame) -> pd.DataFrame:
        """Median, smallest and largest over the rounds of each case, in the order in which they were measured."""
        return table.groupby(level=CASE, sort=False).agg(["median", "min", "max"])


def write_page(raw: dict[str, Any], folder: Path) -> None:
    """Write README.md and epoch.png into `folder`."""
    results = Results(raw)
    epoch_bars(results, raw["settings"]["rounds"]).savefig(folder / "epoch.png", dpi=150)
    names = {"bare": BARE, "ours": OURS, "usual": USUAL, "usual_workers": USUAL_WORKERS}
    sizes = {"train_images": TRAIN_IMAGES, "test_images": TEST_IMAGES, "parts": PARTS}
    shipped = pd.DataFrame(raw["shipped"]).pivot(index="round", columns="tracked", values="seconds")
    render("page.md.j2", folder, **raw, results=results, tracked=shipped, **names, **sizes)


def render(template: str, folder: Path, **facts: Any) -> None:
    """Write README.md from a template of this folder."""
    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=files, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spread"] = spread
    (folder / "README.md").write_text(environment.get_template(template).render(**facts), encoding="utf-8")


def spread(values: Any, digits: int = 2) -> str:
    """`1.20 (1.10 to 1.30)`: median, smallest, largest."""
    median, least, most = pd.Series(values).agg(["median", "min", "max"])
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def epoch_bars(results: Results, rounds: int) -> Figure:
    """Seconds per epoch of every contender, a panel for each case; our bar shows its parts."""
    variants, threads = (list(dict.fromkeys(column)) for column in zip(*results.cases, strict=True))
    figure = Figure(figsize=(2 + 3 * len(variants), 1.2 + 2 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), len(variants), sharex=True, sharey=True, squeeze=False)
    for (row, count), (column, variant) in product(enumerate(threads), enumerate(variants)):
        axes, seconds = panels[row, column], results.seconds.loc[(variant, count)].unstack()
        axes.set_title(f"{variant}, {count} thread{'s' if count > 1 else ''}", fontsize=10)
        reach = [seconds["median"] - seconds["min"], seconds["max"] - seconds["median"]]
        axes.barh(seconds.index, seconds["median"], xerr=reach, color=OTHERS_COLOUR, error_kw={"capsize": 3})
        begin = 0.0
        for part, colour in zip(PARTS, COLOURS, strict=True):
            width = results.shares.loc[(variant, count), (part, "median")] * seconds.loc[OURS, "median"]
            axes.barh(OURS, width, left=begin, color=colour, label=part)
            begin += width
        for name, value in seconds["max"].items():
            label = f"{seconds.loc[name, 'median']:.1f}"
            axes.annotate(label, (value, name), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    panels[0, 0].invert_yaxis()  # shared: the first contender on top
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(f"Seconds per epoch: median of {rounds} rounds, from smallest to largest", fontsize=11)
    return figure
