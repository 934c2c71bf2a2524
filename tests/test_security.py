"""What a tracking server, or whoever may write to it, can't do to the machine that reads it."""

import json
import math
import pickle
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.artifacts import Evil
from helpers.hostile_server import CONFIG, IMAGE, PARENT_ID, RUN_ID, Server, read_trials, refused
from helpers.project import PROJECT

from normstudy.config import TrainConfig
from normstudy.errors import NormstudyError
from normstudy.experiment import Experiment
from normstudy.launch.measure import trained
from normstudy.report import report
from normstudy.report.read import CURVES, finished_trials, planned_in
from normstudy.tracking import Artifact, Measure, Tag, mlflow_private

pytest_plugins = ["helpers.hostile_server"]


def test_an_honest_server_is_reported_without_following_a_listing_of_its(hostile: Server, tmp_path: Path) -> None:
    report(Experiment(name="study", question="?", configs=(CONFIG,)), parent_id=None, out=tmp_path / "report")
    assert pd.read_csv(tmp_path / "report" / "results.csv")["run_id"].tolist() == [RUN_ID]
    assert {path.name for path in tmp_path.iterdir()} == {"temporary", "report"}
    assert not list((tmp_path / "temporary").iterdir())
    assert "GET /api/2.0/mlflow-artifacts/artifacts" not in hostile.requests


@pytest.mark.parametrize("value", ["NaN", 1.7976931348623157e308, -1.7976931348623157e308, "Infinity"])
def test_a_metric_that_is_not_finite_is_refused_by_name(hostile: Server, value: Any) -> None:
    hostile.value = value
    refused(f"^run {RUN_ID}: {CURVES[0]} is not finite at epoch 1$")


def test_a_history_that_is_not_mlflows_is_refused_in_one_line(hostile: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_private, "BULK_POINTS", 1)  # so that the run is asked for alone
    hostile.value = math.inf  # which the server writes without quotes, as JSON has no such number
    refused(f"^run {RUN_ID}: its {CURVES[0]} can't be read: ")


@pytest.mark.parametrize(
    ("where", "name", "text", "complaint"),
    [
        ("tags", Tag.CORES, "<b>2</b>", "cores=<b>2</b>: not a whole number"),
        ("params", "parameters", "9" * 5000, "parameters=999"),
        ("params", "lr", "fast\nroot: \x1b[2J\u202e", r"its parameters are no configuration: lr=\W?fast\b.*root: "),
        ("params", "cls", "1", "its parameters are no configuration"),
        ("params", "lr", "0.5", "its parameters have the trial key"),
    ],
)
def test_tags_and_parameters_of_another_kind_are_refused(
    hostile: Server, where: str, name: str, text: str, complaint: str
) -> None:
    getattr(hostile, where)[name] = text
    refused(f"^run {RUN_ID}: {complaint}")


def test_parameters_in_which_a_process_claims_a_run_are_not_its_configuration(hostile: Server) -> None:
    hostile.params["normstudy.attempt"] = "1"
    assert read_trials()[0].config == CONFIG


def test_no_message_shows_the_password_of_the_uri(hostile: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    hostile.uri = "models:/m/1"
    for address in (hostile.address, "http://127.0.0.1:9"):  # one that answers, one that doesn't
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("://", "://user:hunter2@"))
        for read in (partial(finished_trials, [TrainConfig()], None), read_trials, partial(planned_in, PARENT_ID)):
            with pytest.raises(NormstudyError, match=address) as caught:
                read()
            assert "hunter2" not in str(caught.value)


NO_TRIALS = [7, [7], [], [{"norm": "../../x"}], [{"epochs": {"a": "b\nc"}}]]


