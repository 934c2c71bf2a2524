"""The calls of MLflow that its documentation doesn't promise, against its public ones, on a file and over HTTP."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import mlflow
import numpy as np
import pytest
from helpers.project import using
from helpers.servers import tracking_server

from normstudy.tracking import Tag, mlflow_private
from normstudy.tracking.mlflow_private import bulk_history, first_bytes, image_names
from normstudy.tracking.result import SHOWN


@pytest.fixture(params=["file", "http"])
def uri(request: pytest.FixtureRequest, migrated_store: Path, tmp_path: Path) -> Iterator[str]:
    """A store with MLflow's tables, as a file and behind a real `mlflow server` that also serves the artifacts."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(migrated_store.read_bytes())
    store = f"sqlite:///{database}"
    with tracking_server(store, tmp_path) if request.param == "http" else nullcontext() as server:
        yield server.address if server else store


def test_bulk_history_and_first_bytes_are_what_the_public_calls_give(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(uri, tmp_path, monkeypatch):
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("mine")
        runs = [client.create_run(experiment).info for _ in range(2)]
        for place, run in enumerate(runs):
            for step in range(3):
                client.log_metric(run.run_id, "test/loss", place + step / 10, step=step, timestamp=step)
            client.log_metric(run.run_id, "test/loss", math.nan, step=3, timestamp=3)
            client.log_text(run.run_id, "0123456789", "folder/file.txt")
        found = bulk_history([run.run_id for run in runs], "test/loss")
        assert found
        public = [
            (run.run_id, p.step, p.timestamp, p.value)
            for run in runs
            for p in client.get_metric_history(run.run_id, "test/loss")
        ]
        assert list(map(str, sorted(map(tuple, found)))) == list(map(str, sorted(public)))  # nan is not nan
        assert first_bytes(runs[0].artifact_uri, "folder/file.txt", 100) == b"0123456789"
        assert first_bytes(runs[0].artifact_uri, "folder/file.txt", 4) == b"0123"
        monkeypatch.setattr(mlflow_private, "BULK_POINTS", 5)  # fewer than there are: the answer is cut short
        again = bulk_history([run.run_id for run in runs], "test/loss")
        assert again
        assert sorted(map(str, again)) == sorted(map(str, found))
        monkeypatch.setattr(mlflow_private, "BULK_POINTS", 1)  # too few for a single run: each is to be asked for alone
        assert (bulk_history([run.run_id for run in runs], "test/loss") is None) == uri.startswith("http")


def test_images_and_tables_have_mlflows_own_names_which_a_second_call_would_double(store: str) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run("0").info
    for _ in range(2):  # as after a kill
        client.log_image(run.run_id, np.zeros((28, 28), np.uint8), key="test/misclassified", step=3)
        client.log_table(run.run_id, {"true": [7], "image": [mlflow.Image(np.zeros((28, 28), np.uint8))]}, "t.json")
    table = json.loads(mlflow.artifacts.load_text(f"{run.artifact_uri}/t.json"))
    assert len(table["data"]) == 2
    assert {"type", "filepath", "compressed_filepath"} == set(table["data"][0][1])
    tags = client.get_run(run.run_id).data.tags
    assert tags[Tag.IMAGES] == SHOWN[Tag.IMAGES]
    assert json.loads(tags[Tag.TABLES])[0].keys() == json.loads(SHOWN[Tag.TABLES])[0].keys()

    def form(name: str) -> str:
        return re.sub(r"timestamp.[0-9]+.[0-9a-f]{8}-[0-9a-f-]{27}", "?", name)

    logged = sorted(form(file.path) for file in client.list_artifacts(run.run_id, "images"))
    assert logged == sorted(2 * [form(name) for name in image_names("test/misclassified", step=3, of="0123")])
    assert image_names("test/misclassified", step=3, of="0123") == image_names("test/misclassified", step=3, of="0123")
