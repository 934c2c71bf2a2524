"""Studies on a Ray cluster of two nodes, whose worker, node or driver is killed: each trial ends as one whole run."""

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mlflow
import pytest
from helpers.faults_tools import wait_until
from helpers.memory import MemoryTracker
from helpers.project import clean_environment
from helpers.ray_cluster import Cluster, Worker, ray_cluster
from mlflow.entities import Run

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError
from normstudy.launch.ray import RayExecutor
from normstudy.tracking import Metric, Tag
from normstudy.train import train

EPOCHS = 3
SIZES = f'epochs={EPOCHS}, train_size=1280, device="cpu"'
TWELVE = f'[TrainConfig(norm=norm, seed=seed, {SIZES}) for seed in range(4) for norm in ("gn", "ln", "bn")]'
FOUR = f"[TrainConfig(seed=seed, {SIZES}) for seed in range(4)]"
DIVERGING = f'[TrainConfig(norm="none", lr=1e9, {SIZES}), *{FOUR}[:2]]'
SERVER_USER = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": uuid.uuid4().hex}
SECONDS = 300  # a study of twelve takes 40 on two idle cores; on a busy machine 180 were once too few
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Two nodes, whatever became of the second one before."""
    if not shared_cluster.nodes[-1].pids():
        shared_cluster.start_worker()
    return shared_cluster


class Study:
    """`python -m normstudy study FILE --executor ray --address ...`, as often as it is started."""

    def __init__(self, trials: str, cluster: Cluster, store: str, folder: Path) -> None:
        self.file, self.output = folder / "faults.py", folder / "output.txt"
        self.store, self.cluster = store, cluster
        code = f"from normstudy.config import TrainConfig\n\n\ndef trials():\n    return {trials}\n"
        self.file.write_text(f'"""A study to break."""\n\n{code}')
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        command = f"-m normstudy study {self.file} --executor ray --address {self.cluster.address}"
        with self.output.open("wb") as output:
            self.driver = subprocess.Popen(
                [sys.executable, *command.split()],
                env=clean_environment(self.store, **self.cluster.environment, **SERVER_USER),
                cwd=self.file.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.driver

    def run(self) -> int:
        """Start it and wait for its end; the exit status."""
        self.start()
        return self.wait()

    def wait(self) -> int:
        """Its exit status. One that doesn't end is made to say where it stands, and so is each worker."""
        assert self.driver
        try:
            return self.driver.wait(SECONDS)
        except subprocess.TimeoutExpired:
            for pid in (*(worker.pid for worker in self.cluster.workers()), self.driver.pid):
                os.kill(pid, signal.SIGABRT)  # faulthandler writes the stack of each thread
            self.driver.wait()
            pytest.fail(f"not ended after {SECONDS} s: {self.words()}\n{self.cluster.last_words()}")

    def words(self) -> str:
        """What its last start has printed."""
        return self.output.read_text()

    def finish(self, *, most: int = 2) -> None:
        """Start it again until it ends well."""
        for _ in range(most):
            if self.run() == 0:
                return
        pytest.fail(f"not finished after {most} more starts: {self.words()}")


@pytest.fixture
def study_of(cluster: Cluster, store: str, tmp_path: Path) -> Iterator[Callable[[str], Study]]:
    """Makes the study of these trials; its driver doesn't outlive the test."""
    made: list[Study] = []

    def make(trials: str) -> Study:
        made.append(Study(trials, cluster, store, tmp_path))
        return made[-1]

    yield make
    for study in made:
        if study.driver and study.driver.poll() is None:
            os.killpg(study.driver.pid, signal.SIGKILL)
            study.driver.wait()


def one_that_trains(workers: Callable[[], Sequence[Worker]]) -> Worker:
    """A worker that has the first of its trial's epochs behind it."""
    found: list[Worker] = []
    wait_until(lambda: found.extend(one for one in workers() if one.has_checkpoint()) or found, 120, "a first epoch")
    return found[0]


def runs_with(tag: Tag) -> list[Run]:
    return [
        run for run in mlflow.search_runs(search_all_experiments=True, output_format="list") if tag in run.data.tags
    ]


def require_twelve_whole_runs() -> None:
    """Each trial is one run, FINISHED, with each metric of each epoch once; so is the study's own."""
    runs = runs_with(Tag.TRIAL_KEY)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 12}
    assert len({run.data.tags[Tag.TRIAL_KEY] for run in runs}) == 12
    for run in runs:
        for metric in set(Metric) - {Metric.VAL_LOSS, Metric.VAL_ACCURACY}:
            history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
            assert [point.step for point in history] == list(range(1, EPOCHS + 1)), (run.info.run_name, metric)
        assert {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)} >= {
            "weights",
            "config.json",
        }
    [study] = runs_with(Tag.STUDY_KEY)
    assert study.info.status == "FINISHED"
    assert {run.data.tags[Tag.PARENT] for run in runs} == {study.info.run_id}


