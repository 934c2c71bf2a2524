"""Runs a command, and says in one line what went wrong."""

import os
import re
import sys
from difflib import get_close_matches

from typer.exceptions import TyperException

from normstudy.cli import build_app
from normstudy.errors import Interrupted, NormstudyError, one_line


def main() -> None:
    """Run a command; every expected failure is one line on standard error and an exit status."""
    # the list of commands needs no options, and without them no pydantic: 0.25 s less
    app = build_app(config_options=sys.argv[1:] not in ([], ["-h"], ["--help"], ["--version"]))
    try:
        app(sys.argv[1:] or ["--help"], prog_name="normstudy", standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as error:
        stop(error.left or str(error), error.exit_status)
    except NormstudyError as error:
        fail(str(error), error.exit_status)
    except TyperException as error:
        fail(explain(error), 2)
    except KeyboardInterrupt:
        stop("Stopped; the same command begins again", 130)
    except BrokenPipeError:  # `| head` has read enough: quiet, as Typer is where the pipe breaks in a command
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more as it ends
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests")):
            from normstudy.tracking.store import first_line, where

            fail(f"tracking server {where()}: {first_line(error)}", 1)
        raise


def explain(error: TyperException) -> str:
    """The parser's message; where it doesn't know an option or a command, with the nearest."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if context is None or not message.startswith("No such "):
        return message.rstrip(".")
    options = [option for parameter in context.command.params for option in parameter.opts]
    names = options if message.startswith("No such option") else list(context.command.commands)
    what, given = re.findall(r"^(No such \w+:? '?([^'. (]*)'?)", message)[0]
    near = get_close_matches(given.replace("_", "-"), names, n=1)
    return f"{what}; {f'did you mean {near[0]}?' if near else f'{context.command_path} -h lists them'}"


def stop(message: str, status: int) -> None:
    """One line on standard error, which is no error's, then exit."""
    print(f"normstudy: {one_line(message, None)}", file=sys.stderr)
    sys.exit(status)


def fail(message: str, status: int) -> None:
    """One line on standard error, whatever the message quotes, then exit."""
    print(f"normstudy: error: {one_line(message, None)}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
