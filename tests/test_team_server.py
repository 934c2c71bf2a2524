"""A team's server, started for real by deploy/serve.sh: PostgreSQL, users with passwords, artifacts through it."""

import json
import secrets
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import pandas as pd
import pytest
from helpers.faults_tools import Place, require_whole_study, stopping, three_trials
from helpers.project import only_line
from helpers.servers import Server, postgresql, team_server

from normstudy.tracking import Artifact, Tag

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
PASSWORD = secrets.token_urlsafe(16)
TRIAL = ["--norm", "none", "--epochs", "1", "--train-size", "640"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("team_server")
    with postgresql(folder) as database, team_server(database, folder, PASSWORD) as running:
        yield running


@pytest.fixture
def member(server: Server) -> dict[str, str]:
    """The credentials of a user who is no admin, made as docs/team-server.md says."""
    name, password = "ada", secrets.token_urlsafe(16)
    admin = b64encode(f"admin:{PASSWORD}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {admin}"}
    body = json.dumps({"username": name, "password": password}).encode()
    with urlopen(Request(f"{server.address}/api/2.0/mlflow/users/create", body, headers), timeout=60) as answer:
        assert answer.status == 200
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    with stopping(Place(folder=tmp_path, store=server.address)) as place:
        yield place


def test_trials_of_a_member_at_once_are_whole_their_artifacts_are_on_the_server_and_a_report_is_made_of_it_alone(
    place: Place, server: Server, member: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = three_trials(place, epochs=2)
    done = place.run("study", file, "--workers", "3", **member)
    assert done.status == 0, done.stdout + done.stderr
    for name, value in member.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(place.store)
    require_whole_study(place, epochs=2)
    run = place.runs(f"tags.`{Tag.TRIAL_KEY}` LIKE '%'")[0]
    local = Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, Artifact.WEIGHTS, str(place.folder)))
    assert local.stat().st_size > 7522 * 4
    stored = list((server.folder / "artifacts").rglob(local.name))
    assert len(stored) >= 3, "the server holds them, not the client's machine"
    done = place.run("report", file, "--out", str(place.folder / "report"), **member)
    assert done.status == 0, done.stdout + done.stderr
    assert len(pd.read_csv(place.folder / "report" / "results.csv")) == 3


def test_a_wrong_password_is_refused_in_one_line_that_does_not_show_it(server: Server, tmp_path: Path) -> None:
    wrong = secrets.token_urlsafe(16)
    with stopping(Place(folder=tmp_path, store=server.address.replace("//", f"//admin:{wrong}@"))) as place:
        done = place.run("train", *TRIAL)
    assert done.status == 1
    assert "401" in only_line("\n".join(done.told))
    assert wrong not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if wrong.encode() in path.read_bytes()]
