"""Synthetic finished runs, for tests of the report only: nothing in them was trained.

They hold all that `normstudy.report` reads, drawn by a generator seeded with the trial; no number of theirs is a
result.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param
from PIL import Image

from normstudy.config import TrainConfig
from normstudy.figures import ten_worst
from normstudy.report.read import CURVES, HELD_OUT
from normstudy.report.tables import TEST_IMAGES
from normstudy.tracking import Artifact, Metric, Tag
from normstudy.tracking.store import connect, identity, ten_name

WRITERS = 8  # threads


def log_fake_runs(variants: list[TrainConfig], seeds: int) -> None:
    """Log a finished run of each variant with each of the seeds 0 to `seeds` - 1, where `MLFLOW_TRACKING_URI` points.

    Losses, accuracies and errors look like those of 20 epochs on MNIST; they are synthetic.
    """
    connect()
    client, experiment = mlflow.MlflowClient(), mlflow.set_experiment("normstudy")
    configs = [config.model_copy(update={"seed": seed}) for seed in range(seeds) for config in variants]
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda config: log_fake_run(client, experiment.experiment_id, config), configs):
            pass


def log_fake_run(client: mlflow.MlflowClient, experiment_id: str, config: TrainConfig) -> str:
    """Log one finished run with made-up numbers; return its id."""
    generator = np.random.default_rng(int(config.trial_key, 16))
    table = fake_errors(generator)
    tags = {**identity(config), Tag.SIDE_BY_SIDE: "3", Tag.CORES: "2"}
    run_id: str = client.create_run(experiment_id, tags=tags).info.run_id
    params = {**config.model_dump(), "parameters": 7522}
    now = int(1000 * time.time())
    client.log_batch(
        run_id,
        metrics=[
            MlflowMetric(str(name), float(value), now + epoch, epoch)
            for name, values in fake_curves(generator, config, len(table)).items()
            for epoch, value in enumerate(values, start=1)
        ],
        params=[Param(name, str(value)) for name, value in params.items()],
    )
    client.log_dict(run_id, config.model_dump(), Artifact.CONFIG)
    client.log_dict(run_id, table.to_dict(orient="split", index=False), Artifact.MISCLASSIFIED)
    with tempfile.TemporaryDirectory() as folder:
        for row in ten_worst(table).itertuples():
            image = generator.integers(256, size=(28, 28), dtype=np.uint8)
            Image.fromarray(image).save(Path(folder) / ten_name(row))
        client.log_artifacts(run_id, folder, Artifact.TEN)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def fake_errors(generator: np.random.Generator) -> pd.DataFrame:
    """30 to 60 made-up misclassified images, columns as in `evaluate.misclassified`."""
    count = int(generator.integers(30, 61))
    hard = np.arange(0, TEST_IMAGES, 100)  # as in real runs, most errors are on the same few images
    table = pd.DataFrame({"index": np.sort(generator.choice(hard, count, replace=False))})
    return table.assign(
        true=table["index"] // 100 % 10,
        predicted=(table["index"] // 100 + generator.integers(1, 10, size=count)) % 10,
        confidence=generator.uniform(0.5, 1, count),
        confidence_true=generator.uniform(0.01, 0.5, count),
        loss=lambda rows: -np.log(rows["confidence_true"]),
    )


def fake_curves(generator: np.random.Generator, config: TrainConfig, errors: int) -> dict[Metric, np.ndarray]:
    """Made-up values by epoch for each metric that the report reads; the last test accuracy agrees with `errors`."""
    metrics = [*CURVES, *(HELD_OUT if config.val_size else ())]
    accuracies = 1 - errors / TEST_IMAGES - 0.01 * np.arange(config.epochs)[::-1]
    return {metric: generator.uniform(0.1, 0.2, config.epochs) for metric in metrics} | {
        Metric.TEST_ACCURACY: accuracies
    }
