"""The benchmark: that its contenders do the same work, and that its page says what was measured."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.memory import MemoryTracker
from helpers.project import PROJECT, clean_environment

from benchmarks import __main__ as program
from benchmarks import cuda
from benchmarks.contenders import BARE, LIGHTNING, OURS, USUAL, contenders, take_turn
from benchmarks.page import PARTS, write_page
from normstudy.config import TrainConfig
from normstudy.tracking import Metric
from normstudy.train import make_reproducible, train

SMALL, LARGER = (TrainConfig(epochs=2, train_size=images, device="cpu") for images in (320, 3_200))
RAW: dict[str, Any] = {
    "quick": False,
    "settings": {"rounds": 3, "images": 6_000, "commands": 1},
    "batch_size": 32,
    "shipped": [{"round": 1, "tracked": tracked, "seconds": 12.0 + tracked} for tracked in (True, False)],
    "reports": [7.0],
    "helps": [0.25],
    **dict.fromkeys(("processor", "cores", "git_commit", "git_dirty", "date", "command", "cuda_device"), "something"),
    "versions": {"torch": "2", "lightning": None},
    "seconds_in_all": 480.0,
}


def test_our_epoch_in_the_benchmark_is_that_of_the_package() -> None:
    tracker = MemoryTracker()
    train(SMALL, tracker)
    losses = [take_turn(OURS, SMALL)["loss"] for _ in range(SMALL.epochs)]
    assert losses == [epoch[Metric.TRAIN_LOSS] for epoch in tracker.runs[0].epochs]


@pytest.mark.parametrize("name", [USUAL, LIGHTNING])
def test_contenders_train_alike(name: str) -> None:
    if name not in contenders():
        pytest.skip("not installed")
    make_reproducible(LARGER)
    theirs, own = (contenders()[each](LARGER)()["loss"] for each in (name, OURS))
    assert theirs == pytest.approx(own, rel=0.1)


def test_ratios_are_taken_round_by_round_and_times_scaled_to_a_whole_epoch(tmp_path: Path) -> None:
    seconds = {OURS: (1.0, 2.0, 6.0), BARE: (0.5, 2.0, 4.0), USUAL: (4.0, 2.5, 12.0)}
    turns = [
        {"round": number, "variant": "GN", "threads": 1, "contender": name, "seconds": value}
        | (dict.fromkeys(PARTS, value / len(PARTS)) if name == OURS else {})
        for name, values in seconds.items()
        for number, value in enumerate(values, start=1)
    ]
    write_page(RAW | {"turns": turns}, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "takes 20.0 s on one core, 0.50 times the usual loop's and 1.50 times the bare limit." in page
    assert "| GN | 1 | 20.00 (10.00 to 60.00) | 3,000 | 1.50 (1.00 to 2.00) | 0.50 (0.25 to 0.80) |" in page
    assert "| forward | 16.7 % |" in page
    assert "1.083 (1.083 to 1.083) times as long" in page
    assert "Lightning is not installed" in page


def test_docs_are_not_written_from_a_changed_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "git_state", lambda: ("0" * 40, "true"))
    with pytest.raises(SystemExit, match="2"):
        program.main(out=PROJECT / "docs" / "benchmarks")


def test_the_page_of_a_gpu_divides_times_by_seeds_and_by_those_of_the_others(tmp_path: Path) -> None:
    stack = {"epoch": 6.0, "batches": 0.6, "replay": 4.0, "evaluation": 0.3, "utilisation": 0.5}
    raw = RAW | {
        "settings": {"rounds": 3, "stacks": [1, 10], "images": 60_000, "epochs": 20, "usual_images": 6_000},
        "stacks": [{"seeds": 1, **stack}, *({"seeds": 10, **stack} for _ in range(3))],
        "turns": [{"contender": name, "seconds": value} for name in (USUAL, LIGHTNING) for value in (1.2, 1.0, 9.0)],
        "runs": {"untracked": 17.0, "tracked": 21.0},
    }
    cuda.write_cuda_page(raw, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "# Speed on something\n" in page
    assert "| 1 | 6.00 | 6.000 | 0.500 | 0.500 | 1.50 | 10 % | 5 % | 50 % |" in page
    assert "| 3 x 10 | 18.00 | 0.600 | 0.050 | 0.050 | 1.50 | 10 % | 5 % | 50 % |" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that must be missing")
def test_the_benchmark_of_a_gpu_is_refused_in_one_line_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cuda.main(out=tmp_path)
    assert capsys.readouterr().err == "benchmarks: error: no CUDA device here; this benchmark needs one\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_what_is_measured_on_a_gpu_can_be_measured(store: str, tmp_path: Path) -> None:
    """On a CPU where there is none: the step is then not captured, and no kernel is seen."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = cuda.measure(cuda.QUICK, device)
    raw = RAW | {"settings": json.loads(json.dumps(asdict(cuda.QUICK))), "quick": True, **measured}
    cuda.write_cuda_page(raw, tmp_path / "page")
    assert "| 3 x 2 |" in (tmp_path / "page" / "README.md").read_text()


@pytest.mark.faults
def test_quick_run_writes_a_page_of_its_own_measurements(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, env=clean_environment(""), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    raw, page = json.loads((tmp_path / "raw.json").read_text()), (tmp_path / "README.md").read_text()
    assert "its figures mean nothing" in page
    assert {turn["contender"] for turn in raw["turns"]} >= {OURS, BARE, USUAL}
    for turn in raw["turns"]:
        if turn["contender"] == OURS:
            assert sum(turn[part] for part in PARTS) == pytest.approx(turn["seconds"], rel=0.05)
            assert f"{turn['seconds'] * 60_000 / 640:.2f}" in page  # smallest and largest of two rounds
