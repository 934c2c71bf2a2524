"""Runs of the tracking server to the exported tables."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from normstudy.config import TRAIN_IMAGES, TrainConfig
from normstudy.errors import one_line
from normstudy.experiment import About
from normstudy.figures import ten_worst
from normstudy.files import archives, unpacked
from normstudy.report.errors import pictured
from normstudy.report.groups import finished
from normstudy.report.read import TrialRecord
from normstudy.report.tables import ErrorTables, T, Tables, image_table
from normstudy.report.validation import PROVENANCE
from normstudy.tracking import Metric

LAST = {
    "test_accuracy": Metric.TEST_ACCURACY,
    "test_loss": Metric.TEST_LOSS,
    "train_accuracy": Metric.TRAIN_ACCURACY,
    "val_accuracy": Metric.VAL_ACCURACY,
    "val_loss": Metric.VAL_LOSS,
}


def tables_of(kind: type[T], study: str, records: Sequence[TrialRecord], *, about: About | None = None) -> T:
    """The tables of this kind that are exported of these runs."""
    results = pd.DataFrame([_result(study, record) for record in records])
    tables = Tables(
        provenance=pd.DataFrame([_provenance(record) for record in records]),
        results=results,
        epochs=of_runs([record.epochs.reset_index() for record in records], results),
        misclassified=of_runs([record.misclassified for record in records], results),
        about=about or About(),
    )
    more = {
        str(measure): of_runs([record.measures.get(measure, pd.DataFrame()) for record in records], results)
        for measure in kind.measures()  # without rows where a run diverged
    }
    if issubclass(kind, ErrorTables):
        more["images"] = _images(tables, records)
    elif not all(is_full_size(record.config) for record in records):
        tables = replace(tables, misclassified=tables.misclassified[:0])
    return kind(**vars(tables), **more)


def is_full_size(config: TrainConfig) -> bool:
    """Whether a trial sees as many images, as often, as those of the main comparison."""
    return config.training_images == TRAIN_IMAGES and config.epochs >= TrainConfig().epochs


def _images(tables: Tables, records: Sequence[TrialRecord]) -> pd.DataFrame:
    """The pictures of each group's grid of ten, and where seeds can agree, of the images that they agree on."""
    pictures = {
        int(index): image
        for record in records
        if record.ten is not None
        for index, image in zip(ten_worst(record.misclassified)["index"], record.ten, strict=True)
    }
    if all(record.config.dataset == "mnist" for record in records) and tables.results["group"].duplicated().any():
        every = mnist_test_images()
        pictures |= {index: every[index] for index in pictured(finished(tables))}
    return image_table(pictures)


def _result(study: str, record: TrialRecord) -> dict[str, object]:
    last = record.epochs.iloc[-1] if record.diverged_at is None else {}
    return {
        "study": study,
        "variant": record.config.variant,
        "group": record.group,
        "run_id": record.run_id,
        **record.config.model_dump(exclude={"device"}),
        "parameters": record.parameters,
        **{name: last.get(str(metric), np.nan) for name, metric in LAST.items()},
        "errors": len(record.misclassified) if record.diverged_at is None else np.nan,
        "diverged_at": np.nan if record.diverged_at is None else record.diverged_at,
        "seconds_per_epoch": record.epochs[str(Metric.EPOCH_SECONDS)].mean(),
        "side_by_side": record.side_by_side,
        "stack": record.stack,
        "cores": record.cores,
    }


def _provenance(record: TrialRecord) -> dict[str, str]:
    known = {name: one_line(record.tags.get(tag, "")) or "unknown" for name, tag in PROVENANCE.items()}
    return {"run_id": record.run_id, **known}


def of_runs(tables: Sequence[pd.DataFrame], results: pd.DataFrame) -> pd.DataFrame:
    """The runs' tables, one below the other, each row with its run's identity."""
    runs = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    who = results[["variant", "group", "run_id", "seed"]].iloc[runs]
    # an empty table's columns have no type, and would take it from the others' numbers
    filled = [table for table in tables if len(table)] or list(tables[:1])
    return pd.concat([pd.concat(filled, ignore_index=True), who.reset_index(drop=True)], axis=1)


def mnist_test_images() -> np.ndarray:
    """MNIST's 10,000 test images, (n, 28, 28), of 0 to 255, from the package's archives."""
    content = dict(unpacked("mnist", archives("mnist")))["t10k-images-idx3-ubyte"]
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)  # 16 bytes of header
