"""What can go wrong that a person should read in one line. The command line turns each into its exit status."""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

SECRET = re.compile("pass|pwd|token|secret|key|user|uid|credential|sig|auth", re.IGNORECASE)  # in a setting's name


class NormstudyError(Exception):
    """An error whose message is one line for the user; a class of its own only where somebody tells it from others."""

    exit_status = 1


class ConfigError(NormstudyError, ValueError):
    """A value that the user gave can't be used."""

    exit_status = 2


class ReportError(NormstudyError):
    """The tracking server doesn't hold what the report needs."""


class Unfinished(ReportError):
    """Trials that the report needs have no finished run; `each` names them one by one."""

    def __init__(self, summary: str, each: Sequence[str]) -> None:
        super().__init__(summary)
        self.each = each


class StorageError(NormstudyError):
    """The disk refuses what must be kept."""


class CheckpointError(NormstudyError):
    """A checkpoint that can't be used."""


class TrackingError(NormstudyError):
    """The tracking server can't be used: away, refusing, or of another version."""


class ServerAway(TrackingError):
    """The tracking server doesn't answer; it may at another try."""


class Refused(TrackingError):
    """The tracking server, or the record that is to be sent to it, is such that another try would end the same."""


class ResultWaits(NormstudyError):
    """The result is on this machine, and not yet on the server."""

    exit_status = 3


class Superseded(NormstudyError):
    """The run is another process's to write now."""


class RunDeleted(Superseded):
    """Somebody has deleted the run."""


class Diverged(NormstudyError):
    """A loss that is not finite, at a step counted from 1."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"diverged: {what} is not finite at step {step}")
        self.step = step


class Interrupted(NormstudyError):
    """A signal asked the process to stop; `left` says what that left, and how to go on."""

    def __init__(self, signal_number: int, left: str = "") -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number, self.left, self.exit_status = signal_number, left, 128 + signal_number


def one_line(text: str, longest: int | None = 300) -> str:
    """Text of any origin for a message or a table: no line break, control character or change of direction in it."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:longest]).strip()


def public_uri(uri: str) -> str:
    """A URI for messages: without user, password and the values in its query that may be secret.

    More lenient than any parser, as a URI that none takes must not show its password either.
    """
    scheme, separator, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    if not (rest.startswith("/") and scheme.lower().startswith(("sqlite", "file"))):  # a path, which may have an @
        user, _, rest = rest.rpartition("@")
        if re.search(r"\?.*=", user, re.DOTALL):  # an @ in the password, or in a value of the query
            return f"{scheme}{separator}..."
        rest = f"...@{rest}" if re.search("[/?]", user) else rest
    place, *query = re.split(r"(\?|#(?=.*=))", rest, maxsplit=1)
    parts = [query[0] + "&".join(map(_public_setting, query[1].split("&")))] if query else []
    return "".join([scheme, separator, place, *parts])


def _public_setting(setting: str) -> str:
    """`name=value`, or `name=...` where the value may be secret."""
    name, equals, _ = setting.partition("=")
    plain = unquote_plus(setting)
    return f"{name}=..." if equals and (SECRET.search(plain.rpartition("=")[0]) or "@" in plain) else setting


def without_secrets(text: str, uri: str, secrets: Iterable[str] = (), users: Iterable[str] = ()) -> str:
    """The text with `...` for these secrets and users and for those of this URI, however they are encoded; and without
    those of any other URI in it."""
    of_uri, users_of_uri = _secrets_in(uri)
    hidden = [_pattern(secret, r"\w" if len(secret) < 4 else "") for secret in _spellings(chain(secrets, of_uri))]
    hidden += [_pattern(user, r"[\w./:-]") for user in _spellings(chain(users, users_of_uri))]
    text = text.replace(uri, public_uri(uri)) if uri else text
    text = re.sub("|".join(hidden), "...", text, flags=re.IGNORECASE) if hidden else text
    text = re.sub(r"[A-Za-z][\w+.-]{0,30}:/\S*", lambda found: public_uri(found[0]), text)
    text = re.sub(r"[?&][^=&\s]{1,60}=[^&\s]*", lambda found: found[0][0] + _public_setting(found[0][1:]), text)
    value = r"""('[^']*'|"[^"]*"|[^\s&,;)]+)"""
    return re.sub(rf"(?i)(\w{{0,30}}(?:pass|pwd|token|secret)\w{{0,30}} ?= ?){value}", r"\1...", text)


def _secrets_in(uri: str) -> tuple[set[str], set[str]]:
    """The passwords and users that a URI may have, taken apart in every way that a parser may choose."""
    user, _, password = uri.rpartition("@")[0].partition("://")[2].partition(":")
    secrets, users = {password, password.partition("@")[0]}, {user.partition("@")[0]}
    with suppress(ValueError):  # of a host that can't be one
        secrets.add(urlsplit(uri).password or "")
    for setting in re.split("[?&#]", uri)[1:]:
        name, _, value = setting.partition("=")
        if SECRET.search(unquote_plus(name)):
            (users if "user" in unquote_plus(name).lower() else secrets).add(value)
    return secrets, users


def _spellings(texts: Iterable[str]) -> list[str]:
    """Each text as it is, and as it is decoded and encoded in URIs and written in Python; the longest first."""
    found = set()
    for text in filter(None, texts):
        for plain in (text, unquote(text), unquote_plus(text)):
            found |= {plain, repr(plain)[1:-1], quote_plus(plain, errors="replace")}
            found |= {quote(plain, safe, errors="replace") for safe in ("", "/")}
    return sorted(found, key=len, reverse=True)


def _pattern(text: str, no_neighbour: str) -> str:
    return rf"(?<!{no_neighbour}){re.escape(text)}(?!{no_neighbour})" if no_neighbour else re.escape(text)


def say(message: str) -> None:
    """A line to the user, beside the training's own."""
    print(f"normstudy: {one_line(message, None)}", file=sys.stderr, flush=True)
