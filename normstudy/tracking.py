"""What a run logs to MLflow, and how it ends. The only writer of runs."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlflow
import torch
from mlflow.data.numpy_dataset import from_numpy
from mlflow.models import infer_signature
from PIL import Image
from safetensors.torch import save_file
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from normstudy import plots
from normstudy.config import TrainConfig
from normstudy.data import Data, Split, normalise
from normstudy.errors import Diverged, Interrupted
from normstudy.evaluate import Evaluation, confusion_matrix, misclassified, ten_worst
from normstudy.model import DigitNet
from normstudy.provenance import PROJECT, git_state, library_versions, usable_cores


class Metric(StrEnum):
    """Names of the metrics of a run. Losses are mean cross-entropies in nats, accuracies fractions."""

    TRAIN_LOSS = "train/loss"
    TRAIN_ACCURACY = "train/accuracy"
    TRAIN_PENALTY = "train/penalty"
    VAL_LOSS = "val/loss"
    VAL_ACCURACY = "val/accuracy"
    TEST_LOSS = "test/loss"
    TEST_ACCURACY = "test/accuracy"
    LEARNING_RATE = "learning_rate"
    EPOCH_SECONDS = "epoch_seconds"


class Tag(StrEnum):
    """Names of the tags that reader and writer share."""

    TRIAL_KEY = "normstudy.trial_key"
    VARIANT = "normstudy.variant"
    STUDY = "normstudy.study"
    SIDE_BY_SIDE = "normstudy.side_by_side"
    CORES = "normstudy.cores"
    FAILURE = "normstudy.failure"
    FAILURE_STEP = "normstudy.failure_step"
    NOTE = "mlflow.note.content"
    NAME = "mlflow.runName"
    PARENT = "mlflow.parentRunId"


class Artifact(StrEnum):
    """Paths of a run's artifacts."""

    CONFIG = "config.json"
    STUDY = "study.json"
    WEIGHTS = "weights/model.safetensors"
    MISCLASSIFIED = "misclassified/table.json"
    GRID = "misclassified/grid.png"
    TEN = "misclassified/images"
    CONFUSION = "confusion_matrix.json"
    CONFUSION_FIGURE = "confusion_matrix.png"


