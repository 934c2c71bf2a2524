"""Which stores and runs are used, and that one which refuses is told from one that is away before anything is made."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from helpers.project import PROJECT, using
from helpers.studied import all_runs

from normstudy.comparison import compare
from normstudy.config import TrainConfig
from normstudy.errors import ConfigError, NormstudyError, Refused
from normstudy.experiment import Experiment
from normstudy.launch.study import open_registry, single, study
from normstudy.report.read import planned_in
from normstudy.tracking import Tag
from normstudy.tracking.mlflow_private import is_refusal
from normstudy.tracking.store import connect, has_store, sqlite_file, where

CONFIG = TrainConfig(epochs=1, train_size=64, device="cpu")


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        *(
            (uri, "no address of a tracking server or database")
            for uri in ("file:///x", "./mlruns", "databricks", "a://b")
        ),
        ("localhost:5000", "no address of a tracking server or database"),
        ("mysql://ada:secret@h/d", "its driver, the package MySQLdb, is not installed"),
        ("sqlite:///:memory:", "a database in memory"),
        ("sqlite://", "a database in memory"),
        (f"sqlite:///{PROJECT}", "a folder"),
    ],
)
def test_a_uri_of_no_store_is_refused_with_the_kinds_that_are_and_without_its_password(
    uri: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    line = rf"^MLFLOW_TRACKING_URI=.*: {problem}[^\n]*; expected .*sqlite:////"
    for ask in (connect, has_store):
        with pytest.raises(ConfigError, match=line) as error:
            ask()
        assert "secret" not in str(error.value)


def test_one_database_is_the_same_store_however_its_uri_is_spelled(
    migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "é b"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(migrated_store.read_bytes())
    spellings = [f"sqlite:///{tmp_path}/{name}/mlflow.db" for name in ("é b", "%C3%A9%20b", "é%20b")]
    for uri in spellings:
        with using(uri, tmp_path, monkeypatch):
            assert has_store()
            connect()
            assert where() == spellings[0]
    with using(f"{spellings[1]}?timeout=60", tmp_path, monkeypatch):
        connect()
        assert sqlite_file(os.environ["MLFLOW_TRACKING_URI"]) == folder / "mlflow.db"
    assert [path.name for path in tmp_path.iterdir()] == ["é b"]


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["update alembic_version set version_num = '451aebb31d03'"], "has the tables of an older MLflow"),
        (["drop table alembic_version", "drop table webhooks"], "has the tables of an older MLflow"),
        (["update alembic_version set version_num = 'f00'"], r"has tables that MLflow \S+ doesn't know, such as those"),
    ],
)
def test_tables_of_another_version_are_refused_and_left_as_they_are(
    statements: list[str], problem: str, migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself migrates them, where a whole table is missing, without a question."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(migrated_store.read_bytes())
    changed(database, *statements)
    before = database.read_bytes()
    with using(f"sqlite:///{database}", tmp_path, monkeypatch):
        for make in (True, False):
            with pytest.raises(ConfigError, match=f"^MLFLOW_TRACKING_URI=sqlite:///{database}: {problem}") as error:
                connect(make=make)
    assert ("mlflow db upgrade sqlite" in str(error.value)) == ("older" in problem)
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [("cats", "has tables, and none of MLflow's"), ("text", "is no database"), ("", "is empty"), (None, "isn't there")],
)
def test_a_file_without_mlflows_tables_gets_none_from_a_command_that_only_reads(
    content: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    if content == "cats":
        changed(database, "create table cats (name text)")
    elif content is not None:
        database.write_text(content * 1_000)
    before = database.read_bytes() if database.exists() else None
    expected = rf"^MLFLOW_TRACKING_URI=sqlite:///{database}: {problem}; expected a database of MLflow"
    with using(f"sqlite:///{database}", tmp_path, monkeypatch):
        for read in (lambda: connect(make=False), lambda: compare("x"), lambda: planned_in("0" * 32)):
            with pytest.raises(ConfigError, match=expected):
                read()
    assert (database.read_bytes() if database.exists() else None) == before


def changed(database: Path, *statements: str) -> None:
    """Run these statements of SQL."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_database_that_may_only_be_read_refuses_and_is_not_away(
    migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(f"sqlite:///file:{migrated_store}?mode=ro&uri=true", tmp_path, monkeypatch):
        with pytest.raises(mlflow.MlflowException, match="readonly") as error:
            mlflow.MlflowClient().create_experiment("x")
        assert is_refusal(error.value)
        with pytest.raises(Refused, match="attempt to write a readonly database"):
            single(CONFIG)


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "{}/file/below", "http://127.0.0.1:9/x"])
def test_where_artifacts_cannot_be_stored_nothing_is_trained_and_no_run_is_made(
    store: str, tmp_path: Path, location: str
) -> None:
    (tmp_path / "file").touch()
    mlflow.MlflowClient().create_experiment("normstudy", location.format(tmp_path))
    for command in (lambda: single(CONFIG), lambda: study(Experiment(name="x", question="?", configs=(CONFIG,)))):
        with pytest.raises(Refused, match=r"^experiment normstudy: .*artifact") as error:
            command()
        assert str(error.value).isprintable()
        assert error.value.exit_status == 1
    assert all_runs() == []


@pytest.mark.parametrize("state", ["FINISHED", "FAILED", "deleted", "another trial's", "missing"])
def test_a_run_of_other_work_is_not_taken_for_the_one_that_mlflow_run_has_made(
    store: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    run_id = "0" * 32 if state == "missing" else client.create_run("0", run_name="thesis").info.run_id
    if state in ("FINISHED", "FAILED"):
        client.set_terminated(run_id, state)
    elif state == "deleted":
        client.delete_run(run_id)
    elif state != "missing":
        client.set_tag(run_id, Tag.RECORD, "f" * 32)
    before = None if state == "missing" else client.get_run(run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(ConfigError, match=rf"^MLFLOW_RUN_ID={run_id}: "):
        single(CONFIG)
    assert before is None or client.get_run(run_id).to_dictionary() == before
    assert len(all_runs()) == (state not in ("missing", "deleted"))


def test_an_experiment_that_is_not_there_or_was_deleted_is_refused(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    with pytest.raises(ConfigError, match=r"^MLFLOW_EXPERIMENT_ID=77: sqlite:.* has no such experiment$"):
        open_registry(offline=False)
    deleted = mlflow.MlflowClient().create_experiment("gone")
    mlflow.MlflowClient().delete_experiment(deleted)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", deleted)
    with pytest.raises(NormstudyError, match=r"experiment gone was deleted; `mlflow experiments restore"):
        single(CONFIG)
