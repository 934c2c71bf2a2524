"""A comparison of runs that others logged: from a real store, over HTTP, and of an export."""

import math
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from helpers.project import PROJECT, run_cli
from helpers.servers import tracking_server
from torch import Tensor, nn
from torch.utils.data import DataLoader

from normstudy.comparison import Choice, compare
from normstudy.comparison.command import run
from normstudy.errors import ConfigError
from normstudy.report.groups import comparisons, intervals
from normstudy.report.tables import ErrorTables


def log_runs(name: str = "digits") -> str:
    """An experiment of two models and four seeds, logged as MLflow's users do, and runs that don't count."""
    experiment = mlflow.set_experiment(name)
    generator = np.random.default_rng(0)
    for seed in range(4):
        for model, accuracy in (("forest", 0.8), ("svm", 0.9)):
            with mlflow.start_run():
                mlflow.log_params({"model": model, "seed": seed, "rate": "0.10" if seed % 2 else 0.1})
                for step, share in enumerate((0.5, 0.9, 1.0)):
                    mlflow.log_metric("accuracy", share * accuracy + 0.01 * generator.random(), step=step)
    with mlflow.start_run(run_name="not a number"):
        mlflow.log_params({"model": "svm", "seed": 7})
        mlflow.log_metric("accuracy", math.nan)
    with mlflow.start_run(run_name="infinite"):
        mlflow.log_params({"model": "svm", "seed": 8})
        mlflow.log_metric("accuracy", math.inf)
    with mlflow.start_run(run_name="deleted") as deleted:
        mlflow.log_metric("accuracy", 0.1)
    mlflow.delete_run(deleted.info.run_id)
    with pytest.raises(ZeroDivisionError), mlflow.start_run(run_name="failed"):
        raise ZeroDivisionError
    return experiment.experiment_id


def test_comparison_needs_no_option_and_names_what_it_left_out(store: str) -> None:
    log_runs()
    said = run(["digits"], Choice())
    assert "svm is better" not in said.split("left out")[1]
    assert "forest minus svm  4" in said
    assert "svm is better" in said
    assert "left out, not finite: 2 runs (infinite, not a number)" in said
    assert "left out, deleted: 1 run (deleted)" in said
    assert "left out, not finished: failed: 1 run (failed)" in said
    assert "normstudy compare digits --group-by model --pair-by seed --metric accuracy --at last" in said


def test_comparison_is_the_same_over_http_and_by_id(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment_id = log_runs()
    direct = compare(experiment_id)
    shapes = {name: curve.shape for name, curve in direct.curves().items()}
    assert shapes == {"forest": (3, 4), "svm": (3, 4)}
    with tracking_server(store, tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        over_http = compare("digits")
        assert {name: curve.shape for name, curve in over_http.curves().items()} == shapes
    assert over_http.pairs.equals(direct.pairs)
    assert over_http.left_out.equals(direct.left_out)


def test_comparison_can_be_kept_as_a_run_that_no_later_one_counts(store: str, tmp_path: Path) -> None:
    experiment_id = log_runs()
    before = compare("digits")
    assert "Kept as run comparison of accuracy" in run(["digits"], Choice(), out=tmp_path / "out", log=True)
    [kept] = [
        one
        for one in mlflow.search_runs([experiment_id], output_format="list")
        if "normstudy.comparison" in one.data.tags
    ]
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["pair 1/difference"] == pytest.approx(before.comparisons[0].difference)
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(kept.info.run_id)}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"comparison.md", "curves.png"} <= names
    assert compare("digits").left_out.equals(before.left_out)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["digit"], {}, "experiment=digit: not on .*; choose from digits"),
        (["77"], {}, "experiment=77: not on .*; choose from"),
        (["digits"], {"filter_string": "nonsense"}, "filter=nonsense: "),
        ([], {}, "experiment=: expected the name or id of an experiment"),
        (["digits"], {"export": PROJECT / "results" / "main"}, "from=.*main: an export has no experiment"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    store: str, names: list[str], options: dict[str, Any], message: str
) -> None:
    mlflow.set_experiment("digits")
    with pytest.raises(ConfigError, match=f"^{message}") as refusal:
        run(names, Choice(), **options)
    assert "\n" not in str(refusal.value)


