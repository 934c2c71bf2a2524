"""How many trials run at once, and how a study ends."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from helpers.project import PROJECT, SMALL
from helpers.studied import all_runs

from normstudy.config import TrainConfig
from normstudy.errors import Interrupted, NormstudyError, ResultWaits
from normstudy.experiment import Experiment
from normstudy.launch import Task, local, worker
from normstudy.launch import study as launch
from normstudy.launch.state import TrialState
from normstudy.report.read import finished_trials, planned_in
from normstudy.tracking import Tag
from normstudy.tracking.event_log import logs


@pytest.mark.parametrize(
    ("trials", "cores", "threads", "expected"),
    [(3, 2, 1, 3), (4, 2, 1, 2), (10, 2, 1, 2), (3, 1, 1, 1), (3, 16, 1, 3), (3, 4, 2, 3), (8, 4, 2, 2), (1, 1, 8, 1)],
)
def test_trials_share_the_cores_unless_they_fill_two_rounds(
    trials: int, cores: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    assert local.default_workers((TrainConfig(threads=threads),) * trials) == expected


@pytest.mark.parametrize(("device", "gpus", "workers"), [("cuda", 2, 2), ("auto", 8, 3), ("cpu", 0, 1)])
def test_trials_on_gpus_run_one_on_each_and_those_on_the_cpu_by_cores(
    device: str, gpus: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: max(gpus, 1))
    monkeypatch.setattr(local, "usable_cores", lambda: 1)
    configs = [TrainConfig.of(device=device, norm=norm) for norm in ("gn", "ln", "bn")]
    found = worker.gpus_of([(config,) for config in configs])
    assert found == gpus
    assert local.default_workers(configs, found) == workers


@pytest.mark.parametrize(("stopped", "trained"), [(None, [0, 1]), (15, [0])])
def test_a_process_goes_on_after_a_task_that_failed_and_not_after_a_stop(
    stopped: int | None, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {"experiment": "x", "parent": "", "tags": {}, "force": False, "tracking_uri": None}
    tasks = [Task(configs=(TrainConfig(seed=seed),), **shared) for seed in (0, 1)]
    seen: list[int] = []

    def fails(registry: object, configs: Sequence[TrainConfig], **options: object) -> None:
        seen.append(configs[0].seed)
        raise NormstudyError("no")

    monkeypatch.setattr(worker, "train_leased", fails)
    monkeypatch.setattr(worker, "StopSignal", lambda gone: lambda: stopped)
    with pytest.raises(SystemExit):
        worker.run_trials(tasks)
    assert seen == trained


def test_stacks_hold_the_trials_that_differ_only_in_their_seed() -> None:
    configs = [TrainConfig(norm=norm, seed=seed, device="cpu") for seed in range(5) for norm in ("gn", "ln")]
    stacks = worker.grouped_in_stacks(configs, 2)
    assert [[(config.norm, config.seed) for config in stack] for stack in stacks] == [
        [("gn", 0), ("gn", 1)],
        [("gn", 2), ("gn", 3)],
        [("gn", 4)],
        [("ln", 0), ("ln", 1)],
        [("ln", 2), ("ln", 3)],
        [("ln", 4)],
    ]
    assert [len(stack) for stack in worker.grouped_in_stacks(configs, 0)] == [1] * 10  # on a CPU


@pytest.mark.parametrize(
    ("gpus", "seeds", "sizes"), [(1, 12, [12, 12]), (2, 13, [13, 13]), (4, 5, [2, 2, 1] * 2), (8, 3, [1] * 6)]
)
def test_on_gpus_a_stack_is_as_large_as_leaves_none_of_them_without_work(
    gpus: int, seeds: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    configs = [TrainConfig(norm=norm, seed=seed) for norm in ("gn", "ln") for seed in range(seeds)]
    assert [len(stack) for stack in worker.grouped_in_stacks(configs, 0)] == sizes
    assert {len(stack) for stack in worker.grouped_in_stacks(configs, 1)} == {1}  # as asked


def test_a_task_for_a_machine_elsewhere_is_the_same_there() -> None:
    task = Task(
        configs=(TrainConfig(norm="bn", l1=1e-5), TrainConfig(seed=1)),
        experiment="x",
        parent="a" * 32,
        tags={"tag": "value"},
        force=True,
        tracking_uri="http://user:secret@host",
        stale={"run": "1"},
        state="/state",
    )
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert "secret" not in repr(task)


def test_a_study_of_uncommitted_changes_says_so(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(tasks: object, finalize: object, bar: object, stop_signal: object) -> None:
        """An executor that trains nothing."""

    config = TrainConfig(device="cpu", **SMALL)
    for dirty, said in (("false", ""), ("true", "normstudy: the working tree has uncommitted changes; ")):
        monkeypatch.setattr(launch, "git_state", lambda: ("", dirty))  # noqa: B023
        with pytest.raises(NormstudyError):
            launch.study(Experiment(name="mine", question="?", configs=(config,)), executor=nothing)
        assert capsys.readouterr().err.startswith(said)


def test_a_study_that_may_diverge_finishes_and_knows_the_step(store: str) -> None:
    diverging = TrainConfig(norm="none", lr=1e9, device="cpu", **SMALL)
    planned = Experiment(
        name="edge", question="Where?\nBet: here.", configs=(diverging,), may_diverge=True, measures=("weights",)
    )
    parent_id = launch.study(planned)
    [record] = finished_trials([diverging], parent_id, may_diverge=True)
    assert mlflow.get_run(record.run_id).data.tags[Tag.FAILURE_STEP] == str(record.diverged_at)
    assert planned_in(parent_id) == planned
    with pytest.raises(NormstudyError, match=r"study edge: NONE, seed 0 is diverged \(run [0-9a-f]{32}: Diverged: "):
        launch.study(replace(planned, may_diverge=False))


def test_a_study_ends_as_its_trials_did(capsys: pytest.CaptureFixture[str]) -> None:
    configs = (TrainConfig(), TrainConfig(seed=1))

    def end(first: TrialState, second: TrialState, what: str) -> None:
        planned = Experiment(name="edge", question="?", configs=configs, may_diverge=True)
        states = dict(zip((config.trial_key for config in configs), ((first, ""), (second, what)), strict=True))
        launch.require_finished(planned, states)

    end(TrialState.FINISHED, TrialState.RUNNING, "run a")
    assert capsys.readouterr().out == "GN, seed 1 is running elsewhere (run a)\n"
    for state in (TrialState.NEW, TrialState.UNFINISHED):
        with pytest.raises(NormstudyError, match=rf"^study edge: GN, seed 1 is {state} \(why\)$"):
            end(TrialState.DIVERGED, state, "why")
    with pytest.raises(ResultWaits, match=r"^study edge: GN, seed 1 is not on the server \(folder\)$"):
        end(TrialState.FINISHED, TrialState.UNSENT, "folder")


def test_process_that_dies_before_it_begins_a_run_is_named(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.Processes, "run", lambda *_: None)
    configs = (TrainConfig(device="cpu", **SMALL),)
    with pytest.raises(NormstudyError, match=r"study lost: GN, seed 0 is new \(its process ended without a word\)$"):
        launch.study(Experiment(name="lost", question="?", configs=configs))


def test_a_stop_says_how_far_it_came_and_what_resumes_it_and_the_end_says_what_came_out_and_where_it_is(
    store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(device="cpu", **SMALL)

    def after_an_epoch() -> int | None:
        return 2 if any(log.epochs for log in logs(config.trial_key)) else None

    with pytest.raises(Interrupted, match="stopped by signal 2") as caught:
        launch.single(config, stop_signal=after_an_epoch)
    [stopped] = all_runs()
    run_id, experiment = stopped.info.run_id, stopped.info.experiment_id
    assert (caught.value.left, caught.value.exit_status) == (
        f"Stopped after epoch 1; the same command resumes run {run_id}",
        130,
    )
    capfd.readouterr()
    launch.single(config)
    assert re.search(r"^GN, seed 0: test accuracy \d+\.\d\d %$", (said := capfd.readouterr().out), re.MULTILINE)
    assert said.splitlines()[-2:] == [
        f"run {run_id} on {store}",
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run_id} after `normstudy ui`",
    ]
    launch.study(Experiment(name="mine", question="?", configs=(config, config.model_copy(update={"norm": "ln"}))))
    table = re.findall(r"^(GN|LN) +1  \d+\.\d\d %$", capfd.readouterr().out, re.MULTILINE)
    assert table == ["GN", "LN"]


# A study on two GPUs, of which this process counts more than there are: each task prints what it sees.
ON_GPUS = """
import os, sys
from tqdm import tqdm
from normstudy.config import TrainConfig
from normstudy.launch import Task, local


