"""What people meet first in MLflow's UI: the link to the chart view, and the description of an experiment."""

from collections.abc import Mapping
from urllib.parse import urlencode

import mlflow

from normstudy.tracking import Metric, Tag
from normstudy.tracking.store import where

ADDRESS = "http://127.0.0.1:5000"  # of `mlflow ui`
ANSWER = "**Answer**: "  # begins the line of a study's description that has it
HEAD = "Normalisation layers in a small CNN:"
MOST = 5_000  # characters of an experiment's tag, as MLflow takes it


def charts(experiment_id: str) -> str:
    """The chart view of the runs, behind the address of the UI: best run first, those of a study not folded into it."""
    view = {
        "workflowType": "machine_learning",  # or MLflow greets a new browser in its view for language models
        "compareRunsMode": "CHART",
        "orderByKey": f"metrics.`{Metric.TEST_ACCURACY}`",
        "orderByAsc": "false",
    }
    return f"#/experiments/{experiment_id}/runs?{urlencode(view)}"


def link(experiment_id: str, run_id: str = "") -> str:
    """Where MLflow's UI shows the charts of an experiment, or a run; with what starts the UI, where no server does."""
    place = f"#/experiments/{experiment_id}/runs/{run_id}" if run_id else charts(experiment_id)
    if where().startswith("http"):
        return f"{where()}/{place}"
    return f"{ADDRESS}/{place} after `normstudy ui`"


def description(experiment_id: str, studies: Mapping[str, Mapping[str, str]]) -> str:
    """Of an experiment with these studies, run id to tags, newest first; as Markdown. Of a study that ran several times
    the newest counts."""
    lines, seen = [], set()
    for run_id, tags in studies.items():
        name = tags.get(Tag.STUDY, tags.get(Tag.NAME, run_id))
        if name in seen:
            continue
        seen.add(name)
        said = tags.get(Tag.NOTE, "").splitlines()
        answer = next((line.removeprefix(ANSWER) for line in said if line.startswith(ANSWER)), "")
        parts = [f"[{name}](#/experiments/{experiment_id}/runs/{run_id}): {said[0] if said else ''}", answer]
        lines.append(" ".join(filter(None, parts)))
    head = f"{HEAD} [charts of the runs]({charts(experiment_id)})."
    while len("\n\n".join([f"{head} ", *lines])) > MOST:
        lines.pop()
    return f"{head} " + "\n\n".join(lines)  # the UI shows the first paragraph, and the others when asked


def describe_experiment(
    client: mlflow.MlflowClient, experiment_id: str, studies: Mapping[str, Mapping[str, str]]
) -> None:
    """Give the experiment its description, unless somebody has written one of their own."""
    text, old = description(experiment_id, studies), client.get_experiment(experiment_id).tags.get(Tag.NOTE, "")
    if old != text and (not old or old.startswith(HEAD)):
        client.set_experiment_tag(experiment_id, Tag.NOTE, text)
