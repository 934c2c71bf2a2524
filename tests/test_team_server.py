"""A team's server, started for real: PostgreSQL, users with passwords, artifacts through it, many writers."""

import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import mlflow
import pandas as pd
import pytest
from helpers.project import clean_environment, only_line, run_cli, using
from helpers.servers import PostgreSQL, TeamServer, postgresql, team_server

from normstudy.tracking import Artifact, Metric

pytestmark = pytest.mark.faults

CLIENTS = 6
EIGHT_TRIALS = '''"""Do eight trials that write at the same time all arrive whole?"""

from normstudy.config import TrainConfig


def trials():
    return [
        TrainConfig(norm=norm, seed=seed, epochs=2, train_size=640, device="cpu")
        for norm in ("gn", "ln")
        for seed in range(4)
    ]
'''
# Imports first, so that all of them come to the empty database at the same moment.
FIRST_CLIENT = """
import pathlib, sys, time
import mlflow
ready, go = map(pathlib.Path, sys.argv[1:])
ready.touch()
while not go.exists():
    time.sleep(0.01)
experiment = mlflow.set_experiment("first")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5, step=1)
print(experiment.experiment_id, run.info.run_id)
"""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where a study was logged, and how a client gets there."""

    uri: str
    credentials: dict[str, str] = field(repr=False)
    experiment_file: Path


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="module")
def server(database: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with team_server(database, tmp_path_factory.mktemp("team_server")) as running:
        yield running


@pytest.fixture(scope="module")
def member(server: TeamServer) -> dict[str, str]:
    """The credentials of a user who is no admin, made as docs/team-server.md says."""
    name, password = "ada", secrets.token_urlsafe(16)
    body = {"username": name, "password": password}
    status, answer = http(f"{server.address}/api/2.0/mlflow/users/create", server.credentials(), body=body)
    assert status == 200, answer
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


@pytest.fixture(scope="module", params=["team server", "sqlite file"])
def eight_trials(
    request: pytest.FixtureRequest, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store after eight small trials that ran at once."""
    folder = tmp_path_factory.mktemp("studied")
    experiment_file = folder / "eight.py"
    experiment_file.write_text(EIGHT_TRIALS)
    if request.param == "team server":
        uri, credentials = request.getfixturevalue("server").address, request.getfixturevalue("member")
    else:
        uri, credentials = f"sqlite:///{folder / 'mlflow.db'}", {}
        (folder / "mlflow.db").write_bytes(migrated_store.read_bytes())
    settings = {**credentials, "NORMSTUDY_STATE": str(folder / "state")}
    done = run_cli("study", str(experiment_file), "--workers", "8", store=uri, cwd=folder, **settings)
    assert done.returncode == 0, done.stderr + done.stdout
    return Store(uri=uri, credentials=credentials, experiment_file=experiment_file)


