"""No file of ours runs what it loads: not a server's, not a run's, not a disk's."""

import hashlib
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import mlflow
import numpy as np
import pytest
import torch
from helpers.artifacts import Evil
from helpers.project import PROJECT
from safetensors import SafetensorError
from safetensors.torch import load_file

from normstudy.errors import CheckpointError
from normstudy.tracking.checkpoint import read_checkpoint


def read_model(evil: bytes, folder: Path) -> None:
    """The pt2 archive that MLflow serves, as MLflow loads it where pickle is not allowed."""
    model, path = torch.nn.Linear(2, 1), folder / "model"
    mlflow.pytorch.save_model(model, path, input_example=np.zeros((2, 2), np.float32), pip_requirements=["torch"])
    archive = path / "data" / "model.pt2"
    with ZipFile(archive) as read, ZipFile(folder / "evil.pt2", "w") as written:
        for name in read.namelist():
            written.writestr(name, evil if "sample_inputs" in name else read.read(name))
    shutil.move(folder / "evil.pt2", archive)
    mlflow.pytorch.load_model(str(path))


def kept(evil: bytes, file: Path) -> Path:
    file.write_bytes(evil)
    return file


def read_configuration(evil: bytes, folder: Path) -> None:
    mlflow.artifacts.load_dict(str(kept(evil, folder / "config.json")))


def read_checkpoint_of(evil: bytes, folder: Path) -> None:
    read_checkpoint(kept(hashlib.sha256(evil).digest() + evil, folder / "epoch_00001.pt"))  # its checksum is right


# every place that loads what a server, a run or a disk holds; a new one gets a line here
PLACES: dict[str, tuple[Callable[[bytes, Path], Any], type[Exception], str]] = {
    "weights": (lambda evil, folder: load_file(kept(evil, folder / "model.safetensors")), SafetensorError, "header"),
    "model": (read_model, mlflow.MlflowException, "pickle is disallowed"),
    "configuration": (read_configuration, mlflow.MlflowException, "not valid UTF-8"),
    "checkpoint": (read_checkpoint_of, CheckpointError, "no checkpoint"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_that_is_loaded_is_never_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    evil, (read, error, match) = pickle.dumps(Evil(tmp_path / "marker")), PLACES[place]
    with pytest.raises(error, match=match):
        read(evil, tmp_path)
    assert not (tmp_path / "marker").exists()
    pickle.loads(evil)
    assert (tmp_path / "marker").exists()  # it would have done its work


# what runs what it loads, or can
UNSAFE = re.compile(
    r"(import|from) (.*, )?(pickle|cloudpickle|joblib|dill|shelve|marshal|jsonpickle)\b"
    r"|from (torch|numpy|yaml) import load\b|(?<![.\w])(eval|exec|__import__)\("
    r"|\b(read_pickle|load_model|extractall|unsafe_load)\(|os\.(system|popen)\("
    r"|(yaml|export|jit|hub)\.load\(|torch\.load\((?!.*weights_only=True)|(shell|allow_pickle)=True"
)


def test_no_file_of_ours_can_run_what_it_loads() -> None:
    files = sorted((PROJECT / "normstudy").rglob("*.py"))
    assert not {file.name: found[0] for file in files if (found := UNSAFE.search(file.read_text()))}


@pytest.mark.parametrize(
    "line",
    [
        "import torch, dill as d",
        "from joblib import load",
        "from torch import load",
        "eval(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "numpy.load(x, allow_pickle=True)",
        "mlflow.pyfunc.load_model(x)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_what_runs_what_it_loads_is_found(line: str) -> None:
    assert UNSAFE.search(line)
    assert not UNSAFE.search("model.eval()\ntorch.load(x, weights_only=True)\nspec.loader.exec_module(module)")