def trials(tasks):
    for task in tasks:
        seed = task.configs[0].seed
        print(seed, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid(), flush=True)
        if seed == 2:
            os.kill(os.getpid(), 9)


if __name__ == "__main__":
    shared = {"experiment": "x", "parent": "", "tags": {}, "force": False, "tracking_uri": None}
    tasks = [Task(configs=(TrainConfig(seed=seed),), **shared) for seed in range(6)]
    ended = []
    finalize = lambda task: ended.append(task.configs[0].seed) or []
    local.LocalExecutor(2, trials, gpus=2)(tasks, finalize, tqdm(disable=True), lambda: None)
    print("ended", *sorted(ended))
"""


def test_each_gpu_has_one_process_for_its_tasks_and_another_goes_on_where_one_died(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "5,7"}
    (tmp_path / "study.py").write_text(ON_GPUS)
    done = subprocess.run(
        [sys.executable, tmp_path / "study.py"], env=environment, capture_output=True, text=True, timeout=120
    )
    *told, ended = done.stdout.splitlines()
    assert (done.returncode, ended) == (0, "ended 0 1 2 3 4 5"), done.stderr
    seen = {int(words[2]): (words[1], words[3], words[4]) for words in map(str.split, told)}
    assert {seed: gpus for seed, (*gpus, _) in seen.items()} == {
        seed: ["7", "7"] if seed % 2 else ["5", "5"] for seed in range(6)
    }
    processes = {seed: process for seed, (_, _, process) in seen.items()}
    assert processes[1] == processes[3] == processes[5]
    assert processes[0] == processes[2] != processes[4]  # which went on after a kill
