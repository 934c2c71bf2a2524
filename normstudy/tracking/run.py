"""What a trial logs: before its first step, at each epoch, at its end. All of it goes to its event log first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mlflow.data.numpy_dataset import from_numpy
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from safetensors.torch import save

from normstudy import figures as plots
from normstudy.config import TITLES, VARIANTS, TrainConfig
from normstudy.data import Data, Split
from normstudy.errors import Interrupted, StorageError
from normstudy.evaluate import Evaluation
from normstudy.files import writing
from normstudy.model import DigitNet
from normstudy.provenance import git_state, library_versions, processor, usable_cores
from normstudy.tracking import VERSION, Artifact, Metric, Tag, TrainedModel
from normstudy.tracking.checkpoint import Checkpoints
from normstudy.tracking.event_log import Event, EventLog, TrialLock, own_path
from normstudy.tracking.result import SHOWN, write_json, write_result
from normstudy.tracking.store import ending, identity
from normstudy.tracking.upload import Upload
from normstudy.tracking.uploader import Uploader

SOURCES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",  # of the first publisher's site nothing is left
    "fashion": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}


@dataclass(kw_only=True)
class Lease:
    """Leave to write one run: its log, its lock on this machine and, where there is a server, its upload."""

    log: EventLog
    lock: TrialLock
    upload: Upload | None
    ended: bool = False

    def tell(self) -> None:
        """There is news for the server. Raises why nothing more is sent: `Superseded`, or what it refused."""
        if self.upload:
            self.upload.bell.set()
            if self.upload.stopped:
                raise self.upload.stopped

    def end(self, error: BaseException | None) -> None:
        """End the run in a true state, unless it has ended."""
        if self.ended:
            return
        self.ended = True
        status, tags = ending(error)
        end = Event(status=status, tags=tags, diverged=Tag.FAILURE_STEP in tags)
        try:
            self.log.append(end)
        except StorageError:  # a full disk mustn't leave the run RUNNING
            if self.upload is None:
                raise
            self.upload.unwritten_end = end
        if self.upload:
            self.upload.bell.set()


class LogTracker:
    """Logs each trial to the event log of its lease; an uploader brings it to the server, where there is one.

    A context: a run that has not ended when it closes ends then.
    """

    def __init__(self, leases: Mapping[str, Lease], tags: Mapping[str, str], uploader: Uploader | None) -> None:
        self.leases, self.tags = leases, tags
        self.monitors: list[Any] = []  # of MLflow
        self.seeds = next(iter(leases.values())).log.begin.seeds  # of all that train together, these trials or not
        for lease in leases.values():
            if lease.upload and uploader:
                uploader.add(lease.upload)

    def __enter__(self) -> "LogTracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for lease in self.leases.values():
            lease.end(error or Interrupted(0))
        for monitor in self.monitors:
            monitor.finish()

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> "TrialRun | None":
        """Log everything known before the first step: parameters, tags, datasets, the configuration."""
        lease = self.leases.get(config.trial_key)
        if lease is None:
            return None
        log, (commit, dirty) = lease.log, git_state()
        devices = [*filter(None, log.state.tags.get(Tag.DEVICE, "").split(", ")), str(device)]
        tags = {
            **identity(config),
            **self.tags,
            Tag.NOTE: run_description(config, "No result: this run has not finished."),
            Tag.CORES: usable_cores(),
            Tag.PROCESSOR: processor(),
            Tag.STACK: stack,
            Tag.GIT_COMMIT: commit,
            Tag.GIT_DIRTY: dirty,
            Tag.DATA_DIGEST: data.train.digest,
            Tag.DEVICE: ", ".join(dict.fromkeys(devices)),  # it may go on on another one than it began on
            Tag.COLOR: plots.norm_styles([config.variant])[config.variant]["color"],
            **{f"{VERSION}{name}": value for name, value in library_versions().items()},
        }
        params = {**config.model_dump(exclude=without_effect(config)), "parameters": parameters}
        described = tuple(datasets(config.dataset, data))
        log.append(Event(status="RUNNING", tags=as_text(tags), params=as_text(params), datasets=described))
        with writing(log.files):
            write_json(log.files / "start" / Artifact.CONFIG, config.model_dump())
        log.add_files("start")
        lease.tell()
        if lease.upload and MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # with psutil: asked for only

            # of a moment on this machine, so they pass the event log by; one that can't be sent is lost
            self.monitors.append(SystemMetricsMonitor(lease.upload.run_id, resume_logging=True))
            self.monitors[-1].start()
        return TrialRun(lease, config)

    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints:
        """Those of a task; none that is ahead of what the logs have of an epoch."""
        logs = [lease.log for lease in self.leases.values()]
        key = "+".join(config.trial_key for config in configs)
        limit = min(max(log.epochs, default=0) for log in logs)
        return Checkpoints(own_path("checkpoints", logs[0].begin.checkpoints), key, limit=limit)


class TrialRun:
    """The run of one trial."""

    def __init__(self, lease: Lease, config: TrainConfig) -> None:
        self.lease, self.log, self.config, self.epochs = lease, lease.log, config, lease.log.epochs
        self.end = lease.end

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None:
        """One epoch's metrics, counted from 1. One that was logged before the trial was resumed stays as it is."""
        if epoch not in self.epochs:
            self.log.append(Event(step=epoch, metrics={str(name): value for name, value in metrics.items()}))
            self.epochs.add(epoch)
        self.lease.tell()

    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None:
        """The last epoch: its metrics, the model, and the result.

        `split` is the whole test set in its fixed order, so an image's index is its place.
        """
        self.epoch(epoch, metrics)
        config, log = self.config, self.log
        folder = log.files / "result"
        with writing(folder):
            weights = folder / Artifact.WEIGHTS
            weights.parent.mkdir(parents=True, exist_ok=True)
            # safetensors stores contiguous tensors only
            weights.write_bytes(save({name: value.contiguous().cpu() for name, value in model.state_dict().items()}))
            errors = write_result(folder, config, test, split)
        result = (
            f"**Result** (last epoch, {config.epochs}): test accuracy {100 * test.accuracy:.2f} %, "
            f"test loss {test.loss:.4f}, {errors} of {len(split):,} test images misclassified."
        )
        note = run_description(config, result)
        trained = TrainedModel(
            norm=config.norm,
            network=config.network,
            groups=config.groups,
            weights=Artifact.WEIGHTS,
            step=epoch,
            name=f"{model_family(config)}-seed{config.seed}",
            registered=model_family(config) if is_of_main_comparison(config) else "",
            description=note,
            example=split.images[:2].cpu().numpy().tobytes().hex(),
        )
        log.add_files("result", tags={Tag.NOTE: note, **SHOWN}, model=trained)


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """As MLflow keeps tags and parameters."""
    return {str(name): str(value) for name, value in values.items()}


