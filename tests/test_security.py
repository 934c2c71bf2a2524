"""What a tracking server, or whoever may write to it, can't do to the machine that reads it."""

import ast
import hashlib
import io
import json
import pickle
import runpy
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT, only_line, run_cli, using
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file

from normstudy.config import TrainConfig
from normstudy.errors import NormstudyError, ReportError
from normstudy.plots import COLUMNS, logged_image, logged_table
from normstudy.report import report
from normstudy.runs import CURVES, finished_trials, page_run, planned_in
from normstudy.tracking import Artifact, Tag

CONFIG = TrainConfig(epochs=1)
RUN_ID, PARENT_ID = "a" * 32, "b" * 32
ROW = [17, 3, 5, 0.9, 0.05, 3.0]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def table(*rows: list[Any]) -> bytes:
    return json.dumps({"columns": [*COLUMNS], "data": rows}).encode()


def picture(mode: str = "L", size: tuple[int, int] = (28, 28), form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """A tracking server that plays whatever a test wants; by default an honest one with one run and its study."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.authorization: list[str] = []
        self.value: Any = 0.9999
        self.uri = f"mlflow-artifacts:/1/{RUN_ID}/artifacts"
        self.params = {name: str(value) for name, value in CONFIG.model_dump().items()} | {"parameters": "7522"}
        self.tags = {Tag.TRIAL_KEY: CONFIG.trial_key, Tag.CORES: "2", Tag.PARENT: PARENT_ID}
        study = {"study": "name", "trials": [CONFIG.model_dump()]}
        self.artifacts = {
            Artifact.MISCLASSIFIED: table(ROW),
            f"{Artifact.TEN}/index17_true3_predicted5.png": picture(),
            Artifact.STUDY: json.dumps(study).encode(),
        }
        self.listing = ["../../evil", "/tmp/evil", "%2e%2e/%2e%2e/evil"]

    def run(self, run_id: str) -> dict[str, Any]:
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "1", "status": "FINISHED", "start_time": 1,
                "artifact_uri": self.uri, "lifecycle_stage": "active"}  # fmt: skip
        data = {
            name: [{"key": k, "value": v} for k, v in values.items()]
            for name, values in {"params": self.params, "tags": self.tags}.items()
        }
        return {"info": info, "data": data}

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        experiment = {"experiment_id": "1", "name": "normstudy", "lifecycle_stage": "active"}
        name = path.partition("/artifacts/")[2].partition("/artifacts/")[2]
        return {
            "experiments/search": {"experiments": [experiment]},
            "runs/search": {"runs": [self.run(RUN_ID)]},
            "runs/get": {"run": self.run(query.get("run_id", [""])[0])},
            "metrics/get-history-bulk": {
                "metrics": [{"run_id": RUN_ID, "step": 1, "timestamp": 1, "value": self.value}]
            },
            "mlflow-artifacts/artifacts": {"files": [{"path": path, "is_dir": False} for path in self.listing]},
        }.get(path, self.artifacts.get(name))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {url.path}")
        self.server.authorization.append(self.headers.get("Authorization", ""))
        path = url.path.split("/2.0/")[-1].removeprefix("mlflow/")
        answer = self.server.answer(path, parse_qs(url.query))
        content = answer if isinstance(answer, bytes) else json.dumps(answer or {}).encode()
        self.send_response(200 if answer is not None or self.command == "PUT" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It runs, MLflow looks at it, and all temporary files land below `tmp_path / "temporary"`."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with Server() as server, using(server.address, tmp_path, monkeypatch):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def refused(match: str, read: Callable[[], Any] = partial(finished_trials, [CONFIG], None)) -> None:
    with pytest.raises(ReportError, match=match) as caught:
        read()
    assert str(caught.value).isprintable()


def test_an_honest_server_is_reported_without_following_a_listing_of_its(server: Server, tmp_path: Path) -> None:
    report("study", [CONFIG], parent_id=None, out=tmp_path / "report", readme=None)
    assert pd.read_csv(tmp_path / "report" / "results.csv")["run_id"].tolist() == [RUN_ID]
    assert {path.name for path in tmp_path.iterdir()} == {"temporary", "report"}
    assert not list((tmp_path / "temporary").iterdir())
    assert "GET /api/2.0/mlflow-artifacts/artifacts" not in server.requests
    assert any(line.startswith("PUT") and line.endswith("/interactive.html") for line in server.requests)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (table(["../../evil", *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table([10_000, *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table([-1, *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table([2**70, *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table([17.0, *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table([None, *ROW[1:]]), "index is not a whole number from 0 to 9999"),
        (table(ROW, ROW), "it has an index twice"),
        (table([1, True, *ROW[2:]]), "true is not a whole number from 0 to 9"),
        (table([1, 3, "/etc/passwd", *ROW[3:]]), "predicted is not a whole number from 0 to 9"),
        (table([*ROW[:3], float("nan"), *ROW[4:]]), "confidence is not a number from 0 to 1"),
        (table([*ROW[:5], float("inf")]), "loss is not a number from 0"),
        (table([*ROW[:5], {"a": 1}]), "loss is not a number from 0"),
        (table(ROW[:5]), "it is not rows of 6 values"),
        (b'{"columns": ["index"], "data": [[1]]}', "its columns are not index, true, predicted, confidence"),
        (b'{"columns": [], "data": [], "index": []}', "it is not a table of columns and data"),
        (b"[" * 100_000, "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
    ],
)  # fmt: skip
def test_a_table_that_no_trial_logs_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logged_table(content)


def test_names_of_images_made_from_a_hostile_table_are_never_asked_for(server: Server) -> None:
    server.artifacts[Artifact.MISCLASSIFIED] = table(["../../../../evil", *ROW[1:]])
    refused(
        f"^run {RUN_ID}: artifact misclassified/table.json: index is not a whole number from 0 to 9999 in every row$"
    )
    assert not any("evil" in line for line in server.requests)


def bomb() -> bytes:
    """A text chunk of 64 MiB, compressed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * 2**26, zip=True)
    return picture(pnginfo=text)


