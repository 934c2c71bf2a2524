"""What a study's own run says once its trials have finished: the mean accuracy of each group, its trials, and which of
them were there before. It goes to the study's record first, as all that a run logs."""

import json
import re
from collections.abc import Collection

import numpy as np
import pandas as pd

from normstudy.config import group_labels
from normstudy.experiment import Experiment
from normstudy.launch.registry import Registry, patiently
from normstudy.report.groups import brief_table, group_interval
from normstudy.report.tables import TEST_IMAGES
from normstudy.tracking import Artifact, Tag
from normstudy.tracking.event_log import EventLog
from normstudy.tracking.result import write_json
from normstudy.tracking.ui import ANSWER


def conclude(log: EventLog, experiment: Experiment, registry: Registry, before: Collection[str]) -> None:
    """Log what the study has come to. `before` has the keys of the trials that it did not train."""
    trials = trials_of(experiment, registry, before)
    finished = trials.groupby("group").filter(lambda runs: bool(runs["test_accuracy"].notna().all()))
    metrics: dict[str, float] = {}
    rows = []
    for group, runs in finished.groupby("group", sort=False):
        low, high = group_interval(runs)
        values = {"mean": runs["test_accuracy"].mean(), "low": low, "high": high}
        rows.append({"group": group, "n": len(runs), **{name: round(value, 5) for name, value in values.items()}})
        name = re.sub(r"[^\w.-]+", " ", str(group))  # MLflow takes no + and no comma
        # one section of the charts, and by its name below the runs' own
        metrics |= {f"variants/{name} {what}": float(value) for what, value in {**values, "n": len(runs)}.items()}
    groups = pd.DataFrame(rows).rename(columns={"mean": "mean_test_accuracy"})
    folder = log.files / "summary"
    write_json(folder / Artifact.GROUPS, groups.to_dict(orient="split", index=False))
    write_json(folder / Artifact.TRIALS, trials.replace({np.nan: None}).to_dict(orient="split", index=False))
    tables = [{"path": path, "type": "table"} for path in (Artifact.GROUPS, Artifact.TRIALS)]
    tags: dict[str, str] = {Tag.NOTE: study_description(experiment, trials, finished), Tag.TABLES: json.dumps(tables)}
    log.add_files("summary", tags=tags, metrics=metrics)


def trials_of(experiment: Experiment, registry: Registry, before: Collection[str]) -> pd.DataFrame:
    """A row for each trial: its group, seed, accuracy (none where it diverged), where it is, who trained it."""
    configs = experiment.configs
    found = patiently()(registry.accuracies, [config.trial_key for config in configs])
    rows = []
    for config, group in zip(configs, group_labels(configs), strict=True):
        run, accuracy = found.get(config.trial_key, ("", float("nan")))
        by = "before this study" if config.trial_key in before else "this study"
        rows.append({"group": group, "seed": config.seed, "test_accuracy": accuracy, "run": run, "trained": by})
    trials = pd.DataFrame(rows)
    return trials.assign(errors=(TEST_IMAGES * (1 - trials["test_accuracy"])).round())


def study_description(experiment: Experiment, trials: pd.DataFrame, finished: pd.DataFrame) -> str:
    """The description of the study's run, as Markdown."""
    means = finished.groupby("group")["test_accuracy"].mean().sort_values(ascending=False)
    first, _, rest = experiment.description.partition("\n")
    parts = [first]
    if len(means):
        ranked = ", ".join(f"{group} {100 * mean:.3f} %" for group, mean in means.items())
        parts += [f"{ANSWER}{ranked} (mean test accuracy)", brief_table(finished, [*means.index])]
        parts.append("The interval is of the mean over seeds; for one seed, of the drawing of the test images.")
    reused = trials[trials["trained"] != "this study"]
    if len(reused):
        named = ", ".join(f"{row.group}, seed {row.seed} (`{row.run}`)" for row in reused.itertuples())
        parts.append(f"**Trained before this study**, and used as they are: {named}")
    return "\n\n".join([*parts, rest.strip()])
