"""The trained network as a model that MLflow serves: raw pixels in, class and probabilities out."""

import json
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import torch
from jaxtyping import Float, UInt8
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.entities import Metric as MlflowMetric
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from safetensors.torch import load_file
from torch import Tensor, nn

from normstudy.config import TrainConfig
from normstudy.data import normalise
from normstudy.model import CLASSES, DigitNet
from normstudy.provenance import library_versions
from normstudy.tracking import Metric, Tag, TrainedModel, unpacked_tags
from normstudy.tracking.store import own_location, pages

IMAGE = (1, 28, 28)
PROGRAM = "data/model.pt2"  # where MLflow keeps the traced network
SERVING = ("torch", "mlflow", "numpy")  # what a server of the model needs
OUTPUT = TensorSpec(np.dtype(np.float32), (-1, 1 + CLASSES), "class, then the probability of each class")
# without a name for the input: of a named one MLflow makes a dictionary, which its PyTorch flavor refuses
SIGNATURE = ModelSignature(Schema([TensorSpec(np.dtype(np.uint8), (-1, *IMAGE))]), Schema([OUTPUT]))
INTERFACE = (
    "**Input**: images of 28 x 28 grey pixels, light on dark as in MNIST, uint8 from 0 to 255, shape (n, 1, 28, 28). "
    "Normalisation is part of the model. A server truncates fractions, so pixels from 0 to 1 all become 0.\n\n"
    f"**Output**: float32, shape (n, {1 + CLASSES}): the class, then the probability of each of the {CLASSES} classes."
)
NEWEST = "newest"  # the alias; MLflow keeps `latest` for itself
STARTED = "normstudy.run_started"  # tag of a version: milliseconds since the epoch
TAGS = (Tag.VARIANT, Tag.TRIAL_KEY, Tag.DATA_DIGEST, Tag.GIT_COMMIT, Tag.GIT_DIRTY, Tag.DEVICE, Tag.TORCH)


class Classifier(nn.Module):
    """The network behind raw pixels. One tensor answers all, as MLflow's PyTorch flavor takes no other answer."""

    def __init__(self, network: DigitNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: UInt8[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 11"]:
        logits = self.network(normalise(images))
        return torch.cat([logits.argmax(1, keepdim=True).float(), logits.softmax(1)], dim=1)


def models_of(client: mlflow.MlflowClient, run: Run) -> list[LoggedModel]:
    """Those that the run has logged, whole or not."""
    query = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], filter_string=query))


def has_model(client: mlflow.MlflowClient, run: Run) -> bool:
    """Whether the run's model is there, whole."""
    return any(model.status == LoggedModelStatus.READY for model in models_of(client, run))


def log_model(run_id: str, trained: TrainedModel, weights: Path) -> None:
    """Log the network in eval mode as MLflow serves it, linked to the run and to its metrics of the last epoch and
    their datasets; once for a run."""
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_id)
    known = models_of(client, run)
    if any(one.status == LoggedModelStatus.READY for one in known):
        return
    # one that is not whole is of a process that ended while it logged the model
    logged = known[0] if known else _create(client, run, trained)
    own_location(logged.artifact_location, f"model {logged.model_id}")
    # MLflow refuses to link it twice, with the database's own error
    if all(output.model_id != logged.model_id for output in (run.outputs.model_outputs if run.outputs else [])):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, trained.step)])
    client.log_batch(run_id, metrics=[*_metrics_of(client, run, logged.model_id, trained.step)])
    network = DigitNet(trained.norm, network=trained.network, groups=trained.groups)
    network.load_state_dict(load_file(weights))
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        # torch's archive writer warns of weights that are not on the CPU, wherever they are
        warnings.filterwarnings("ignore", message="No complete tensor found")
        exported = _exported(trained.norm, trained.network, trained.groups, trained.example)
        exported.write(Path(folder), Classifier(network), logged)
        client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