def claiming(width: int, height: int) -> bytes:
    """An image whose header claims a size that its pixels don't have."""
    content = picture()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (picture(size=(28, 29)), "not 28 x 28 grey pixels"),
        (picture(mode="RGB"), "not 28 x 28 grey pixels"),
        (claiming(9_000, 9_000), "not 28 x 28 grey pixels"),
        (claiming(60_000, 60_000), "no PNG that can be read"),  # Pillow's own limit
        (picture(form="JPEG"), "no PNG that can be read"),
        (picture(form="GIF"), "no PNG that can be read"),
        (picture()[:60], "no PNG that can be read"),
        (bomb(), "no PNG that can be read"),
        (b"", "no PNG that can be read"),
    ],
)  # fmt: skip
def test_an_image_that_is_no_small_grey_png_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        logged_image(content)


def test_an_artifact_too_large_is_refused(server: Server) -> None:
    server.artifacts[Artifact.MISCLASSIFIED] = b" " * (2**23 + 1)
    refused(f"run {RUN_ID}: artifact misclassified/table.json: it is larger than 8,388,608 bytes")


@pytest.mark.parametrize("value", ["NaN", 1.7976931348623157e308, -1.7976931348623157e308, 1e999])
def test_a_metric_that_is_not_finite_is_refused_by_name(server: Server, value: Any) -> None:
    server.value = value
    refused(f"^run {RUN_ID}: {CURVES[0]} is not finite at epoch 1$")


def test_text_of_the_server_in_a_message_stays_in_one_line(server: Server) -> None:
    server.params["lr"] = "fast\nroot: \x1b[2J\u202e"
    refused(f"run {RUN_ID}: its parameters are no configuration: lr=fast root: ")
    server.params = {"cls": "1"}
    refused(f"run {RUN_ID}: its parameters are no configuration")