@runtime_checkable  # lets the tests check the type of what is passed
class RunLog(Protocol):
    """What the training loop tells of one run."""

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None: ...
    def model(self, model: DigitNet) -> None: ...
    def result(self, test: Evaluation, split: Split) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Opens a run; the context ends it as FINISHED, KILLED or FAILED, whatever happens inside."""

    def run(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device
    ) -> AbstractContextManager[RunLog]: ...


def connect() -> str:
    """Point MLflow at `MLFLOW_TRACKING_URI`, or at `mlflow.db` in the project; return the URI.

    A server that is away is asked for half a minute, not MLflow's four.
    """
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{PROJECT / 'mlflow.db'}")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return os.environ["MLFLOW_TRACKING_URI"]


def choose_experiment() -> None:
    """Log into the experiment `normstudy`, unless the environment names another one or a run."""
    if not any(os.environ.get(f"MLFLOW_{name}") for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME")):
        mlflow.set_experiment("normstudy")


class MlflowTracker:
    """Logs to MLflow: into the run that `MLFLOW_RUN_ID` names, or a new one."""

    @contextmanager
    def run(self, config: TrainConfig, data: Data, parameters: int, device: torch.device) -> Iterator["MlflowRun"]:
        connect()
        choose_experiment()
        with ended_truly(mlflow.start_run()) as run_id:
            log_start(run_id, config, data, parameters, device)
            yield MlflowRun(config)


@contextmanager
def ended_truly(active_run: mlflow.ActiveRun) -> Iterator[str]:
    """Ends the run as its block ended: FINISHED, KILLED at a signal, FAILED, with the reason as a tag, at an error."""
    state = "FINISHED"
    try:
        yield active_run.info.run_id
    except BaseException as error:
        state = "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"
        first_line = next(iter(str(error).splitlines()), "")
        mlflow.set_tag(Tag.FAILURE, f"{type(error).__name__}: {first_line}")
        if isinstance(error, Diverged):
            mlflow.set_tag(Tag.FAILURE_STEP, error.step)
        raise
    finally:
        mlflow.end_run(state)


@contextmanager
def open_study(
    name: str, question: str, configs: Sequence[TrainConfig], side_by_side: int
) -> Iterator[tuple[str, list[str]]]:
    """A parent run, ended truly, with one nested run created for each configuration; gives its id and theirs.

    One process creates them all, so the trials never race for an empty store.
    """
    connect()
    choose_experiment()
    with ended_truly(mlflow.start_run()) as parent_id:
        mlflow.set_tags({Tag.NAME: f"study {name}", Tag.STUDY: name, Tag.NOTE: question})
        trials = [{"variant": config.variant, **config.model_dump()} for config in configs]
        mlflow.log_dict({"study": name, "trials": trials}, Artifact.STUDY)
        client, experiment_id = mlflow.MlflowClient(), mlflow.get_run(parent_id).info.experiment_id
        tags: list[dict[str, Any]] = [
            {
                **identity(config),
                Tag.PARENT: parent_id,
                Tag.STUDY: name,
                Tag.SIDE_BY_SIDE: str(side_by_side),
            }
            for config in configs
        ]
        run_ids = [client.create_run(experiment_id, tags=tag).info.run_id for tag in tags]
        try:
            yield parent_id, run_ids
        finally:
            for run_id in run_ids:
                end_if_left_running(run_id)


def identity(config: TrainConfig) -> dict[str, str]:
    """Tags that say which trial a run is."""
    return {
        Tag.NAME: f"{config.variant}, seed {config.seed}",
        Tag.TRIAL_KEY: config.trial_key,
        Tag.VARIANT: config.variant,
    }


def end_if_left_running(run_id: str) -> None:
    """Ends as KILLED a run whose process is gone without having ended it, or never started."""
    if status_of(run_id) in ("RUNNING", "SCHEDULED"):
        client = mlflow.MlflowClient()
        client.set_tag(run_id, Tag.FAILURE, "its process ended without a word, or never started")
        client.set_terminated(run_id, "KILLED")


def status_of(run_id: str) -> str:
    """RUNNING, FINISHED, FAILED, KILLED or SCHEDULED."""
    return mlflow.get_run(run_id).info.status


def log_to_run(run_id: str, artifact: Path) -> None:
    """Add a file to a run that has ended, and leave its state as it is."""
    connect()
    mlflow.MlflowClient().log_artifact(run_id, str(artifact))


def log_start(run_id: str, config: TrainConfig, data: Data, parameters: int, device: torch.device) -> None:
    """Everything known before the first step: parameters, tags, datasets, the configuration."""
    resolved: dict[str, Any] = {**config.model_dump(), "parameters": parameters}
    # `mlflow run` has logged its -P values as they were typed, and MLflow refuses another spelling of the same value
    logged = mlflow.get_run(run_id).data.params
    mlflow.log_params({name: value for name, value in resolved.items() if name not in logged})
    mlflow.set_tags(
        {
            **identity(config),
            Tag.NOTE: describe(config, "No result: this run has not finished."),
            "normstudy.data_digest": data.train.digest(),
            "normstudy.device": str(device),
            "normstudy.threads": config.threads,
            Tag.CORES: usable_cores(),
            **{f"normstudy.{name}": value for name, value in git_state().items()},
            **{f"normstudy.version.{name}": value for name, value in library_versions().items()},
        }
    )
    for context, split in {"train": data.train, "val": data.val, "test": data.test}.items():
        if split is not None:
            log_dataset(split, context)
    mlflow.log_dict(config.model_dump(), Artifact.CONFIG)


# two runs that log the same new dataset at once: MLflow inserts it for one and raises for the other (seen on sqlite)
@retry(
    retry=retry_if_exception_type(mlflow.MlflowException),
    stop=stop_after_attempt(5),
    wait=wait_random(0, 0.5),
    reraise=True,
)
def log_dataset(split: Split, context: str) -> None:
    """Log a split as an input of the active run, with its digest."""
    from torchvision.datasets import MNIST  # see data.load_mnist

    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    dataset = from_numpy(
        images, source=MNIST.mirrors[-1], targets=labels, name=f"MNIST {context}", digest=split.digest()
    )
    mlflow.log_input(dataset, context=context)


class MlflowRun:
    """The open MLflow run of one trial."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model_id: str | None = None

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None:
        """One epoch's metrics, counted from 1; linked to the model once that is logged."""
        mlflow.log_metrics({str(name): value for name, value in metrics.items()}, step=epoch, model_id=self.model_id)

    def model(self, model: DigitNet) -> None:
        """The weights as safetensors, and the model in eval mode as MLflow serves it."""
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
        self.model_id = info.model_id

    def result(self, test: Evaluation, split: Split) -> None:
        """The misclassified test images, the confusion matrix, and the description that people read in the UI.

        `split` is the whole test set in its fixed order, so an image's index is its place.
        """
        table = misclassified(test, split)
        mlflow.log_table(table, Artifact.MISCLASSIFIED)
        worst = ten_worst(table)
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


def ten_name(row: Any) -> str:
    """File name of one of the ten images; `row` is its row of the table."""
    return f"index{row.index}_true{row.true}_predicted{row.predicted}.png"


def describe(config: TrainConfig, result: str) -> str:
    """The run's description in the UI, as Markdown: what it is, what came out, how to repeat it."""
    what = f"DigitNet with {config.variant} on MNIST, {config.training_images:,} images, seed {config.seed}."
    return f"{what}\n\n{result}\n\nTo repeat it:\n\n```\n{config.command()}\n```"