def datasets(name: str, data: Data) -> list[dict[str, Any]]:
    """What MLflow keeps of each split, with its digest."""
    described = []
    source, title = SOURCES[name], TITLES[name]
    for context, split in vars(data).items():
        if split is None:
            continue
        images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
        dataset = from_numpy(images, source=source, targets=labels, name=f"{title} {context}", digest=split.digest)
        described.append({"context": context, "dataset": dataset.to_dict()})
    return described


def without_effect(config: TrainConfig) -> set[str]:
    """Settings at their default that mean nothing to this norm: no parameter of its run, whose readers know them."""
    changed = {name for name, value in config if value != type(config).model_fields[name].default}
    return {"groups"} - changed if config.norm != "gn" else set()


def model_family(config: TrainConfig) -> str:
    """What the models of a variant are called, such as `digitnet-bn-l1`."""
    return f"digitnet-{config.variant.lower().replace(' + ', '-')}"


def is_of_main_comparison(config: TrainConfig) -> bool:
    """Whether it is one of the three variants at every default: a short trial is not what people want to serve."""
    free = {"seed": config.seed, "device": config.device, "threads": config.threads}
    return config in [TrainConfig(**variant, **free) for variant in VARIANTS]


def run_description(config: TrainConfig, result: str) -> str:
    """The run's description in the UI, as Markdown: what it is, what came out, how to repeat it."""
    data = f"{TITLES[config.dataset]}, {config.training_images:,} images"
    what = f"DigitNet ({config.network}) with {config.variant} on {data}, seed {config.seed}."
    return f"{what}\n\n{result}\n\nTo repeat it:\n\n```\n{config.command()}\n```"
