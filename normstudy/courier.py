"""Brings spooled events to the server: in order, each once, now or whenever it is back."""

import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus
from mlflow.entities import Metric as MlflowMetric
from mlflow.models import Model, infer_signature
from safetensors.torch import load_file
from tenacity import retry, retry_if_exception_message, stop_after_attempt, wait_random

from normstudy.data import normalise
from normstudy.errors import StorageError, Superseded, TrackingError
from normstudy.model import DigitNet
from normstudy.provenance import library_versions
from normstudy.spool import Spool
from normstudy.tracking import Metric, Tag, experiment_of, first_line, where
from normstudy.trials import HEARTBEAT_SECONDS, create_run, end_run, find_all, get, log_tags, now_milliseconds

RETRY_SECONDS = 3.0  # between two tries of a server that is away
PATIENCE_SECONDS = 12.0  # that a run that has ended waits for a server that is away


class Delivery:
    """A spool on its way to the server.

    Replaying an event that the server has already changes nothing there: parameters and tags are set again, files
    replaced, an epoch or a model that is there is left as it is.
    """

    def __init__(self, spool: Spool, wake: Callable[[], None] = lambda: None) -> None:
        self.spool, self.wake = spool, wake
        self.run_id: str | None = None
        self.token: str | None = None
        self.steps: set[int] = set()  # epochs that the server has
        self.done = spool.sent()
        self.unwritten_end: Mapping[str, Any] | None = None  # of a run whose disk is full
        self.superseded = False
        self.away_since: float | None = None  # by the monotonic clock

    def send(self) -> bool:
        """Send what the server doesn't have yet; whether there was anything. Raises what MLflow raises."""
        events = self.spool.events()
        if self.done == len(events) and self.unwritten_end is None:
            return False
        self.meet(events)
        for event in events[self.done :]:
            HANDLERS[event["kind"]](self, event)
            self.done += 1
            with suppress(StorageError):  # the disk is full: training says so, and sending it again changes nothing
                self.spool.mark_sent(self.done)
        if self.unwritten_end is not None:
            self._end(self.unwritten_end)
            self.unwritten_end = None
        return True

    def meet(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Know the run by its last opening: earlier ones are of processes that are gone."""
        if self.run_id is None:
            self._meet([event for event in events if event["kind"] == "open"][-1])

    def news(self) -> None:
        """To call after each new event. Raises `Superseded` once another process has taken over the run."""
        self.wake()
        if self.superseded:
            raise Superseded(f"run {self.run_id}: another process has taken it over")

    def is_worth_waiting(self) -> bool:
        """Whether something is unsent, and the server not away for long."""
        if self.superseded or self.away_since is None:
            return False
        return time.monotonic() - self.away_since < PATIENCE_SECONDS

    def beat(self) -> None:
        """Tell the server that this process lives. Raises `Superseded` when another one has taken over its run."""
        if self.run_id is not None:
            self._require_claim()
            log_tags(self.run_id, {Tag.HEARTBEAT: now_milliseconds()})

    def _require_claim(self) -> None:
        claims = get(str(self.run_id)).claims
        if self.token and claims and claims[-1] != self.token:
            self.superseded = True
            raise Superseded(f"run {self.run_id}: taken over by {claims[-1]}")

    def _meet(self, event: Mapping[str, Any]) -> None:
        """Find the run that the spool is of, or make it: a run begun without a server is known by its attempt."""
        run_id = event["run_id"]
        if run_id is None:
            experiment, attempt = experiment_of(event["experiment"]), event["attempt"]
            tags = {**event["tags"], Tag.ATTEMPT: attempt}
            if parent := event["parent"]:
                tags[Tag.PARENT] = find_all(experiment, Tag.ATTEMPT, [parent])[parent][0].run_id
            known = find_all(experiment, Tag.ATTEMPT, [attempt]).get(attempt)
            if not known:
                require_unfinished(experiment, event["tags"])
            run_id = known[0].run_id if known else create_run(experiment, tags)
        self.run_id, self.token = run_id, event["token"]
        self._require_claim()
        history = mlflow.MlflowClient().get_metric_history(run_id, Metric.TEST_ACCURACY)
        self.steps = {point.step for point in history}

    def _open(self, event: Mapping[str, Any]) -> None:
        assert self.run_id
        client, run = mlflow.MlflowClient(), get(self.run_id)
        if run.status != "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        for tag in (Tag.FAILURE, Tag.FAILURE_STEP):
            if tag in run.tags:
                client.delete_tag(self.run_id, tag)
        # `mlflow run` has logged its -P values as they were typed, and MLflow refuses another spelling of one
        log_tags(self.run_id, event["tags"], {k: v for k, v in event["params"].items() if k not in run.params})

    # two runs that log the same new dataset at once: MLflow inserts it for one and raises for the other
    @retry(
        retry=retry_if_exception_message(match="(?is).*unique constraint"),
        stop=stop_after_attempt(4),
        wait=wait_random(0, 0.5),
        reraise=True,
    )
    def _inputs(self, event: Mapping[str, Any]) -> None:
        inputs = [
            DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
            for entry in event["datasets"]
        ]
        mlflow.MlflowClient().log_inputs(str(self.run_id), inputs)

    def _metrics(self, event: Mapping[str, Any]) -> None:
        step = event["step"]
        if step not in self.steps:
            points = [MlflowMetric(name, value, event["time"], step) for name, value in event["values"].items()]
            mlflow.MlflowClient().log_batch(str(self.run_id), metrics=points)
            self.steps.add(step)

    def _artifacts(self, event: Mapping[str, Any]) -> None:
        mlflow.MlflowClient().log_artifacts(str(self.run_id), str(self._own(event["folder"])))

    def _own(self, name: str) -> Path:
        """A file of the record. Raises `StorageError` for one elsewhere: records come from other machines, too."""
        path = (self.spool.files / name).resolve()
        if not path.is_relative_to(self.spool.files.resolve()):
            raise StorageError(f"{self.spool.log}: {name} is no file of this record")
        return path

    def _tags(self, event: Mapping[str, Any]) -> None:
        log_tags(str(self.run_id), event["tags"])

    def _model(self, event: Mapping[str, Any]) -> None:
        model = DigitNet(event["norm"], network=event["network"], groups=event["groups"])
        model.load_state_dict(load_file(self._own(event["weights"])))
        log_model(str(self.run_id), model, step=event["step"])

    def _end(self, event: Mapping[str, Any]) -> None:
        end_run(str(self.run_id), event["status"], event["tags"])


HANDLERS: dict[str, Callable[[Delivery, Mapping[str, Any]], None]] = {
    "open": Delivery._open,
    "inputs": Delivery._inputs,
    "metrics": Delivery._metrics,
    "artifacts": Delivery._artifacts,
    "model": Delivery._model,
    "tags": Delivery._tags,
    "end": Delivery._end,
}


def require_unfinished(experiment_id: str, tags: Mapping[str, str]) -> None:
    """Raises `TrackingError` when another run has finished the trial that these tags are of."""
    if key := tags.get(Tag.TRIAL_KEY):
        for run in find_all(experiment_id, Tag.TRIAL_KEY, [key]).get(key, []):
            if run.status == "FINISHED":
                raise TrackingError(f"{tags[Tag.NAME]} has finished elsewhere, as run {run.run_id}")


def log_model(run_id: str, model: DigitNet, step: int) -> None:
    """Log the model in eval mode as MLflow serves it, linked to the run and its metrics of `step`; once for a run."""
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_id)
    experiment_id = run.info.experiment_id
    known = client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'")
    if any(one.status == LoggedModelStatus.READY for one in known):
        return
    unfinished = known[0] if known else None  # of a process that ended while it logged the model
    logged = unfinished or client.create_logged_model(
        experiment_id, name="model", source_run_id=run_id, params=run.data.params
    )
    linked = any(output.model_id == logged.model_id for output in (run.outputs.model_outputs if run.outputs else []))
    if linked:  # MLflow refuses to link it again, so its metrics are linked here; those that are already, stay
        client.log_batch(run_id, metrics=metrics_of(run_id, logged.model_id, step))
    model.eval()  # what is exported in train mode keeps normalising by the batch
    pixels = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    example = normalise(pixels)  # 2 of them: so that the batch stays free
    with torch.inference_mode():
        answer = model(example)
    with warnings.catch_warnings():
        # torch's archive writer warns of weights that are not on the CPU, wherever they are
        warnings.filterwarnings("ignore", message="No complete tensor found")
        Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pytorch,
            run_id=None if linked else run_id,
            model_id=logged.model_id,
            step=step,
            pytorch_model=model,
            signature=infer_signature(example.numpy(), answer.numpy()),
            input_example=example.numpy(),
            pip_requirements=[f"{name}=={value}" for name, value in library_versions().items() if name != "python"],
        )


def metrics_of(run_id: str, model_id: str, step: int) -> list[MlflowMetric]:
    """The run's metrics of a step, as a model's."""
    client = mlflow.MlflowClient()
    return [
        MlflowMetric(point.key, point.value, point.timestamp, point.step, model_id=model_id, run_id=run_id)
        for name in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, name)
        if point.step == step
    ]


class Courier:
    """A thread that sends what the runs of this process log, and their heartbeats, beside the training.

    When the server is away it says so once, and tries again until it is back.
    """

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.bell = threading.Event()
        self.wake = self.bell.set
        self.closing = False
        self.thread = threading.Thread(target=self._work, name="courier", daemon=True)

    def __enter__(self) -> "Courier":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send what is left; give up when a server stays away, and say what waits and where."""
        self.closing = True
        self.bell.set()
        self.thread.join()
        for delivery in self.deliveries:
            waiting = len(delivery.spool.events()) - delivery.done
            if waiting and not delivery.superseded:
                say(f"{waiting} events wait in {delivery.spool.folder}; `python -m normstudy sync` sends them")
            delivery.spool.close()

    def add(self, spool: Spool) -> Delivery:
        """Send this spool's events too."""
        self.deliveries.append(Delivery(spool, self.wake))
        return self.deliveries[-1]

    def _work(self) -> None:
        last_beat = 0.0
        while True:
            self.bell.wait(RETRY_SECONDS)
            self.bell.clear()
            last = self.closing  # read first: nothing is added after it
            beat = time.monotonic() - last_beat >= HEARTBEAT_SECONDS
            for delivery in [one for one in self.deliveries if not one.superseded]:
                self._attend(delivery, beat=beat)
            if beat:
                last_beat = time.monotonic()
            if last and not any(delivery.is_worth_waiting() for delivery in self.deliveries):
                return

    def _attend(self, delivery: Delivery, *, beat: bool) -> None:
        try:
            if not delivery.send() and beat and not self.closing:
                delivery.beat()
        except (Superseded, StorageError) as error:
            say(str(error))
        except Exception as error:  # whatever the way to a server raises
            if delivery.away_since is None:
                delivery.away_since = time.monotonic()
                say(f"tracking server {where()} is away, its record goes on: {first_line(error)}")
        else:
            if delivery.away_since is not None:
                say(f"tracking server {where()} is back")
            delivery.away_since = None


def say(message: str) -> None:
    """A line to the user, beside the training's own."""
    print(f"normstudy: {message}", file=sys.stderr, flush=True)


def deliver(folder: Path, status: str, reason: str) -> int:
    """Send what waits in a record whose process is gone; the number of events sent.

    A record without an end is of a process that was killed: its run ends with this status and reason. Raises
    `StorageError` when its process lives, and what MLflow raises.
    """
    spool = Spool(folder)
    spool.own(patience=0.0)
    try:
        before, delivery, events = spool.sent(), Delivery(spool), spool.events()
        delivery.send()
        if events and events[-1]["kind"] != "end":
            delivery.meet(events)
            if get(str(delivery.run_id)).status == "RUNNING":  # one that ended on a full disk has no end in its record
                spool.append("end", status=status, tags={Tag.FAILURE: reason})
                delivery.send()
        return spool.sent() - before
    finally:
        spool.close()
