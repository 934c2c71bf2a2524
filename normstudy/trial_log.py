"""What a trial logs to MLflow: before its first step, at each epoch, at its end."""

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlflow
import torch
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.models import infer_signature
from PIL import Image
from safetensors.torch import save_file
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from normstudy import plots
from normstudy.config import TrainConfig
from normstudy.data import Data, Split, normalise
from normstudy.evaluate import Evaluation, confusion_matrix, misclassified
from normstudy.model import DigitNet
from normstudy.provenance import git_state, library_versions, usable_cores
from normstudy.tracking import (
    Artifact,
    Metric,
    Tag,
    chosen_experiment,
    connect,
    create_run,
    end_run,
    identity,
    log_tags,
    ten_name,
)


@runtime_checkable  # lets the tests check the type of what is passed
class RunLog(Protocol):
    """What the training loop tells of one run."""

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None: ...
    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Opens runs; whoever opens one ends it, as FINISHED without an error, as KILLED or FAILED with one."""

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> RunLog: ...


class MlflowTracker:
    """Logs to MLflow: into the run that `run_ids` has for a trial's key, else the one `MLFLOW_RUN_ID` names, else a
    new one."""

    def __init__(self, run_ids: Mapping[str, str] | None = None) -> None:
        self.run_ids = run_ids or {}

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> "MlflowRun":
        connect()
        run_id = self.run_ids.get(config.trial_key) or os.environ.pop("MLFLOW_RUN_ID", None)
        run = MlflowRun(config, run_id or create_run(chosen_experiment(), identity(config)))
        try:
            log_start(run.run_id, config, data, parameters, device, stack)
        except BaseException as error:
            run.end(error)
            raise
        return run


def log_start(run_id: str, config: TrainConfig, data: Data, parameters: int, device: torch.device, stack: int) -> None:
    """Everything known before the first step: parameters, tags, datasets, the configuration."""
    resolved: dict[str, Any] = {**config.model_dump(), "parameters": parameters}
    # `mlflow run` has logged its -P values as they were typed, and MLflow refuses another spelling of the same value
    logged = mlflow.get_run(run_id).data.params
    tags = {
        **identity(config),
        Tag.NOTE: describe(config, "No result: this run has not finished."),
        Tag.CORES: usable_cores(),
        Tag.STACK: stack,
        "normstudy.data_digest": data.train.digest,
        "normstudy.device": device,
        "normstudy.threads": config.threads,
        **{f"normstudy.{name}": value for name, value in git_state().items()},
        **{f"normstudy.version.{name}": value for name, value in library_versions().items()},
    }
    log_tags(run_id, tags, {name: value for name, value in resolved.items() if name not in logged})
    log_datasets(run_id, {"train": data.train, "val": data.val, "test": data.test})
    mlflow.MlflowClient().log_dict(run_id, config.model_dump(), Artifact.CONFIG)


# two runs that log the same new dataset at once: MLflow inserts it for one and raises for the other (seen on sqlite)
@retry(
    retry=retry_if_exception_type(mlflow.MlflowException),
    stop=stop_after_attempt(5),
    wait=wait_random(0, 0.5),
    reraise=True,
)
def log_datasets(run_id: str, splits: Mapping[str, Split | None]) -> None:
    """Log each split as an input of the run, with its digest."""
    from torchvision.datasets import MNIST  # see data.load_mnist

    inputs = []
    for context, split in splits.items():
        if split is None:
            continue
        images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
        digested = from_numpy(
            images, source=MNIST.mirrors[-1], targets=labels, name=f"MNIST {context}", digest=split.digest
        )
        tags = [InputTag("mlflow.data.context", context)]
        inputs.append(DatasetInput(Dataset(**digested.to_dict()), tags))
    mlflow.MlflowClient().log_inputs(run_id, inputs)


class MlflowRun:
    """The open MLflow run of one trial."""

    def __init__(self, config: TrainConfig, run_id: str) -> None:
        self.config, self.run_id, self.ended = config, run_id, False

    def epoch(self, epoch: int, metrics: Mapping[Metric, float], model_id: str | None = None) -> None:
        """One epoch's metrics, counted from 1."""
        values = {str(name): value for name, value in metrics.items()}
        mlflow.log_metrics(values, step=epoch, run_id=self.run_id, model_id=model_id)

    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None:
        """The last epoch: the model, the metrics, linked to it, and the result; the run ends as FINISHED.

        `split` is the whole test set in its fixed order, so an image's index is its place.
        """
        with mlflow.start_run(run_id=self.run_id):  # MLflow logs a model to the active run alone
            self.epoch(epoch, metrics, model_id=self.model(model))
            self.result(test, split)
        self.ended = True

    def end(self, error: BaseException | None) -> None:
        """End the run, unless it has ended."""
        if not self.ended:
            end_run(self.run_id, error)
            self.ended = True

    def model(self, model: DigitNet) -> str | None:
        """Log the weights as safetensors, and the model in eval mode as MLflow serves it; the logged model's id."""
        model.eval()  # what is exported in train mode keeps normalising by the batch
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / Path(Artifact.WEIGHTS).name
            # safetensors stores contiguous tensors only
            save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, weights)
            mlflow.log_artifact(str(weights), str(Path(Artifact.WEIGHTS).parent))
        device = next(model.parameters()).device
        example = normalise(torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8))  # 2: so that the batch stays free
        with torch.inference_mode():
            answer = model(example.to(device)).cpu()
        with warnings.catch_warnings():
            # torch's archive writer warns of weights that are not on the CPU, wherever they are
            warnings.filterwarnings("ignore", message="No complete tensor found")
            info = mlflow.pytorch.log_model(
                model,
                name="model",
                signature=infer_signature(example.numpy(), answer.numpy()),
                input_example=example.numpy(),
                pip_requirements=[f"{name}=={value}" for name, value in library_versions().items() if name != "python"],
            )
        return info.model_id

    def result(self, test: Evaluation, split: Split) -> None:
        """Log the misclassified test images, the confusion matrix, and the description that people read in the UI."""
        table = misclassified(test, split)
        mlflow.log_table(table, Artifact.MISCLASSIFIED)
        worst = plots.ten_worst(table)
        images = [split.images[index, 0].cpu() for index in worst["index"]]
        with tempfile.TemporaryDirectory() as folder:
            for row, image in zip(worst.itertuples(), images, strict=True):
                Image.fromarray(image.numpy()).save(Path(folder) / ten_name(row))
            mlflow.log_artifacts(folder, Artifact.TEN)
        variant = self.config.variant
        title = plots.grid_title(variant, test.accuracy, len(table), len(split))
        mlflow.log_figure(plots.misclassified_grid([image.numpy() for image in images], worst, title), Artifact.GRID)
        counts = confusion_matrix(test, split)
        mlflow.log_dict(counts.to_dict(orient="split"), Artifact.CONFUSION)
        mlflow.log_figure(plots.confusion(counts, variant), Artifact.CONFUSION_FIGURE)
        result = (
            f"**Result** (last epoch, {self.config.epochs}): test accuracy {100 * test.accuracy:.2f} %, "
            f"test loss {test.loss:.4f}, {len(table)} of {len(split):,} test images misclassified."
        )
        mlflow.set_tag(Tag.NOTE, describe(self.config, result))


def describe(config: TrainConfig, result: str) -> str:
    """The run's description in the UI, as Markdown: what it is, what came out, how to repeat it."""
    what = f"DigitNet with {config.variant} on MNIST, {config.training_images:,} images, seed {config.seed}."
    return f"{what}\n\n{result}\n\nTo repeat it:\n\n```\n{config.command()}\n```"
