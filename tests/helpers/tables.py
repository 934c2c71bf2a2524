"""Tables of an experiment, made by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from helpers.project import PROJECT
from normstudy.config import TrainConfig, group_labels
from normstudy.experiment import About, Kind, load_experiment
from normstudy.report import pages
from normstudy.report.tables import ErrorTables, PenaltyTables, Tables, image_table
from normstudy.report.validation import PROVENANCE
from normstudy.tracking import Metric

T = TypeVar("T", bound=Tables)
EMPTY = About()
Accuracy = Callable[[TrainConfig], float | None]


WRONG = ["index", "true", "predicted", "confidence", "confidence_true", "loss"]


def trials(name: str, *, seeds: int = 0) -> list[TrainConfig]:
    """The configurations of an experiment of ours, or those with the `seeds` lowest seeds."""
    return list(load_experiment(PROJECT / "experiments" / f"{name}.py", {}, seeds=seeds).configs)


def made(
    configs: Sequence[TrainConfig],
    accuracy: Accuracy,
    *,
    val_loss: Callable[[TrainConfig], float] = lambda config: 0.05,
    history: Callable[[TrainConfig], list[float]] | None = None,
    wrong: Callable[[TrainConfig], list[int]] | None = None,
    parameters: Callable[[TrainConfig], int] = lambda config: 7522,
    about: About = EMPTY,
) -> ErrorTables:
    """Tables of these runs as the export has them; a run whose accuracy is None diverged at step 7, after an epoch.

    `history` is the test accuracy of each epoch. Image i, where `wrong` names it, is a digit i % 10 read as the next.
    """
    runs, epochs = [], []
    errors: list[dict[str, Any]] = []
    for place, (config, group) in enumerate(zip(configs, group_labels(configs), strict=True)):
        found = accuracy(config)
        value = np.nan if found is None else found
        who = {"variant": config.variant, "group": group, "run_id": f"run{place:03}", "seed": config.seed}
        images = wrong(config) if wrong and found is not None else []
        runs.append(
            {
                "study": "mine",
                **who,
                **config.model_dump(exclude={"device"}),
                "parameters": parameters(config),
                "test_accuracy": value,
                "test_loss": value / 10,
                "train_accuracy": value - 0.01,
                "val_accuracy": value - 0.002 if config.val_size else np.nan,
                "val_loss": val_loss(config) if config.val_size and found is not None else np.nan,
                "errors": np.nan if found is None else len(images),
                "diverged_at": 7 if found is None else np.nan,
                "seconds_per_epoch": 18.0,
                "side_by_side": 2,
                "stack": 1,
                "cores": 2,
            }
        )
        course = history(config) if history else [value] * (config.epochs if found is not None else 1)
        for epoch, reached in enumerate(course, start=1):
            numbers = {str(metric): 0.1 for metric in Metric} | {str(Metric.TEST_ACCURACY): reached}
            epochs.append({"epoch": epoch, **numbers, **who})
        errors += [
            dict(zip(WRONG, (i, i % 10, (i + 1) % 10, 0.9, 0.05, 1 + i / 10_000), strict=True)) | who for i in images
        ]
    columns = [*WRONG, "variant", "group", "run_id", "seed"]
    shown = {int(error["index"]): np.full((28, 28), int(error["index"]) % 256, np.uint8) for error in errors}
    return ErrorTables(
        results=pd.DataFrame(runs),
        epochs=pd.DataFrame(epochs),
        misclassified=pd.DataFrame(errors, columns=columns),
        provenance=unknown_origin([run["run_id"] for run in runs]),
        images=image_table(shown),
        about=about,
    )


def unknown_origin(run_ids: Sequence[Any]) -> pd.DataFrame:
    """The provenance of runs that say nothing."""
    return pd.DataFrame({"run_id": run_ids, **dict.fromkeys(PROVENANCE, "unknown")})


def of_kind(kind: type[T], tables: Tables, **more: pd.DataFrame) -> T:
    """The same tables, with more, or less, of another kind of experiment."""
    kept = {name: value for name, value in vars(tables).items() if name in (*kind.names(), "about")}
    return kind(**kept, **more)


def measured(tables: Tables, rows_of: Callable[[TrainConfig], list[dict[str, Any]]]) -> pd.DataFrame:
    """A measure's table: these rows for each run that didn't diverge."""
    rows = [
        row | {"variant": run.variant, "group": run.group, "run_id": run.run_id, "seed": run.seed}
        for run, config in zip(tables.results.itertuples(), tables.configs(), strict=True)
        for row in (rows_of(config) if np.isnan(run.diverged_at) else [])
    ]
    return pd.DataFrame(rows)


def steady(**accuracies: float) -> Accuracy:
    """An accuracy for each norm; each further seed adds a hundredth of a point to all."""
    return lambda config: accuracies[config.norm] + 0.0001 * config.seed


def at(config: TrainConfig) -> tuple[str, float]:
    return config.norm, config.l1


def penalised(
    cells: Mapping[tuple[str, float], float | None],
    gains: Mapping[float, float] | None = None,
    *,
    only: int | None = None,
) -> PenaltyTables:
    """0.98 at each lambda and norm but these; None diverges, of all seeds or of the seed `only`. `gains` by lambda:
    what statistics of the test images add."""

    def accuracy(config: TrainConfig) -> float | None:
        found = cells.get(at(config), 0.98)
        return 0.98 if found is None and only not in (None, config.seed) else found

    def kinds(config: TrainConfig) -> list[dict[str, object]]:
        trained = accuracy(config) or 0.0
        rows = [("as trained", trained), ("re-estimated", trained + (gains or {}).get(config.l1, 0.0))]
        return [
            {"statistics": kind, "corruption": "none", "severity": 0, "accuracy": value, "loss": 0.1}
            for kind, value in (rows if config.norm == "bn" else rows[:1])
        ]

    tables = made(trials("penalty"), accuracy)
    zeros = measured(tables, lambda config: [{"zero_share": 0.25 if config.norm == "bn" else 0.5}])
    return of_kind(PenaltyTables, tables, weights=zeros, statistics=measured(tables, kinds))


def said(kind: Kind, tables: Tables) -> list[str]:
    """The findings of these tables as those of an experiment of this kind."""
    return pages.findings(replace(tables, about=About(report=kind)))
