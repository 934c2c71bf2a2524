"""What a store holds, and the small study that several tests read."""

from collections.abc import Sequence

import mlflow
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param, Run

from helpers.project import PROJECT, SMALL
from normstudy.config import TrainConfig
from normstudy.experiment import load_experiment
from normstudy.report.validation import COLUMNS
from normstudy.tracking import Artifact, Metric, Tag
from normstudy.tracking.store import identity

EXPERIMENT = load_experiment(PROJECT / "experiments" / "main.py", SMALL, seeds=1)


def all_runs() -> list[Run]:
    """The runs of all experiments, but for deleted ones."""
    return list(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def finished_run(config: TrainConfig, *, steps: Sequence[int], accuracy: float | None = None) -> str:
    """Log a finished run with all that the report reads and no error, at these steps: made-up numbers, of which the
    last accuracy is 1."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("normstudy")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("normstudy")
    tags = {**identity(config), Tag.CORES: "2", Tag.SIDE_BY_SIDE: "1"}
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    first = 1 - 0.001 * len(steps) if accuracy is None else accuracy
    client.log_batch(
        run_id,
        metrics=[MlflowMetric(str(name), first + 0.001 * step, step, step) for name in Metric for step in steps],
        params=[Param(name, str(value)) for name, value in {**config.model_dump(), "parameters": 7522}.items()],
    )
    client.log_dict(run_id, {"columns": [*COLUMNS], "data": []}, Artifact.MISCLASSIFIED)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def study_run() -> str:
    [parent_id] = {run.data.tags[Tag.PARENT] for run in all_runs() if Tag.PARENT in run.data.tags}
    return parent_id
