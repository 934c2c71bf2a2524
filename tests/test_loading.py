"""No file of ours runs what it loads: not a server's, not a run's, not a disk's."""

import ast
import hashlib
import pickle
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


UNSAFE_MODULES = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = (
    "read_pickle",
    "load_model",
    "extractall",
    "os.system",
    "os.popen",
    "yaml.load",
    "unsafe_load",
    "export.load",
    "jit.load",
    "hub.load",
)


def offences(source: str) -> list[str]:
    """The lines of a Python file that run what they load, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module, names = getattr(node, "module", ""), [alias.name for alias in node.names]
            bad = any(str(name).split(".")[0] in UNSAFE_MODULES for name in [module, *names])
            bad |= module in ("torch", "numpy", "yaml") and "load" in names
        elif isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            bad = name in ("eval", "exec", "__import__") or name.endswith(UNSAFE_CALLS)
            bad |= name.endswith("torch.load") and keywords.get("weights_only") != "True"
            bad |= keywords.get("shell", "False") != "False" or keywords.get("allow_pickle", "False") != "False"
        else:
            continue
        if bad:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_file_of_ours_can_run_what_it_loads() -> None:
    files = sorted((PROJECT / "normstudy").rglob("*.py"))
    assert not {file.name: found for file in files if (found := offences(file.read_text()))}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import torch, dill as d",
        "from torch import load",
        "eval(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "numpy.load(x, allow_pickle=True)",
        "pd.read_pickle(x)",
        "mlflow.pyfunc.load_model(x)",
        "yaml.load(x)",
        "subprocess.run(x, shell=True)",
        "tar.extractall()",
    ],
)
def test_what_runs_what_it_loads_is_found(line: str) -> None:
    assert offences(line)
    assert not offences("model.eval()\ntorch.load(x, weights_only=True)\nspec.loader.exec_module(module)")
