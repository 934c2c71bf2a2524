"""A run as its process sees it: claimed, opened, ended in a true state, through its spool."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normstudy.courier import Courier
from normstudy.errors import StorageError
from normstudy.spool import Spool, writing
from normstudy.tracking import Tag, ending
from normstudy.trials import HOST, Claim

PREDECESSOR_SECONDS = 30.0  # that a killed process of the same run may take to be gone


class RunRecord:
    """The open record of a claimed run; `store` and `courier` are None where no server is asked.

    Raises `StorageError` when it can't be written, or another living process has it.
    """

    def __init__(self, claim: Claim, store: str | None, courier: Courier | None) -> None:
        self.claim, self.spool = claim, Spool(claim.folder(store))
        self.spool.own(PREDECESSOR_SECONDS)
        self.delivery = courier.add(self.spool) if courier else None
        self.ended = False

    def open(self, tags: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        """The run begins, or goes on."""
        claim = self.claim
        self.spool.append(
            "open",
            run_id=claim.run_id,
            attempt=claim.attempt,
            experiment=claim.experiment,
            parent=claim.parent,
            token=claim.token,
            tags={name: str(value) for name, value in {**tags, **claim.tags, Tag.HOST: HOST}.items()},
            params={name: str(value) for name, value in params.items()},
        )

    @contextmanager
    def artifacts(self, folder: str) -> Iterator[Path]:
        """A folder of the record; what the block writes there is on disk, and an event, when it ends."""
        path = self.spool.files / folder
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            yield path
            for file in path.rglob("*"):
                if file.is_file():
                    handle = os.open(file, os.O_RDONLY)
                    os.fsync(handle)
                    os.close(handle)
        self.spool.append("artifacts", folder=folder)

    def tell(self) -> None:
        """There is news for the server. Raises `Superseded` once another process has taken over the run."""
        if self.delivery:
            self.delivery.news()

    def end(self, error: BaseException | None) -> None:
        """End the run, unless it has ended, or is another process's now."""
        if self.ended or (self.delivery and self.delivery.superseded):
            return
        self.ended = True
        status, tags = ending(error)
        try:
            self.spool.append("end", status=status, tags=tags)
        except StorageError:  # a full disk mustn't leave the run RUNNING
            if self.delivery is None:
                raise
            self.delivery.unwritten_end = {"status": status, "tags": tags}
        self.tell()


def write_json(path: Path, content: Any) -> None:
    """As MLflow writes dictionaries."""
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