@pytest.fixture
def client(eight_trials: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    for name, value in eight_trials.credentials.items():
        monkeypatch.setenv(name, value)
    with using(eight_trials.uri, tmp_path, monkeypatch) as uri:
        yield mlflow.MlflowClient(uri)


def trials_in(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    experiment = client.get_experiment_by_name("normstudy")
    return list(client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''"))


def http(
    address: str, credentials: dict[str, str] | None = None, *, body: object = None, **headers: str
) -> tuple[int, str]:
    """A request as any client makes it: status and text of the answer."""
    if credentials:
        user, password = credentials["MLFLOW_TRACKING_USERNAME"], credentials["MLFLOW_TRACKING_PASSWORD"]
        headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_six_clients_at_once_on_an_empty_database_all_log_to_one_experiment(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with postgresql(tmp_path / "database") as empty, team_server(empty, tmp_path / "server") as server:
        environment = clean_environment(server.address, **server.credentials())
        go = tmp_path / "go"
        ready = [tmp_path / f"ready_{number}" for number in range(CLIENTS)]
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", FIRST_CLIENT, str(mark), str(go)],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for mark in ready
        ]
        while not all(mark.exists() for mark in ready):
            assert all(client.poll() is None for client in clients)
            time.sleep(0.05)
        go.touch()
        ended = [(client.communicate(timeout=120), client.returncode) for client in clients]
    assert [status for _, status in ended] == [0] * CLIENTS, ended
    experiments, runs = zip(*(output.splitlines()[-1].split() for (output, _), _ in ended), strict=True)
    assert len(set(experiments)) == 1
    assert len(set(runs)) == CLIENTS


def test_eight_trials_at_once_all_finish_with_each_epoch_once(client: mlflow.MlflowClient) -> None:
    trials = trials_in(client)
    assert [run.info.status for run in trials] == ["FINISHED"] * 8
    for run in trials:
        for metric in (Metric.TRAIN_LOSS, Metric.TEST_ACCURACY):
            assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [1, 2]


def test_report_of_the_eight_trials_is_made_from_the_store_alone(eight_trials: Store, tmp_path: Path) -> None:
    arguments = ["report", str(eight_trials.experiment_file), "--out", str(tmp_path / "report")]
    done = run_cli(*arguments, store=eight_trials.uri, cwd=tmp_path, **eight_trials.credentials)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(pd.read_csv(tmp_path / "report" / "results.csv")) == 8


@pytest.mark.parametrize("eight_trials", ["team server"], indirect=True)
def test_artifacts_come_through_the_server_to_a_member_and_to_nobody_else(
    client: mlflow.MlflowClient, eight_trials: Store, server: TeamServer, tmp_path: Path
) -> None:
    [run, *_] = trials_in(client)
    local = Path(client.download_artifacts(run.info.run_id, Artifact.WEIGHTS, str(tmp_path)))
    assert local.stat().st_size > 7522 * 4
    assert list((server.folder / "artifacts").rglob(local.name)), "the server holds it, not the client's machine"
    path = f"{run.info.experiment_id}/{run.info.run_id}/artifacts/{Artifact.CONFIG}"
    address = f"{server.address}/api/2.0/mlflow-artifacts/artifacts/{path}"
    status, text = http(address, eight_trials.credentials)
    assert status == 200
    assert json.loads(text)["epochs"] == 2
    assert http(address)[0] == 401
    assert http(address, {**eight_trials.credentials, "MLFLOW_TRACKING_PASSWORD": "not this one"})[0] == 401


@pytest.mark.parametrize("where", ["environment", "address"])
def test_a_wrong_password_is_refused_in_one_line_that_does_not_show_it(
    where: str, server: TeamServer, tmp_path: Path
) -> None:
    wrong = secrets.token_urlsafe(16)
    credentials = {"MLFLOW_TRACKING_USERNAME": server.user, "MLFLOW_TRACKING_PASSWORD": wrong}
    uri = server.address
    if where == "address":
        uri, credentials = uri.replace("//", f"//{server.user}:{quote(wrong)}@"), {}
    credentials["NORMSTUDY_STATE"] = str(tmp_path / "state")
    started = time.monotonic()
    done = run_cli("train", "--train-size", "640", "--epochs", "1", store=uri, cwd=tmp_path, **credentials)
    assert time.monotonic() - started < 100  # seconds on an idle machine; MLflow's own retries take four minutes
    assert done.returncode != 0
    assert "401" in only_line(done.stderr)
    assert wrong not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if wrong.encode() in path.read_bytes()]


def test_a_host_that_is_not_allowed_is_refused_even_with_the_password(server: TeamServer) -> None:
    address = f"{server.address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert http(address, server.credentials())[0] == 200
    status, text = http(address, server.credentials(), Host="elsewhere.example.org")
    assert status == 403
    assert "Invalid Host header" in text


def test_a_member_makes_no_users_and_deletes_no_experiment_of_others_and_nobody_gets_in_without_a_password(
    server: TeamServer, member: dict[str, str]
) -> None:
    assert http(f"{server.address}/api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 401
    body = {"username": "eve", "password": secrets.token_urlsafe(16)}
    assert http(f"{server.address}/api/2.0/mlflow/users/create", member, body=body)[0] == 403
    address = f"{server.address}/api/2.0/mlflow/experiments/delete"
    assert http(address, member, body={"experiment_id": "0"})[0] == 403


def test_log_tables_and_list_of_processes_show_no_password(
    server: TeamServer, database: PostgreSQL, member: dict[str, str]
) -> None:
    hidden = [database.password, server.password, member["MLFLOW_TRACKING_PASSWORD"]]
    shown = server.log.read_text() + (server.folder / "basic_auth.ini").read_text()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # a process that has ended meanwhile
            shown += command.read_bytes().decode(errors="replace")
    assert "--app-name" in shown
    shown += database.run("pg_dump").stdout
    assert "COPY public.users" in shown
    assert not [password for password in hidden if password in shown]


def test_postgresql_refuses_a_wrong_password(database: PostgreSQL) -> None:
    refused = database.run("psql", "-c", "SELECT 1", PGPASSWORD="not this one")
    assert refused.returncode != 0
    assert "password authentication failed" in refused.stderr


def test_the_server_comes_back_after_sigkill_with_its_runs_and_users(
    server: TeamServer, member: dict[str, str]
) -> None:
    body = {"experiment_id": "0", "run_name": "before"}
    status, answer = http(f"{server.address}/api/2.0/mlflow/runs/create", member, body=body)
    assert status == 200, answer
    run_id = json.loads(answer)["run"]["info"]["run_id"]
    server.kill()
    with pytest.raises(urllib.error.URLError, match="refused"):
        http(f"{server.address}/health")
    server.restart()
    assert http(f"{server.address}/api/2.0/mlflow/runs/get?run_id={run_id}", member)[0] == 200


def test_an_upgrade_made_as_documented_finds_its_tables(server: TeamServer, database: PostgreSQL) -> None:
    uri = f"postgresql+psycopg://{database.user}@{database.host}:{database.port}/mlflow"
    environment = clean_environment("", **database.environment())
    for command in (["mlflow", "db", "upgrade", uri], ["mlflow.server.auth", "db", "upgrade", "--url", uri]):
        done = subprocess.run(
            [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    server.restart()
    assert http(f"{server.address}/api/2.0/mlflow/users/current", server.credentials())[0] == 200


def test_a_backup_made_as_documented_holds_runs_and_users(
    server: TeamServer, database: PostgreSQL, member: dict[str, str], tmp_path: Path
) -> None:
    dump = database.run("pg_dump", "--format=custom", "--file", str(tmp_path / "mlflow.dump"))
    assert dump.returncode == 0, dump.stderr
    assert database.run("createdb", "restored").returncode == 0
    restored = database.run("pg_restore", "--exit-on-error", "--dbname", "restored", str(tmp_path / "mlflow.dump"))
    assert restored.returncode == 0, restored.stderr
    for table in ("experiments", "users"):
        query = ("psql", "-Atc", f"SELECT count(*) FROM {table}")
        counts = [database.run(*query, name).stdout for name in ("mlflow", "restored")]
        assert counts[0] == counts[1] != "0\n"