@pytest.mark.parametrize("study", [{"study": "a"}, ["study"], *({"study": "a", "trials": item} for item in NO_TRIALS)])
def test_a_plan_that_is_none_is_refused(hostile: Server, study: Any) -> None:
    hostile.artifacts[Artifact.STUDY] = json.dumps(study).encode()
    complaint = "(it is no study|it is a study without trials$|norm=../../x: input should be |epochs=)"
    refused(f"^run {PARENT_ID}: artifact study.json: {complaint}", partial(planned_in, PARENT_ID))


def test_what_a_study_asks_is_lines_of_text_and_its_settings_are_known(hostile: Server) -> None:
    study = {"study": "a", "trials": [CONFIG.model_dump()], "question": "a\x1b?\r\nBet: <b>", "may_diverge": "yes"}
    hostile.artifacts[Artifact.STUDY] = json.dumps(study).encode()
    assert planned_in(PARENT_ID).question == "a ?\nBet: <b>"
    assert planned_in(PARENT_ID).may_diverge is False
    wrong: dict[str, list[Any]] = {
        "measures": [["../../x"], "weights", 7, [["weights"]]],
        "report": ["../x", ["errors"]],
        "number": ["1"],
    }
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        hostile.artifacts[Artifact.STUDY] = json.dumps({**study, name: value}).encode()
        refused(f"^run {PARENT_ID}: artifact study.json: {name}=", partial(planned_in, PARENT_ID))


read_diverged = partial(finished_trials, [CONFIG], None, may_diverge=True)


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ("-1", f"{Tag.FAILURE_STEP}=-1: not a whole number"),
        ("<b>", f"{Tag.FAILURE_STEP}=<b>: not a whole number"),
        ("999999999999", f"{CURVES[0]} has no value at epoch 2, 3, 4, 5, 6$"),
    ],
)
def test_a_step_at_which_no_run_can_diverge_is_refused(hostile: Server, step: str, complaint: str) -> None:
    hostile.status, hostile.tags[Tag.FAILURE_STEP] = "FAILED", step
    refused(f"^run {RUN_ID}: {complaint}", read_diverged)


@pytest.mark.parametrize("path", [Artifact.MISCLASSIFIED, Artifact.STUDY, IMAGE])
def test_a_pickle_as_an_artifact_is_an_error_in_one_line(hostile: Server, tmp_path: Path, path: str) -> None:
    hostile.artifacts[path] = pickle.dumps(Evil(tmp_path / "marker"))
    read = partial(planned_in, PARENT_ID) if path == Artifact.STUDY else read_trials
    refused(f"^run .*: artifact {path}: it is no", read)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [pickle.dumps(7), b"", b"\xff" * 100])
def test_weights_and_measures_that_are_none_are_an_error_in_one_line(hostile: Server, content: bytes) -> None:
    hostile.artifacts |= {Artifact.WEIGHTS: content, Measure.WEIGHTS.path: content}
    start, with_measure = f"^run {RUN_ID}: artifact", partial(read_trials, measures=[Measure.WEIGHTS])
    refused(f"{start} {Artifact.WEIGHTS}: it doesn't hold the weights", partial(trained, CONFIG, RUN_ID))
    refused(f"{start} {Measure.WEIGHTS.path}: it is not JSON", with_measure)


def test_audit_fails_on_a_known_vulnerability_and_counts_what_it_could_not_audit() -> None:
    verdict = runpy.run_path(str(PROJECT / ".ci" / "audit.py"))["verdict"]
    clean, unknown = {"name": "a", "version": "1", "vulns": []}, {"name": "c", "skip_reason": "not found"}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert verdict(json.dumps({"dependencies": [clean]}), "")[1] == 0
    text, status = verdict(json.dumps({"dependencies": [clean, bad, unknown, unknown]}), "")
    assert (status, text.splitlines()[0]) == (1, "b 2: CVE-1, fixed in 3")
    assert "2 of 4 could not be audited" in text
    assert verdict("", "requests.exceptions.ConnectionError: ...")[0].startswith("pip-audit: nothing was audited")
    assert verdict("", "ERROR: mlflow does not contain a hash")[1] == 1
