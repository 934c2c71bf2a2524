"""Studies on a Ray cluster of two nodes, whose worker, node or driver is killed: each trial ends as one whole run."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence

import pytest
from helpers.faults_tools import Place, require_whole
from helpers.memory import MemoryTracker
from helpers.ray_cluster import Cluster, Worker, one_that_trains, ray_cluster
from helpers.started import Started
from mlflow.entities import Run

from normstudy.config import TrainConfig
from normstudy.errors import ConfigError
from normstudy.launch.ray import RayExecutor
from normstudy.tracking import Metric, Tag
from normstudy.train import train

pytest_plugins = ["helpers.faults_tools"]
pytestmark = pytest.mark.timeout(900)
SERVER_USER = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": uuid.uuid4().hex}
TRIALS = [TrainConfig(seed=seed, epochs=3, train_size=640, device="cpu") for seed in range(4)]
DIVERGING = TrainConfig(norm="none", lr=1e9, epochs=3, train_size=640, device="cpu")


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


def start(place: Place, cluster: Cluster, configs: Sequence[TrainConfig] = TRIALS) -> Started:
    """The study of these trials on this cluster."""
    file = place.folder / "faults.py"
    trials = ", ".join(f"TrainConfig(**{config.model_dump()})" for config in configs)
    code = f"from normstudy.config import TrainConfig\n\n\ndef trials():\n    return [{trials}]\n"
    file.write_text(f'"""A study to break."""\n\n{code}')
    address = ["--executor", "ray", "--address", cluster.address]
    return place.start("study", str(file), *address, alone=True, **cluster.environment, **SERVER_USER)


def finish(place: Place, cluster: Cluster, *, most: int = 1) -> Started:
    """Start the study again until it ends well; then each trial is one whole run, and so is the study's own."""
    for _ in range(most):
        driver = start(place, cluster)
        if driver.wait() == 0:
            break
    assert driver.status == 0, driver.stdout + driver.stderr
    for config in TRIALS:
        run = require_whole(place, config)
        assert run.data.tags[Tag.PARENT] == study_of(place).info.run_id
    assert study_of(place).info.status == "FINISHED"
    return driver


def trials_of(place: Place) -> list[Run]:
    return place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'")


def study_of(place: Place) -> Run:
    [study] = place.runs(f"tags.`{Tag.STUDY_KEY}` LIKE '%'")
    return study


@pytest.mark.faults
def test_a_study_survives_the_kill_of_a_worker_and_its_trial_resumes_to_the_same_numbers_and_then_of_a_node(
    place: Place, cluster: Cluster
) -> None:
    driver = start(place, cluster)
    worker = one_that_trains(cluster.workers)
    os.kill(worker.pid, signal.SIGKILL)

    def another() -> list[Worker]:
        return [one for one in cluster.nodes[-1].workers() if one.record != worker.record]

    one_that_trains(another)
    cluster.nodes[-1].kill()
    driver.wait()
    if driver.status != 0:
        finish(place, cluster, most=2)
    assert cluster.said("epoch 1/3  resumed after it")
    [config] = [config for config in TRIALS if config.trial_key == worker.record.name.partition(".")[0]]
    tracker = MemoryTracker()
    train(config, tracker)
    for metric in (Metric.TRAIN_LOSS, Metric.TEST_LOSS, Metric.TEST_ACCURACY):
        history = place.client.get_metric_history(require_whole(place, config).info.run_id, metric)
        assert [point.value for point in history] == [epoch[metric] for epoch in tracker.runs[0].epochs]
    assert "4 of 4 trials are left as they are\n" in finish(place, cluster).stdout


@pytest.mark.faults
def test_a_study_whose_driver_was_killed_is_finished_by_the_same_command_but_for_what_diverged(
    place: Place, cluster: Cluster
) -> None:
    configs = [*TRIALS[:2], DIVERGING]
    driver = start(place, cluster, configs)
    one_that_trains(cluster.workers)
    driver.kill()
    again = start(place, cluster, configs)
    assert again.wait() == 1, again.stderr
    failed = place.run_of(DIVERGING)
    assert failed.info.status == "FAILED"
    for config in TRIALS[:2]:
        require_whole(place, config)
    said = f"normstudy: error: study faults: NONE, seed 0 is diverged (run {failed.info.run_id}: Diverged: "
    assert again.told[-1].startswith(said)
    assert not list(place.state.glob(f"records/{DIVERGING.trial_key}.*"))
    third = start(place, cluster, configs)
    assert third.wait() == 1
    assert "3 of 3 trials are left as they are\n" in third.stdout
    assert cluster.count("normstudy: error: diverged: ") == 1
    assert not cluster.files_with(SERVER_USER["MLFLOW_TRACKING_PASSWORD"])


@pytest.mark.faults
def test_a_study_whose_cluster_lost_its_head_and_that_is_stopped_on_the_next_one_is_finished_there(
    place: Place, cluster: Cluster
) -> None:
    with ray_cluster() as doomed:
        doomed.environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # until Ray ends a driver; else 60
        driver = start(place, doomed)
        one_that_trains(doomed.workers)
        doomed.nodes[0].kill()
        assert driver.wait() != 0
    stopped = start(place, cluster)
    one_that_trains(cluster.workers)
    stopped.send(signal.SIGTERM)
    assert stopped.wait() == 143, stopped.stderr
    assert stopped.told[-1].startswith("normstudy: Stopped after ")
    assert {run.info.status for run in trials_of(place)} <= {"KILLED", "FINISHED"}
    killed = [run for run in trials_of(place) if run.info.status == "KILLED"]
    assert "Interrupted: stopped by signal 2" in {run.data.tags[Tag.FAILURE] for run in killed}
    assert study_of(place).info.status == "KILLED"
    finish(place, cluster)


def test_address_where_nobody_listens_is_refused_before_any_run() -> None:
    with pytest.raises(ConfigError, match=r"address=127.0.0.1:1: nobody listens there: .*refused"):
        RayExecutor("127.0.0.1:1")


def test_missing_ray_is_refused_by_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"executor=ray: needs the extra normstudy\[ray\]"):
        RayExecutor("")