@pytest.mark.parametrize(
    ("where", "name", "text", "complaint"),
    [
        ("tags", Tag.PARENT, "../../x", f"run {RUN_ID}: mlflow.parentRunId=../../x: not a run id"),
        ("tags", Tag.CORES, "<b>2</b>", f"run {RUN_ID}: cores=<b>2</b>: not a whole number"),
        ("tags", Tag.STACK, "-1", f"run {RUN_ID}: stack=-1: not a whole number"),
        ("params", "parameters", "9" * 5000, f"run {RUN_ID}: parameters=999"),
    ],
)
def test_tags_and_parameters_of_another_kind_are_refused(
    server: Server, where: str, name: str, text: str, complaint: str
) -> None:
    getattr(server, where)[name] = text
    refused(complaint)


def test_password_and_token_are_sent_to_no_other_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with Server() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        host = other.address.removeprefix("http://")
        for uri in (f"mlflow-artifacts://{host}/1", f"http://{host}/api/2.0/mlflow-artifacts/artifacts/1", "models:/m/1",
                    f"http://{host}\\@{server.address.removeprefix('http://')}/1"):  # fmt: skip
            server.uri = uri
            refused(f"run {RUN_ID}: its artifacts are not on {server.address} but ")
        other.shutdown()
    assert "Bearer secret" in server.authorization
    assert not other.requests


def test_a_server_elsewhere_chooses_no_folder_to_write_the_page_to(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = finished_trials([CONFIG], None)
    assert page_run(records) == PARENT_ID
    for uri in (f"file://{tmp_path}/chosen", f"{tmp_path}/chosen"):
        server.uri = uri
        assert page_run(records) is None
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow, "get_run", lambda _: None)
    assert page_run(records) == PARENT_ID


@pytest.mark.parametrize(
    ("study", "complaint"),
    [
        ({"study": "name"}, "it is no study with a list of trials"),
        (["study", "trials"], "it is no study with a list of trials"),
        ({"study": "name", "trials": 7}, "it is no study with a list of trials"),
        ({"study": "name", "trials": [7]}, "it is no study with a list of trials"),
        ({"study": "name", "trials": []}, "it is a study without trials"),
        ({"study": "name", "trials": [{"norm": "../../x"}]}, "norm=../../x: unknown norm; choose from "),
        ({"study": "name", "trials": [{"epochs": {"a": "b\nc"}}]}, "epochs="),
    ],
)
def test_a_plan_that_is_none_is_refused(server: Server, study: Any, complaint: str) -> None:
    server.artifacts[Artifact.STUDY] = json.dumps(study).encode()
    refused(f"^run {PARENT_ID}: artifact study.json: {complaint}", partial(planned_in, PARENT_ID))


def test_a_study_may_have_any_name(server: Server) -> None:
    server.artifacts[Artifact.STUDY] = json.dumps(
        {"study": "a\n\ud800<b>\x00", "trials": [CONFIG.model_dump()]}
    ).encode()
    assert planned_in(PARENT_ID) == ("a  <b>", [CONFIG])


@pytest.mark.parametrize("parent_id", ["../../x", "x' OR '1' = '1", "/etc", "a\nb", "runs:/x"])
def test_a_parent_that_is_no_run_id_is_refused_in_one_line(parent_id: str) -> None:
    refused("^parent=.*: not a run id$", partial(planned_in, parent_id))


def test_command_line_refuses_a_path_as_parent_in_one_line(tmp_path: Path) -> None:
    done = run_cli("report", "--parent", "../../x", store=f"sqlite:///{tmp_path}/none.db", cwd=tmp_path)
    assert done.returncode == 1
    assert only_line(done.stderr) == "normstudy: error: parent=../../x: not a run id"
    assert not list(tmp_path.iterdir())