def test_runs_of_autologging_are_compared(store: str) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    flowers, kinds = load_iris(return_X_y=True)
    mlflow.set_experiment("iris")
    mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
    try:
        for seed in range(3):
            some = np.random.default_rng(seed).permutation(150)[:60]
            for penalty in (1e-3, 10.0):
                LogisticRegression(C=penalty, random_state=seed).fit(flowers[some], kinds[some])
    finally:
        mlflow.sklearn.autolog(disable=True)
    found = compare("iris")
    assert (found.choice.group_by, found.choice.pair_by) == (("C",), "random_state")
    assert list(found.groups["n"]) == [3, 3]


def test_runs_of_lightnings_autologging_are_compared(store: str) -> None:
    lightning = pytest.importorskip("lightning", reason="only compared with: make bench installs it")

    class Line(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate, self.line = rate, nn.Linear(4, 1)

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss = (self.line(batch) - batch.sum(1, keepdim=True)).square().mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.rate)

    batches: Any = torch.randn(4, 16, 4, generator=torch.Generator().manual_seed(0))
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    mlflow.set_experiment("line")
    mlflow.pytorch.autolog(log_models=False, log_datasets=False, silent=True)
    try:
        for seed in range(3):
            for rate in (0.1, 0.001):
                torch.manual_seed(seed)
                with mlflow.start_run():
                    mlflow.log_param("seed", seed)
                    lightning.Trainer(max_epochs=3, accelerator="cpu", **quiet).fit(
                        Line(rate), DataLoader(batches, batch_size=None)
                    )
    finally:
        mlflow.pytorch.autolog(disable=True)
    found = compare("line")
    assert (found.choice.group_by, found.choice.pair_by, found.choice.metric) == (("lr",), "seed", "train_loss")
    assert [pair.winner for pair in found.comparisons] == ["0.1"]
    assert {name: curve.shape for name, curve in found.curves().items()} == {"0.001": (3, 3), "0.1": (3, 3)}


def test_comparison_and_report_agree_to_the_digit() -> None:
    folder = PROJECT / "results" / "main"
    tables, found = ErrorTables.load(folder), compare(export=folder, group_by=("norm",), margin=0.001)
    names = {"GN": "gn", "LN": "ln", "BN + L1": "bn"}
    ours = {frozenset((names[pair.a], names[pair.b])): pair for pair in comparisons(tables)}
    assert {frozenset((pair.a, pair.b)) for pair in found.comparisons} == set(ours)
    for pair in found.comparisons:
        other = ours[frozenset((pair.a, pair.b))]
        assert (abs(pair.difference), pair.p, pair.tost_p) == (abs(other.difference), other.p, other.tost_p)
        assert (pair.verdict, pair.smallest_margin) == (other.verdict, other.smallest_margin)
    for name, bounds in intervals(tables.results).items():
        row = found.groups.set_index("group").loc[names[name]]
        assert (row["low"], row["high"]) == bounds


def test_command_line_compares_an_export(tmp_path: Path) -> None:
    folder = str(PROJECT / "results" / "main")
    done = run_cli("compare", "--from", folder, "--margin", "0.001", "--format", "markdown", store="", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| bn minus gn | 10 |" in done.stdout
    wrong = run_cli("compare", "--from", folder, "--metric", "test/acuracy", store="", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "metric=test/acuracy: no run that counts has it; choose from test/accuracy" in wrong.stderr


def test_example_of_the_documentation_gives_the_verdict_that_it_shows(store: str) -> None:
    page = (PROJECT / "docs" / "compare.md").read_text()
    [example] = re.findall(r"```python\n(import mlflow\n.*?)```", page, re.DOTALL)
    exec(compile(example, "compare.md", "exec"), {})
    said = run(["digits"], Choice(margin=0.01))
    [shown] = re.findall(r"^RandomForestClassifier minus SVC .*(SVC is better)$", page, re.MULTILINE)
    assert shown in said
    [command] = re.findall(r"^The same again: (.*)$", page, re.MULTILINE)
    assert command in said
