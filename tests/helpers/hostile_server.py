"""A tracking server in the hands of whoever a test wants."""

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from helpers.artifacts import ROW, picture, table
from helpers.project import using
from normstudy.config import TrainConfig
from normstudy.errors import ReportError
from normstudy.report.read import LARGEST, finished_trials
from normstudy.tracking import Artifact, Tag

CONFIG = TrainConfig(epochs=1)
RUN_ID, PARENT_ID = "a" * 32, "b" * 32
IMAGE = f"{Artifact.TEN}/index17_true3_predicted5.png"  # of ROW


class Server(ThreadingHTTPServer):
    """A tracking server that plays whatever a test wants; as it starts an honest one with one run and its study."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.streamed = 0  # bytes of an answer without end
        self.authorization: list[str] = []
        self.value: Any = 0.9999
        self.status = "FINISHED"
        self.uri = f"mlflow-artifacts:/1/{RUN_ID}/artifacts"
        self.params = {name: str(value) for name, value in CONFIG.model_dump().items()} | {"parameters": "7522"}
        self.tags: dict[str, str] = {Tag.TRIAL_KEY: CONFIG.trial_key, Tag.CORES: "2", Tag.PARENT: PARENT_ID}
        self.artifacts: dict[str, Any] = {  # its bytes, or the header of an answer without end
            Artifact.MISCLASSIFIED: table(ROW),
            Artifact.STUDY: json.dumps({"study": "name", "trials": [CONFIG.model_dump()]}).encode(),
            IMAGE: picture(),
        }

    def run(self, run_id: str) -> dict[str, Any]:
        info = {"run_id": run_id, "run_uuid": run_id, "status": self.status, "artifact_uri": self.uri}
        data = {"params": self.params.items(), "tags": self.tags.items()}
        return {"info": info, "data": {name: [{"key": k, "value": v} for k, v in data[name]] for name in data}}

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        point = {"run_id": RUN_ID, "step": 1, "timestamp": 1, "value": self.value}
        listing = [{"path": path, "is_dir": False} for path in ("../../evil", "/tmp/evil", "%2e%2e/%2e%2e/evil")]
        artifact = self.artifacts.get(path.partition("/artifacts/")[2].partition("/artifacts/")[2])
        return {
            "experiments/search": {"experiments": [{"experiment_id": "1"}]},
            "runs/search": {"runs": [self.run(RUN_ID)]},
            "runs/get": {"run": self.run(query.get("run_id", [""])[0])},
            "metrics/get-history-bulk": {"metrics": [point]},
            "metrics/get-history": {"metrics": [point | {"key": query.get("metric_key", [""])[0]}]},
            "mlflow-artifacts/artifacts": {"files": listing},
        }.get(path, artifact)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {url.path}")
        self.server.authorization.append(self.headers.get("Authorization", ""))
        path = url.path.split("/2.0/")[-1].removeprefix("mlflow/")
        answer = self.server.answer(path, parse_qs(url.query))
        if isinstance(answer, str):
            return self.endless(answer)
        content = answer if isinstance(answer, bytes) else json.dumps(answer or {}).encode()
        self.send_response(200 if answer is not None or self.command == "PUT" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def endless(self, header: str) -> None:
        """An answer that has no end for whoever doesn't hang up: it has one after 8 times what may be read."""
        self.send_response(200)
        self.send_header(*header.split(": "))
        self.end_headers()
        start, end = (b"10000\r\n", b"\r\n") if "chunked" in header else (b"", b"")
        with suppress(OSError):
            while self.server.streamed < 8 * LARGEST:
                self.wfile.write(start + b" " * 2**16 + end)
                self.server.streamed += 2**16

    do_POST = do_PUT = do_GET  # noqa: N815
    log_message = staticmethod(lambda *_: None)  # type: ignore[assignment]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It runs, MLflow looks at it, and all temporary files land below `tmp_path / "temporary"`."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with Server() as server, using(server.address, tmp_path, monkeypatch):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


read_trials = partial(finished_trials, [CONFIG], None)


def refused(match: str, read: Callable[[], Any] = read_trials) -> None:
    with pytest.raises(ReportError, match=match) as caught:
        read()
    assert str(caught.value).isprintable()
