"""The model of a run as MLflow's own server answers for it."""

import json
import sys
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
from helpers.project import clean_environment
from helpers.servers import Server, free_port, running

from normstudy.data import load_images


@pytest.mark.faults
def test_served_model_answers_the_bytes_of_ten_images(studied_store: str, tmp_path: Path) -> None:
    named, experiment = "name = 'digitnet-gn-seed0'", mlflow.get_experiment_by_name("normstudy")
    assert experiment
    [model] = mlflow.MlflowClient().search_logged_models([experiment.experiment_id], filter_string=named)
    port, ten = free_port(), load_images()[1].images[:10].numpy()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(port)]
    environment = clean_environment(studied_store, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", PYTHONPATH="")
    command += ["--model-uri", f"models:/{model.model_id}"]
    with running(Server(port=port, command=command, environment=environment, folder=tmp_path)) as server:
        request = urllib.request.Request(
            f"{server.address}/invocations",
            data=json.dumps({"inputs": ten.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            predictions = np.array(json.load(answer)["predictions"])
    expected = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(ten)
    assert predictions == pytest.approx(expected, abs=1e-6)
