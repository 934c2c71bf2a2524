"""Trials as processes that tests kill, and what must have come of them: the outcome of a run, to the byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run, ViewType

from helpers.project import clean_environment
from helpers.started import MAIN, Started
from normstudy.config import TrainConfig
from normstudy.tracking import Artifact, Metric, Tag

KILLED_TRIAL = TrainConfig(norm="bn", l1=1e-5, epochs=6, train_size=640, device="cpu")
METRICS = [metric for metric in Metric if metric not in (Metric.VAL_LOSS, Metric.VAL_ACCURACY)]
THREE_TRIALS = '''"""Do three trials end well?"""

from normstudy.config import TrainConfig


def trials():
    return [TrainConfig(norm=norm, epochs={epochs}, train_size=640, device="cpu") for norm in ("bn", "gn", "ln")]
'''


# Other machines' heartbeats are watched for as long as these need to be told from the dead, and no longer.
QUICK = f"""
from normstudy.launch import registry
from normstudy.tracking import uploader
registry.STALE_SECONDS, registry.WATCH_SECONDS, uploader.HEARTBEAT_SECONDS = 6.0, 0.5, 0.5
{MAIN}
"""


def options(config: TrainConfig) -> list[str]:
    """The command line of a trial."""
    return config.command().split()[4:]


@dataclass(kw_only=True)
class Place:
    """A store with the records of this machine beside it."""

    folder: Path
    store: str
    machine: str = "state"  # name of the folder of its records: another one is another machine
    started: list[Started] = field(default_factory=list)

    @classmethod
    def at(cls, folder: Path, migrated: Path) -> "Place":
        """An SQLite store in a new folder, copied from one that has its tables."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlflow.db").write_bytes(migrated.read_bytes())
        return cls(folder=folder, store=f"sqlite:///{folder / 'mlflow.db'}")

    @property
    def state(self) -> Path:
        return self.folder / self.machine

    def elsewhere(self, name: str) -> "Place":
        """The same store as another machine uses it; its processes end with those of this one."""
        return replace(self, machine=name)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.store)

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(self.store, **{"NORMSTUDY_STATE": str(self.state), **more})

    def start(self, *arguments: str, code: str = MAIN, alone: bool = False, **environment: str) -> Started:
        """`python -m normstudy ...`, or this code with these arguments; killed with the test at the latest."""
        self.started.append(Started(self.folder, self.environment(**environment), code, arguments, alone=alone))
        return self.started[-1]

    def train(self, config: TrainConfig, *more: str, **environment: str) -> Started:
        return self.start("train", *options(config), *more, code=MAIN, alone=False, **environment)

    def run(self, *arguments: str, **environment: str) -> Started:
        """`start`, and wait for its end."""
        started = self.start(*arguments, code=MAIN, alone=arguments[0] == "study", **environment)
        started.wait()
        return started

    def finish(self, config: TrainConfig) -> None:
        """Run the trial to its end."""
        done = self.run("train", *options(config))
        assert done.status == 0, done.stdout + done.stderr

    def runs(self, query: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, query, view))

    def run_of(self, config: TrainConfig) -> Run:
        """The one run of a trial. Deleted ones count too."""
        [run] = self.runs(f"tags.`{Tag.TRIAL_KEY}` = '{config.trial_key}'", ViewType.ALL)
        return run

    def checkpoints(self) -> list[Path]:
        """Of all its trials, the newest first."""
        return sorted(self.state.glob("checkpoints/*/epoch_*.pt"), reverse=True)

    def stop(self) -> None:
        """Kill what is left of this test's processes."""
        for started in self.started:
            if not started.ended():
                started.kill()


@contextmanager
def stopping(place: Place) -> Iterator[Place]:
    try:
        yield place
    finally:
        place.stop()


def require_whole(place: Place, config: TrainConfig, run: Run | None = None) -> Run:
    """The trial's only run, or this one, FINISHED, with each epoch once, all artifacts and one model."""
    run = run or place.run_of(config)
    assert run.info.status == "FINISHED"
    assert Tag.FAILURE not in run.data.tags
    for metric in METRICS:
        steps = [point.step for point in place.client.get_metric_history(run.info.run_id, metric)]
        assert steps == list(range(1, config.epochs + 1)), metric
    models = place.client.search_logged_models([run.info.experiment_id])
    [model] = [model for model in models if model.source_run_id == run.info.run_id]
    assert model.status == "READY"
    outputs = place.client.get_run(run.info.run_id).outputs
    assert outputs
    [output] = outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, config.epochs)
    return run


def outcome(place: Place, run: Run) -> dict[str, bytes | str]:
    """All that a run has come to: each artifact's bytes, and each metric but the time it took, to the last bit."""
    root = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, tracking_uri=place.store))
    found: dict[str, bytes | str] = {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()
    }
    assert {Artifact.WEIGHTS, Artifact.MISCLASSIFIED, Artifact.GRID, Artifact.CONFUSION} <= set(found)
    assert sum(name.startswith(Artifact.TEN) for name in found) == 10
    for metric in METRICS:
        if metric != Metric.EPOCH_SECONDS:
            history = place.client.get_metric_history(run.info.run_id, metric)
            found[metric] = " ".join(point.value.hex() for point in history)
    return found


def require_same(place: Place, config: TrainConfig, expected: dict[str, bytes | str], run: Run | None = None) -> None:
    """The trial has come, as one whole run, to the same to the byte."""
    found = outcome(place, require_whole(place, config, run))
    assert set(found) == set(expected)
    assert [name for name, content in found.items() if content != expected[name]] == []


def three_trials(place: Place, *, epochs: int) -> str:
    """The file of an experiment."""
    file = place.folder / "three.py"
    file.write_text(THREE_TRIALS.format(epochs=epochs))
    return str(file)


def require_whole_study(place: Place, epochs: int) -> None:
    """Of `three_trials`: one FINISHED run a trial, below one FINISHED parent; each epoch once, all artifacts."""
    [parent] = place.runs(f"tags.`{Tag.STUDY_KEY}` LIKE '%'", ViewType.ALL)
    trials = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'", ViewType.ALL)
    assert parent.info.status == "FINISHED"
    assert sorted(run.data.tags[Tag.VARIANT] for run in trials) == ["BN", "GN", "LN"]
    for run in trials:
        assert run.data.tags[Tag.PARENT] == parent.info.run_id
        outcome(place, require_whole(place, KILLED_TRIAL.model_copy(update={"epochs": epochs}), run))


@pytest.fixture
def place(tmp_path: Path, migrated_store: Path) -> Iterator[Place]:
    """A store of this test's own; its processes end with the test."""
    with stopping(Place.at(tmp_path / "place", migrated_store)) as place:
        yield place


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> dict[str, bytes | str]:
    """What the trial comes to when nothing happens to it."""
    place = Place.at(tmp_path_factory.mktemp("uninterrupted"), migrated_store)
    place.finish(KILLED_TRIAL)
    return outcome(place, require_whole(place, KILLED_TRIAL))
