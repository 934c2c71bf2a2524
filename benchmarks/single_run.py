"""A whole run, `python -m normstudy train ...`, with its time split into named shares.

`python -m benchmarks.single_run shares.json train --norm gn` runs the command line in this process, each function of
`ours.SHARES` wrapped in a timer. A share is exclusive: time in a timed function that another one calls is its own.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measurement import STARTED

IMPORTS, REST = "imports", "exit and rest"


class Ledger:
    """Books every moment since the start of the process on exactly one share; what no share claims, on `base`."""

    def __init__(self, started: float, base: str) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.last, self.open = started, [base]

    def book(self) -> None:
        """Book the time since the last booking on the innermost open share."""
        now = time.time()
        self.seconds[self.open[-1]] += now - self.last
        self.last = now

    def rebase(self, base: str) -> None:
        """From now on, what no share claims is booked on another one."""
        self.book()
        self.open[0] = base

    @contextmanager
    def share(self, name: str) -> Iterator[None]:
        """Time in the block is this share's."""
        self.book()
        self.open.append(name)
        try:
            yield
        finally:
            self.book()
            self.open.pop()


def main() -> None:
    """The first argument is the file to write, the others are normstudy's."""
    out, *arguments = sys.argv[1:]
    ledger = Ledger(STARTED, IMPORTS)
    from benchmarks import ours  # imports the whole package: part of what is measured
    from normstudy import cli
    from normstudy.launch import study as launch

    def timed(share: str, function: Callable[..., Any], *values: Any, **keywords: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():  # what runs beside the run takes none of its time
            return function(*values, **keywords)
        with ledger.share(share):
            return function(*values, **keywords)

    def begun(function: Callable[..., Any], *values: Any, **keywords: Any) -> Any:
        ledger.rebase(REST)
        return function(*values, **keywords)

    for share, owner, name in ours.SHARES:
        ours.wrap(owner, name, partial(timed, share))
    ours.wrap(launch, "single", begun)
    sys.argv = ["normstudy", *arguments]
    cli.main()
    ledger.book()
    if idle := {share for share, _, _ in ours.SHARES} - set(ledger.seconds):
        raise RuntimeError(f"never called in this run, so not measured: {', '.join(sorted(idle))}")
    ledger.seconds[REST] = ledger.seconds.pop(REST)  # last, as it mostly is
    Path(out).write_text(json.dumps(ledger.seconds))


if __name__ == "__main__":
    main()
