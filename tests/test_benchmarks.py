"""The benchmark suite: what it computes from its measurements, and a tiny run of it."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import pytest
from helpers.project import PROJECT
from PIL import Image

from benchmarks import measurement
from benchmarks.document import write_documents
from benchmarks.processes import BenchmarkError, Finished, clean_environment
from benchmarks.single_run import Ledger
from benchmarks.step_profile import KINDS, REST
from benchmarks.suite import BARE, LIGHTNING, OURS, USUAL, faster_workers
from benchmarks.summary import Limit, Results, Spread, exponents, growth_exponent, ratio
from benchmarks.targets import judge
from normstudy.config import TrainConfig


def test_spread_is_median_smallest_and_largest() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([3.0, 1.0, 2.0]).text(" s") == "2.00 s (1.00 to 3.00)"
    assert Spread.of([1234.5]).text(" MiB", 1) == "1,234.5 MiB"
    with pytest.raises(ValueError, match="no measurement"):
        Spread.of([])


def test_ratio_is_taken_round_by_round_before_the_median() -> None:
    slow, fast = pd.Series({1: 2.0, 2: 9.0, 3: 4.0}), pd.Series({1: 1.0, 2: 3.0, 3: 1.0})
    assert ratio(slow, fast) == Spread(3.0, 2.0, 4.0, 3)
    assert ratio(slow, fast[[1, 2]]).count == 2
    with pytest.raises(ValueError, match="no measurement"):
        ratio(slow, pd.Series({4: 1.0}))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_growth_exponent_is_the_power(power: float) -> None:
    assert growth_exponent(3, 7 * 3**power, 300, 7 * 300**power) == pytest.approx(power)
    table = pd.DataFrame({"size": [3, 3, 30], "seconds": [0.9, 1.1, 10**power]})
    [(small, large, exponent)] = exponents(table)
    assert (small, large, exponent) == (3, 30, pytest.approx(power))


def test_growth_of_sizes_that_do_not_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="30 and 30 don't grow"):
        growth_exponent(30, 1, 30, 2)


@pytest.mark.parametrize(
    ("kind", "below", "equal", "above"),
    [
        ("at most", "met", "met", "not met"),
        ("under", "met", "not met", "not met"),
        ("at least", "not met", "met", "met"),
    ],
)
def test_verdict_has_both_outcomes(kind: str, below: str, equal: str, above: str) -> None:
    limit = Limit(kind, 2.0)
    assert [limit.verdict(figure) for figure in (1.9, 2.0, 2.1)] == [below, equal, above]
    with pytest.raises(ValueError, match="unknown kind 'about'; choose from at most, at least, under"):
        Limit("about", 2.0)


def test_ledger_books_every_moment_once_and_on_the_innermost_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("benchmarks.single_run.time.time", lambda: now)
    ledger = Ledger(-1.0, "imports")
    now = 1.0
    ledger.rebase("rest")
    now = 2.0
    with ledger.share("outer"):
        now = 5.0
        with ledger.share("inner"):
            now = 9.0
        now = 10.0
    now = 16.0
    ledger.book()
    assert dict(ledger.seconds) == {"imports": 2.0, "rest": 7.0, "outer": 4.0, "inner": 4.0}


def test_result_is_the_last_line_and_no_result_is_an_error() -> None:
    assert Finished(seconds=1, peak_bytes=1, output='epoch 1\n{"a": 2}\n').result() == {"a": 2}
    with pytest.raises(BenchmarkError, match="no result, but: epoch 2"):
        Finished(seconds=1, peak_bytes=1, output='{"a": 2}\nepoch 2\n').result()


def test_a_function_that_is_gone_stops_the_benchmark() -> None:
    from benchmarks.ours import wrap

    with pytest.raises(AttributeError, match="has no function 'peak_octets' to measure"):
        wrap(measurement, "peak_octets", lambda function: function())


def test_every_contender_trains_with_the_default_recipe() -> None:
    recipe = TrainConfig()
    assert (recipe.batch_size, recipe.rotation, recipe.translation, recipe.scale) == (
        measurement.BATCH_SIZE,
        measurement.ROTATION,
        measurement.TRANSLATION,
        measurement.SCALE,
    )


def raw_results(**seconds: float) -> dict[str, Any]:
    """Raw results with one case of two rounds; each contender takes the given seconds in both."""
    names = {"bare": BARE, "ours": OURS, "usual_0": USUAL[0], "usual_2": USUAL[2], "lightning": LIGHTNING}
    parts = {"augmentation_seconds": 0.5, "evaluation_seconds": 0.3, "tracking_seconds": 0.01}
    records = [
        [
            {"contender": names[name], "round": number, "norm": "gn", "threads": 1, "epoch_seconds": value}
            | {"startup_seconds": 4.0, "peak_bytes": 2**30, **parts}
            for name, value in seconds.items()
        ]
        for number in (1, 2)
    ]
    return {
        "date": "a day",
        "command": "python -m benchmarks",
        "quick": False,
        "create_tables_seconds": 5.0,
        "settings": {"rounds": 2, "report_rounds": 1, "images": 60_000, "epochs": 20, "cuda_seeds": 10},
        "machine": {},
        "versions": {},
        "code": {name: {"git_commit": "0" * 40, "git_dirty": "false"} for name in ("epochs 1", "epochs 2")},
        "stage_seconds": {},
        "stages": {"epochs 1": records[0], "epochs 2": records[1]},
    }


def verdicts(raw: dict[str, Any]) -> dict[str, str]:
    return {row.target: row.verdict for row in judge(Results(raw))}


def test_targets_of_the_epoch_are_judged_both_ways() -> None:
    good = verdicts(raw_results(bare=8, ours=8.5, usual_0=20, usual_2=16, lightning=30))
    assert [good[target] for target in sorted(good) if target[0] in "12"] == ["met"] * 4
    bad = verdicts(raw_results(bare=4, ours=8.5, usual_0=20, usual_2=9, lightning=10))
    assert [bad[target] for target in sorted(bad) if target[0] in "12"] == ["not met"] * 4


def test_what_was_not_measured_has_no_verdict_and_no_figure() -> None:
    rows = judge(Results(raw_results(bare=8, ours=8.5, usual_0=20, usual_2=16)))
    missing = {row.target: row for row in rows if row.verdict not in ("met", "not met")}
    assert missing["2. Lightning's epoch, over ours"].verdict == "not measured: Lightning is not installed"
    assert {target[0] for target in missing} == set("2345678")
    assert not any(row.figure for row in missing.values())


def test_study_run_and_report_are_judged_and_written(tmp_path: Path) -> None:
    raw = raw_results(bare=8, ours=8.5, usual_0=20, usual_2=16, lightning=30)
    shares = {"imports": 3.0, "training steps": 90.0, "augmentation": 4.0, "evaluation": 2.0, "exit and rest": 1.0}
    report = {3: 4.0, 30: 5.0, 300: 60.0}
    raw["stages"] |= {
        "run": [{"share": share, "seconds": value, "wall_seconds": 100.0} for share, value in shares.items()],
        "study": [{"trials": 3, "epochs": 20, "wall_seconds": 200.0}],
        "report": [
            {"round": 1, "access": access, "runs": runs, "wall_seconds": value, "peak_bytes": 2**29}
            for access in ("sqlite", "HTTP")
            for runs, value in report.items()
        ],
        "profile": [
            {"norm": "gn", "kind": kind, "milliseconds": value}
            for kind, value in {"convolutions, forward": 2.0, "convolutions, backward": 1.0, "optimiser": 1.0}.items()
        ],
        "memory": [{"images": 5_000, "peak_bytes": 2**30}],
        "growth": [{"images": n, "epoch_seconds": n / 1e4} for n in (15_000, 30_000)],
        "cuda": [],
        "scaling": [
            {"workers": workers, "trials": 4, "epochs": 5, "wall_seconds": seconds}
            for workers, seconds in {1: 180.0, 2: 100.0}.items()
        ],
        "driver": [
            {"driver_ms": 60.0, "processes_wall_ms": 90.0, "processes_driver_cpu_ms": 20.0}
            | {"trials": 1_000, "trials_in_processes": 100}
        ],
        "stack": [{"stack": 1, "seeds": 4, "epochs": 2, "wall_seconds": 90.0, "seconds_per_seed_and_epoch": 9.0}],
    }
    rows = {(row.target, row.case): row for row in judge(Results(raw))}
    study = rows["3. The usual loop three times in a row, over the study", "loop on 1 thread, the fastest"]
    assert (study.figure, study.verdict) == ("4.86 x (4.86 to 4.86)", "met")  # 3 * (4 + 20 * 16) / 200
    around = rows["4. Everything around the training, of a whole run", "20 epochs, GN, 1 thread"]
    assert (around.figure, around.verdict) == ("4.0 %", "met")
    assert rows["5. Report of 300 runs", "sqlite"].verdict == "not met"
    assert rows["5. Growth of the report, exponent", "HTTP, 3 to 30 runs"].verdict == "met"
    assert rows["5. Growth of the report, exponent", "HTTP, 30 to 300 runs"].verdict == "not met"
    assert rows["6. 30 runs", "CUDA"].verdict == "not measured: no CUDA device was at hand"
    workers = rows["7. Trials an hour, over one worker's", "2 workers"]
    assert (workers.figure, workers.verdict) == ("1.80 x", "met")
    driver = rows["8. The driver's time for a trial", "study of 1,000 trials, sqlite"]
    assert (driver.figure, driver.verdict) == ("60.0 ms", "not met")
    write_documents(raw, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| 2 | 144 | 1.80 |" in page
    assert "are 75 to 75 % of it" in page
    assert "the bare steps of three such runs, one thread each on 1 core, take 480 s" in page  # 3 * 20 * 8
    assert "would be 2.0 times faster" in page  # 3 * (4 + 20 * 16) / 480
    assert "Still to be measured: no CUDA device was at hand" in page
    for title in ("An epoch", "A whole run", "The study", "The report", "Memory", "More training images", "Seeds in"):
        assert f"\n## {title}" in page
    assert "15,000 to 30,000 images: 1.00" in page


def test_lightning_gets_the_workers_of_the_faster_usual_loop() -> None:
    raw = raw_results(usual_0=20, usual_2=16)
    records = [*raw["stages"]["epochs 1"], *raw["stages"]["epochs 2"]]
    assert faster_workers(records, "gn", 1) == 2
    assert faster_workers([{**record, "epoch_seconds": -record["epoch_seconds"]} for record in records], "gn", 1) == 0


def test_quick_run_writes_page_tables_and_pictures_that_agree_with_the_raw_results(tmp_path: Path) -> None:
    options = ["--quick", "--norm", "gn", "--threads", "1", "--out", str(tmp_path)]
    options += [part for stage in ("epochs", "profile", "run") for part in ("--only", stage)]
    command = [sys.executable, "-m", "benchmarks", *options]
    environment = clean_environment("", 1) | {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    raw = json.loads((tmp_path / "raw.json").read_text())
    page = (tmp_path / "README.md").read_text()
    assert raw["quick"]
    assert "its figures mean nothing" in page
    seconds = {record["contender"]: record["epoch_seconds"] for record in raw["stages"]["epochs 1"]}
    usual = min(seconds[name] for name in USUAL.values())
    assert f"| GN, 1 thread | {usual / seconds[OURS]:.2f} x | at least 1.8 x |" in page
    assert f"| {seconds[OURS]:.2f} s | {seconds[OURS] / seconds[BARE]:.2f} | 1.00 |" in page
    if find_spec("lightning"):
        assert f"| {seconds[LIGHTNING] / seconds[OURS]:.2f} x | at least 2.2 x |" in page
    else:
        assert "not measured: Lightning is not installed" in page
    assert {record["kind"] for record in raw["stages"]["profile"]} == {*KINDS.values(), REST}
    shares = raw["stages"]["run"]
    assert sum(share["seconds"] for share in shares) == pytest.approx(shares[0]["wall_seconds"])
    assert all(share["seconds"] > 0 for share in shares)
    assert min(Image.open(tmp_path / "epoch.png").size + Image.open(tmp_path / "shares.png").size) > 300
    records = pd.read_csv(tmp_path / "results.csv")
    assert median(records[records.contender == OURS].epoch_seconds) == pytest.approx(seconds[OURS])
    assert not re.search(r"nan|None", page)
