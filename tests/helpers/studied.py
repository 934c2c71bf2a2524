"""What a store holds, and the small study that several tests read."""

import mlflow
from mlflow.entities import Run

from helpers.project import PROJECT, SMALL
from normstudy.experiment import load_experiment
from normstudy.tracking import Tag

EXPERIMENT = load_experiment(PROJECT / "experiments" / "main.py", SMALL, seeds=1)


def all_runs() -> list[Run]:
    """The runs of all experiments, but for deleted ones."""
    return list(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def study_run() -> str:
    [parent_id] = {run.data.tags[Tag.PARENT] for run in all_runs() if Tag.PARENT in run.data.tags}
    return parent_id
