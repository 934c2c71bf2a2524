"""The two threads that send records and heartbeats, beside the training."""

import threading
import time

from normstudy.errors import NormstudyError, Refused, ResultWaits, StorageError, Superseded, say
from normstudy.tracking.store import where
from normstudy.tracking.upload import Upload

HEARTBEAT_SECONDS = 10.0
RETRY_SECONDS = 3.0  # between two tries of a server that is away
LAST_TRIES_SECONDS = 12.0  # that a run that has ended waits for a server that is away


class Uploader:
    """Two threads beside the training: one sends what its runs log, one tells that this process lives. When the server
    is away it says so once, and tries again until it is back."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.away_since: dict[Upload, float] = {}  # by the monotonic clock
        self.bell, self.closing = threading.Event(), threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._beat)]

    def add(self, upload: Upload) -> None:
        """Send what its log gets from now on."""
        upload.bell = self.bell
        self.uploads.append(upload)

    def __enter__(self) -> "Uploader":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Send what is left, and give up when a server stays away or refuses. Raises `ResultWaits` or `Refused` for a
        run that is not whole on the server, unless another error is on its way."""
        self.closing.set()
        self.bell.set()
        for thread in self.threads:
            thread.join()
        problems = [(upload.stopped, problem) for upload in self.uploads if (problem := self._finalize(upload))]
        raised = next((problem for cause, problem in problems if error is None or cause is error), None)
        for _, problem in problems:
            if problem is not raised:
                say(str(problem))
        if raised is not None and raised is not error:
            raise raised from error

    @staticmethod
    def _finalize(upload: Upload) -> NormstudyError | None:
        """Remove a record that is whole on the server; else say what became of its run."""
        if isinstance(upload.stopped, Superseded):
            return upload.stopped
        if upload.stopped:
            return Refused(upload.give_up())
        if not upload.done:
            waits = f"{upload.begin.name} waits in {upload.log.folder}"
            return ResultWaits(f"{waits}: `python -m normstudy sync` sends it to {where()}")
        if upload.log.has_result:
            upload.log.remove()
        return None

    def _beat(self) -> None:
        while not self.closing.wait(HEARTBEAT_SECONDS):
            for upload in list(self.uploads):
                try:
                    upload.beat()
                except Superseded as error:
                    upload.stopped = upload.stopped or error
                except NormstudyError:
                    pass  # the other thread says it

    def _send(self) -> None:
        while True:
            self.bell.wait(RETRY_SECONDS)
            self.bell.clear()
            last = self.closing.is_set()  # read first: nothing is logged after it
            for upload in list(self.uploads):
                if not upload.stopped:
                    self._push(upload)
            oldest = time.monotonic() - LAST_TRIES_SECONDS
            if last and all(upload.stopped or since < oldest for upload, since in self.away_since.items()):
                return

    def _push(self, upload: Upload) -> None:
        try:
            upload.push()
        except (Superseded, Refused, StorageError) as error:
            upload.stopped = error
        except Exception as error:  # whatever comes, training goes on, and so do the other runs
            if upload not in self.away_since:
                self.away_since[upload] = time.monotonic()
                say(f"{error}; training goes on, and what it logs waits on this machine")
        else:
            if self.away_since.pop(upload, None) is not None:
                say(f"tracking server {where()} is back")