@pytest.mark.faults
def test_study_survives_the_kill_of_a_worker_and_its_trial_resumes_to_the_same_numbers(
    study_of: Callable[[str], Study], cluster: Cluster
) -> None:
    study = study_of(TWELVE)
    study.start()
    worker = one_that_trains(cluster.workers)
    key = worker.record.name.partition(".")[0]
    os.kill(worker.pid, signal.SIGKILL)
    assert study.wait() == 0, study.words()
    require_twelve_whole_runs()
    assert cluster.said(f"epoch 1/{EPOCHS}  resumed after it")

    [run] = [run for run in runs_with(Tag.TRIAL_KEY) if run.data.tags[Tag.TRIAL_KEY] == key]
    tracker = MemoryTracker()
    train(TrainConfig.of(**{name: run.data.params[name] for name in TrainConfig.model_fields}), tracker)
    for metric in (Metric.TRAIN_LOSS, Metric.TEST_LOSS, Metric.TEST_ACCURACY):
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
        assert [point.value for point in history] == [epoch[metric] for epoch in tracker.runs[0].epochs]

    study.finish(most=1)
    assert "12 of 12 trials are left as they are" in study.words()
    require_twelve_whole_runs()


@pytest.mark.faults
def test_study_survives_the_kill_of_a_node(study_of: Callable[[str], Study], cluster: Cluster) -> None:
    study = study_of(TWELVE)
    study.start()
    node = cluster.nodes[-1]
    one_that_trains(node.workers)
    node.kill()
    if study.wait() != 0:
        study.finish()
    require_twelve_whole_runs()


@pytest.mark.faults
def test_study_whose_cluster_lost_its_head_is_finished_on_another_cluster(
    study_of: Callable[[str], Study], cluster: Cluster
) -> None:
    study = study_of(TWELVE)
    with ray_cluster() as doomed:
        doomed.environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # until Ray ends a driver; else 60
        study.cluster = doomed
        study.start()
        one_that_trains(doomed.workers)
        doomed.nodes[0].kill()
        assert study.wait() != 0
    study.cluster = cluster
    study.finish()
    require_twelve_whole_runs()


@pytest.mark.faults
def test_study_whose_driver_was_killed_is_finished_by_the_same_command(
    study_of: Callable[[str], Study], cluster: Cluster
) -> None:
    study = study_of(TWELVE)
    driver = study.start()
    one_that_trains(cluster.workers)
    driver.kill()
    driver.wait()
    study.finish()
    require_twelve_whole_runs()


@pytest.mark.faults
def test_diverged_trial_is_named_and_not_trained_again_and_the_others_finish(
    study_of: Callable[[str], Study], cluster: Cluster, tmp_path: Path
) -> None:
    study = study_of(DIVERGING)
    assert study.run() == 1, study.words()
    [failed] = [run for run in runs_with(Tag.TRIAL_KEY) if run.info.status != "FINISHED"]
    assert failed.info.status == "FAILED"
    assert len(runs_with(Tag.TRIAL_KEY)) == 3
    last = study.words().splitlines()[-1]
    assert last.startswith(f"normstudy: error: study faults: NONE, seed 0 is diverged (run {failed.info.run_id}: Diver")
    assert cluster.count("normstudy: error: diverged: ") == 1
    assert not list((tmp_path / "state").glob(f"records/{failed.data.tags[Tag.TRIAL_KEY]}.*"))
    assert study.run() == 1
    assert cluster.count("normstudy: error: diverged: ") == 1
    assert "3 of 3 trials are left as they are" in study.words()
    assert not cluster.files_with(SERVER_USER["MLFLOW_TRACKING_PASSWORD"])


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_study_ends_its_trials_as_killed_and_resumes(
    number: signal.Signals, study_of: Callable[[str], Study], cluster: Cluster
) -> None:
    study = study_of(FOUR)
    driver = study.start()
    one_that_trains(cluster.workers)
    driver.send_signal(number)
    assert driver.wait(90) == 128 + number, study.words()
    assert study.words().splitlines()[-1] == f"normstudy: error: stopped by signal {number:d}"
    begun = runs_with(Tag.TRIAL_KEY)
    assert 1 <= len(begun) <= 4
    assert {run.info.status for run in begun} <= {"KILLED", "FINISHED"}
    stopped = [run for run in begun if run.info.status == "KILLED"]
    assert {run.data.tags[Tag.FAILURE] for run in stopped} == {"Interrupted: stopped by signal 2"}
    assert [run.info.status for run in runs_with(Tag.STUDY_KEY)] == ["KILLED"]
    study.finish(most=1)
    assert Counter(run.info.status for run in runs_with(Tag.TRIAL_KEY)) == {"FINISHED": 4}


def test_address_where_nobody_listens_is_refused_before_any_run() -> None:
    with pytest.raises(ConfigError, match=r"address=127.0.0.1:1: nobody listens there: .*refused"):
        RayExecutor("127.0.0.1:1")


def test_missing_ray_is_refused_by_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"executor=ray: needs the extra normstudy\[ray\]"):
        RayExecutor("")
