"""Messages are one line that a terminal shows as it is, and show no password, however the URI around it is written."""

import random
import string
from urllib.parse import quote

import mlflow
import pytest
from sqlalchemy.engine import URL

from normstudy.errors import one_line, public_uri
from normstudy.tracking.store import first_line, where


def test_one_line_has_no_escape_sequence_line_break_or_change_of_direction() -> None:
    text = one_line("a\x1b[2Jb\nc\r\x07d\u202ee\u2066f\u2028g\x85h\x9b1m\ud800")
    assert text == "a [2Jb c  d e f g h 1m"
    assert len(one_line("x" * 1_000)) == len(first_line(ValueError("?pass" * 1_000_000))) == 300
    assert first_line(ValueError(" \n ")) == "ValueError"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("HTTPS://user:hunter2@host/path?a=1", "HTTPS://host/path?a=1"),
        ("http://hunter2@host", "http://host"),
        ("http://user:hunter2/x@host/path", "http://...@host/path"),
        ("http://user:x hunter2@host/path", "http://host/path"),
        ("http://user:x?hunter2@host/path", "http://...@host/path"),
        ("http://user:x?a=hunter2@host/path", "http://..."),
        ("http://user:x#hunter2@host/path", "http://host/path"),
        ("postgresql+psycopg://u:hunter2@h:5432/d?sslmode=require", "postgresql+psycopg://h:5432/d?sslmode=require"),
        ("postgresql://h/d?user=hunter2&password=x", "postgresql://h/d?user=...&password=..."),
        ("postgresql://h/d?p%61ssword=hunter2", "postgresql://h/d?p%61ssword=..."),
        ("mssql+pyodbc://h/d?odbc_connect=UID%3Du%3BPWD%3Dhunter2", "mssql+pyodbc://h/d?odbc_connect=..."),
        ("https://h/?api_key=hunter2&a=1#client_secret=x", "https://h/?api_key=...&a=..."),
        ("https://h/?next=http%3A%2F%2Fu%3Ahunter2%40h", "https://h/?next=..."),
        ("s3://bucket/x?X-Amz-Signature=hunter2", "s3://bucket/x?X-Amz-Signature=..."),
        ("sqlite+pysqlcipher://:hunter2@/a.db", "sqlite+pysqlcipher:///a.db"),
        ("sqlite:////home/me@work/a#b.db", "sqlite:////home/me@work/a#b.db"),
    ],
)
def test_a_uri_in_a_message_has_no_user_password_or_secret_setting(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown


def nasty(generator: random.Random) -> str:
    """A password with what URIs give a meaning, too long to stand in a message by chance."""
    signs = "/@:?#&=% +'\"\\[]<>;,!$^`{|}~é" + string.ascii_letters + string.digits
    return "".join(generator.choices(signs, k=generator.randint(12, 20)))


@pytest.mark.parametrize("seed", range(20))
def test_no_message_shows_a_nasty_password_or_any_way_to_write_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(seed)
    password, user = nasty(generator), nasty(generator)
    rendered = URL.create("postgresql", user, password, "db.example.com", 5432, "mlflow").render_as_string(False)
    encoded = quote(password, "")
    raw, usual = f"http://us/er:{password}@host:5000/", f"https://{quote(user, '')}:{encoded}@host:5000"
    for uri in (raw, usual, rendered, f"postgresql://host/mlflow?sslpassword={encoded}&user=x"):
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        messages = [where(), where(uri), first_line(ValueError(f"no answer from {uri}: refused"))]
        for written in (password, encoded, encoded.lower(), repr(password)[1:-1]):
            messages.append(first_line(ValueError(f"password {written} of FATAL: login with {written}")))
            assert not [message for message in messages if written in message], uri
        assert all(message.isprintable() for message in messages)
    assert where(rendered) == "postgresql://db.example.com:5432/mlflow"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"])
def test_no_message_shows_the_secrets_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hun/ter 2")
    for written in ("hun/ter 2", "hun%2Fter%202", "hun%2fter+2"):
        message = first_line(ValueError(f"\n\nBearer {written} was refused\nbecause"))
        assert message == "Bearer ... was refused"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no route to http://u:hunter2@h/x, retrying", "no route to http://h/x, retrying"),
        ("exceeded with url: /a?token=hunter2&b=1 (Cau", "exceeded with url: /a?token=...&b=1 (Cau"),
        ("invalid dsn: host=h password='hunter2 x' port=1", "invalid dsn: host=h password=... port=1"),
        ("postgresql://u:hun/ter2@h/d, mysql://h/d?passwd=x", "postgresql://...@h/d, mysql://h/d?passwd=..."),
    ],
)
def test_other_uris_in_a_message_lose_their_secrets_too(text: str, shown: str) -> None:
    assert first_line(ValueError(text)) == shown


def test_a_short_user_or_password_takes_no_other_word_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "postgresql://mlflow:a@mlflow.example.com/mlflow")
    error = ValueError('mlflow.exceptions: at mlflow.example.com: FATAL: user "mlflow" with "a" failed')
    assert first_line(error) == 'mlflow.exceptions: at mlflow.example.com: FATAL: user "..." with "..." failed'
    assert where() == "postgresql://mlflow.example.com/mlflow"
