"""The small study that several tests read."""

import mlflow

from helpers.project import PROJECT, SMALL
from normstudy.experiment import load_experiment
from normstudy.tracking import Tag

EXPERIMENT = load_experiment(PROJECT / "experiments" / "main.py", SMALL, seeds=1)


def study_run() -> str:
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    [parent_id] = {run.data.tags[Tag.PARENT] for run in runs if Tag.PARENT in run.data.tags}
    return parent_id
