"""The files of a result: misclassified test images as pictures and tables, and the confusion matrix.

`log_image` and `log_table` are not called: both ask a server, and a run is kept on disk first. Nor could they be called
again after a kill. The one gives each call's file a new random name, so a picture is there twice; the other appends, so
each row is (`tests/test_mlflow_private.py` shows both). Here names depend on the trial alone, and what is sent again
takes its own place. What MLflow's UI needs to find them is the same: names of files, and two tags.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from normstudy import figures as plots
from normstudy.config import TrainConfig
from normstudy.data import Split
from normstudy.evaluate import Evaluation, confusion_matrix, misclassified
from normstudy.tracking import Artifact, Tag
from normstudy.tracking.mlflow_private import image_names
from normstudy.tracking.store import ten_name

PICTURES = "test/misclassified"  # of the image grid, which the UI so puts beside the test metrics
MOST_PICTURED = 50  # rows with a thumbnail, a file each; runs of the main comparison have 48 in the mean
TABLES = [{"path": path, "type": "table"} for path in (Artifact.BY_LOSS, Artifact.MISCLASSIFIED)]
SHOWN: dict[str, str] = {Tag.TABLES: json.dumps(TABLES), Tag.IMAGES: "True"}  # what the UI shows as tables and images


def write_result(folder: Path, config: TrainConfig, test: Evaluation, split: Split) -> int:
    """Write the files; how many images are misclassified."""
    table = misclassified(test, split)
    worst = plots.ten_worst(table)
    images = [split.images[index, 0].cpu().numpy() for index in worst["index"]]
    (folder / Artifact.TEN).mkdir(parents=True, exist_ok=True)
    write_json(folder / Artifact.MISCLASSIFIED, table.to_dict(orient="split", index=False))
    for row, image in zip(worst.itertuples(), images, strict=True):
        Image.fromarray(image).save(folder / Artifact.TEN / ten_name(row))
    for place, image in enumerate(images):  # from 0, where the UI's slider begins
        for name in image_names(PICTURES, step=place, of=config.trial_key):
            write_image(folder / name, image, scale=8)
    rows = [*rows_by_loss(folder, table, split)]
    write_json(folder / Artifact.BY_LOSS, pd.DataFrame(rows).to_dict(orient="split", index=False))
    title = f"{config.variant}: {len(table)} of {len(split):,} misclassified"
    plots.misclassified_grid(images, worst, title).savefig(folder / Artifact.GRID)
    counts = confusion_matrix(test, split)
    write_json(folder / Artifact.CONFUSION, counts.to_dict(orient="split"))
    plots.confusion(counts, config.variant).savefig(folder / Artifact.CONFUSION_FIGURE)
    return len(table)


def rows_by_loss(folder: Path, table: pd.DataFrame, split: Split) -> Iterator[dict[str, Any]]:
    """The misclassified images for people, highest loss first: rounded, each with its thumbnail."""
    for row in table.sort_values("loss", ascending=False, kind="stable").head(MOST_PICTURED).itertuples():
        path = f"{Artifact.THUMBNAILS}/index{row.index}.png"
        write_image(folder / path, split.images[row.index, 0].cpu().numpy(), scale=4)
        yield {
            "image": {"type": "image", "filepath": path, "compressed_filepath": path},
            "true": row.true,
            "predicted": row.predicted,
            "loss": round(row.loss, 3),
            "confidence": round(row.confidence, 3),
            "confidence_true": round(row.confidence_true, 3),
            "index": row.index,
        }


def write_image(path: Path, image: np.ndarray, *, scale: int) -> None:
    """Each pixel as a square of `scale` pixels: a browser would blur 28 of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)).save(path)


def write_json(path: Path, content: Any) -> None:
    """As MLflow writes dictionaries; its folder is made where it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