class _Exported:
    """What MLflow saves of one network, with any weights; `write` replaces these."""

    def __init__(self, classifier: Classifier, example: UInt8[np.ndarray, "n 1 28 28"]) -> None:
        classifier.eval()  # what is exported in train mode keeps normalising by the batch
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            mlflow.pytorch.save_model(
                classifier,
                folder,
                signature=SIGNATURE,
                input_example=example,
                pip_requirements=[f"{name}=={library_versions()[name]}" for name in SERVING],
            )
            self.program = torch.export.load(folder / PROGRAM)
            self.described = Model.load(folder).to_dict()
            self.files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def write(self, folder: Path, classifier: Classifier, logged: LoggedModel) -> None:
        """The same with this network's weights, as this model."""
        for name, value in classifier.state_dict().items():
            self.program.state_dict[name].data.copy_(value)
        for path, content in self.files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        torch.export.save(self.program, folder / PROGRAM)
        own = {"model_id": logged.model_id, "model_uuid": logged.model_id, "artifact_path": logged.artifact_location}
        Model.from_dict({**self.described, **own, "utc_time_created": None}).save(folder / "MLmodel")


# Of a network the first takes a second, 3 where it is the first of a process; then one takes a tenth. `write` changes
# what is kept here: only one thread of a process sends.
@lru_cache(8)
def _exported(norm: str, network: str, groups: int, example: str) -> _Exported:
    # a copy, as torch warns of memory that it can't write to
    images = np.frombuffer(bytes.fromhex(example), np.uint8).reshape(-1, *IMAGE).copy()
    # two images or more: so that the batch stays free
    several = images if len(images) > 1 else np.zeros((2, *IMAGE), np.uint8)
    return _Exported(Classifier(DigitNet(norm, network=network, groups=groups)), several)


def _create(client: mlflow.MlflowClient, run: Run, trained: TrainedModel) -> LoggedModel:
    tags, params = unpacked_tags(run.data.tags), run.data.params
    return client.create_logged_model(
        run.info.experiment_id,
        name=trained.name,
        source_run_id=run.info.run_id,
        params={name: params[name] for name in (*TrainConfig.model_fields, "parameters") if name in params},
        tags={
            Tag.NOTE: "\n\n".join(filter(None, [trained.description, INTERFACE])),
            **_tags_of_model(tags),
        },
    )


def _tags_of_model(tags: Mapping[str, str]) -> dict[str, str]:
    return {str(name): tags[name] for name in TAGS if name in tags}


def _metrics_of(client: mlflow.MlflowClient, run: Run, model_id: str, step: int) -> Iterator[MlflowMetric]:
    """The run's metrics of a step as a model's, each with the dataset that it was measured on."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    datasets = {tag.value: (one.dataset.name, one.dataset.digest) for one in inputs for tag in one.tags}
    for name in [str(metric) for metric in Metric if metric in run.data.metrics]:
        dataset, digest = datasets.get(name.partition("/")[0], (None, None))
        for point in client.get_metric_history(run.info.run_id, name):
            if point.step == step:
                yield MlflowMetric(
                    name,
                    point.value,
                    point.timestamp,
                    step,
                    model_id=model_id,
                    run_id=run.info.run_id,
                    dataset_name=dataset,
                    dataset_digest=digest,
                )


def register(client: mlflow.MlflowClient, run_id: str, name: str) -> None:
    """Make the run's model a version of the registered model `name`, once for a run, and point the alias `newest` to
    the version whose run started last: runs may arrive in another order, from another machine or by `sync`."""
    run, found = client.get_run(run_id), f"name = '{name}'"
    [model] = [one for one in models_of(client, run) if one.status == LoggedModelStatus.READY]
    try:
        client.create_registered_model(name, description=INTERFACE)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if all(version.run_id != run_id for version in pages(client.search_model_versions, filter_string=found)):
        version = client.create_model_version(
            name,
            f"models:/{model.model_id}",
            run_id=run_id,
            model_id=model.model_id,
            tags={**_tags_of_model(model.tags), STARTED: str(run.info.start_time)},
            description=model.tags.get(Tag.NOTE),
            await_creation_for=0,
        ).version
        # its server does this, its client with a database doesn't, and the model's page says "not registered"
        versions = json.dumps([{"name": name, "version": version}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: versions})
    pointed = None
    while True:  # another process may have added a version, or pointed to its own, meanwhile
        known = list(pages(client.search_model_versions, filter_string=found))
        newest = max(known, key=lambda version: int(version.tags.get(STARTED, 0))).version
        if newest == pointed:
            return
        client.set_registered_model_alias(name, NEWEST, newest)
        pointed = newest
