"""The trained network as a model that MLflow serves."""

import warnings

import mlflow
import torch
from mlflow.entities import LoggedModelStatus, Run
from mlflow.entities import Metric as MlflowMetric
from mlflow.models import Model, infer_signature

from normstudy.data import normalise
from normstudy.model import DigitNet
from normstudy.provenance import library_versions
from normstudy.tracking.store import own_location


def models_of(client: mlflow.MlflowClient, run: Run) -> list[mlflow.entities.LoggedModel]:
    """Those that the run has logged, whole or not."""
    query = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], filter_string=query))


def has_model(client: mlflow.MlflowClient, run: Run) -> bool:
    """Whether the run's model is there, whole."""
    return any(model.status == LoggedModelStatus.READY for model in models_of(client, run))


def log_model(run_id: str, model: DigitNet, step: int) -> None:
    """Log the model in eval mode as MLflow serves it, linked to the run and its metrics of `step`; once for a run."""
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_id)
    known = models_of(client, run)
    if any(one.status == LoggedModelStatus.READY for one in known):
        return
    unfinished = known[0] if known else None  # of a process that ended while it logged the model
    logged = unfinished or client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params
    )
    own_location(logged.artifact_location, f"model {logged.model_id}")
    linked = any(output.model_id == logged.model_id for output in (run.outputs.model_outputs if run.outputs else []))
    if linked:  # MLflow refuses to link it again, so its metrics are linked here; those that are already, stay
        client.log_batch(run_id, metrics=_metrics_of(run_id, logged.model_id, step))
    model.eval()  # what is exported in train mode keeps normalising by the batch
    pixels = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    example = normalise(pixels)  # 2 of them: so that the batch stays free
    with torch.inference_mode():
        answer = model(example)
    with warnings.catch_warnings():
        # torch's archive writer warns of weights that are not on the CPU, wherever they are
        warnings.filterwarnings("ignore", message="No complete tensor found")
        Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pytorch,
            run_id=None if linked else run_id,
            model_id=logged.model_id,
            step=step,
            pytorch_model=model,
            signature=infer_signature(example.numpy(), answer.numpy()),
            input_example=example.numpy(),
            pip_requirements=[f"{name}=={value}" for name, value in library_versions().items() if name != "python"],
        )


def _metrics_of(run_id: str, model_id: str, step: int) -> list[MlflowMetric]:
    """The run's metrics of a step, as a model's."""
    client = mlflow.MlflowClient()
    return [
        MlflowMetric(point.key, point.value, point.timestamp, point.step, model_id=model_id, run_id=run_id)
        for name in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, name)
        if point.step == step
    ]