class Evil:
    """Its pickle makes the file `marker` when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


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


def read_checkpoint_file(evil: bytes, folder: Path) -> None:
    """Even with a checksum that is right."""
    from normstudy.checkpoint import read_checkpoint

    (folder / "epoch_00001.pt").write_bytes(hashlib.sha256(evil).digest() + evil)
    read_checkpoint(folder / "epoch_00001.pt")


def read_weights(evil: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(evil)
    load_file(folder / "model.safetensors")


def read_configuration(evil: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(evil)
    mlflow.artifacts.load_dict(str(folder / "config.json"))


# every place that loads what a server, a run or a disk holds; a new one gets a line here
PLACES: dict[str, tuple[Callable[[bytes, Path], Any], type[Exception], str]] = {
    "weights": (read_weights, Exception, "header"),
    "model": (read_model, mlflow.MlflowException, "pickle is disallowed"),
    "configuration": (read_configuration, mlflow.MlflowException, "not valid UTF-8|JSON"),
    "checkpoint": (read_checkpoint_file, NormstudyError, "no checkpoint"),
    "table": (lambda evil, _: logged_table(evil), ValueError, "it is not JSON"),
    "image": (lambda evil, _: logged_image(evil), ValueError, "no PNG that can be read"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_the_place_of_anything_that_is_loaded_is_never_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    evil, (read, error, match) = pickle.dumps(Evil(tmp_path / "marker")), PLACES[place]
    with pytest.raises(error, match=match):
        read(evil, tmp_path)
    assert not (tmp_path / "marker").exists()
    pickle.loads(evil)
    assert (tmp_path / "marker").exists()  # it would have done its work


@pytest.mark.parametrize(
    "path", [Artifact.MISCLASSIFIED, Artifact.STUDY, f"{Artifact.TEN}/index17_true3_predicted5.png"]
)
def test_a_pickle_in_the_place_of_an_artifact_is_an_error_in_one_line(
    server: Server, tmp_path: Path, path: str
) -> None:
    server.artifacts[path] = pickle.dumps(Evil(tmp_path / "marker"))
    refused(
        f": artifact {path}: it is no",
        partial(planned_in, PARENT_ID) if path == Artifact.STUDY else partial(finished_trials, [CONFIG], None),
    )
    assert not (tmp_path / "marker").exists()


UNSAFE_MODULES = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = ("read_pickle", "load_model", "extractall", "os.system", "os.popen", "yaml.load", "unsafe_load",
                "export.load", "jit.load", "hub.load")  # fmt: skip


def offences(source: str) -> list[str]:
    """The lines of a Python file that run what they load, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            bad = any(module.split(".")[0] in UNSAFE_MODULES for module in modules)
            bad |= isinstance(node, ast.ImportFrom) and modules[-1] in ("torch", "numpy", "yaml") and "load" in modules
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


@pytest.mark.parametrize("path", sorted((PROJECT / "normstudy").rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_of_ours_can_run_what_it_loads(path: Path) -> None:
    assert not offences(path.read_text())


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "import torch, dill as d", "from torch import load", "eval(x)",
     "torch.load(x)", "torch.load(x, weights_only=False)", "numpy.load(x, allow_pickle=True)", "pd.read_pickle(x)",
     "mlflow.pyfunc.load_model(x)", "yaml.load(x)", "subprocess.run(x, shell=True)", "tar.extractall()"],
)  # fmt: skip
def test_what_runs_what_it_loads_is_found(line: str) -> None:
    assert offences(line)
    assert not offences("model.eval()\ntorch.load(x, weights_only=True)\nspec.loader.exec_module(module)")


def test_audit_fails_on_a_known_vulnerability_and_counts_what_it_could_not_audit() -> None:
    verdict = runpy.run_path(str(PROJECT / ".ci" / "audit.py"))["verdict"]
    clean = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    unknown = {"name": "c", "skip_reason": "not found"}
    assert verdict(json.dumps({"dependencies": [clean]}), "") == (
        "pip-audit: 0 known vulnerabilities in 1 audited packages",
        0,
    )
    text, status = verdict(json.dumps({"dependencies": [clean, bad, unknown, unknown]}), "")
    assert status == 1
    assert text.splitlines()[0] == "b 2: CVE-1, fixed in 3"
    assert "2 of 4 could not be audited" in text
    assert verdict(json.dumps({"dependencies": [unknown]}), "No known vulnerabilities found")[0].count("\n") == 0
    assert verdict("", "requests.exceptions.ConnectionError: ...") == (
        "pip-audit: nothing was audited: no connection to the vulnerability data", 0)  # fmt: skip
    assert verdict("", "ERROR: mlflow does not contain a hash")[1] == 1
