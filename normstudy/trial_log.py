"""What a trial logs: before its first step, at each epoch, at its end. All of it goes to its spool first."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from mlflow.data.numpy_dataset import from_numpy
from PIL import Image
from safetensors.torch import save

from normstudy import plots
from normstudy.checkpoint import Checkpoints
from normstudy.config import TITLES, TrainConfig
from normstudy.courier import Courier
from normstudy.data import Data, Split, loader
from normstudy.evaluate import Evaluation, confusion_matrix, misclassified
from normstudy.model import DigitNet
from normstudy.provenance import git_state, library_versions, usable_cores
from normstudy.record import RunRecord, write_json
from normstudy.spool import state_root
from normstudy.tracking import Artifact, Metric, Tag, identity, ten_name
from normstudy.trials import Claim


@runtime_checkable  # lets the tests check the type of what is passed
class RunLog(Protocol):
    """What the training loop tells of one run."""

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None: ...
    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """Opens runs; whoever opens one ends it, as FINISHED without an error, as KILLED or FAILED with one."""

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> RunLog: ...
    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints: ...


class SpoolTracker:
    """Logs each trial to the record of its claim; a courier brings it to `store`, where there is a server."""

    def __init__(self, claims: Sequence[Claim], store: str | None, courier: Courier | None) -> None:
        self.claims = {claim.key: claim for claim in claims}
        self.store, self.courier = store, courier

    def start(
        self, config: TrainConfig, data: Data, parameters: int, device: torch.device, *, stack: int
    ) -> "TrialRun":
        run = TrialRun(config, RunRecord(self.claims[config.trial_key], self.store, self.courier))
        try:
            run.start(data, parameters, device, stack)
        except BaseException as error:
            run.end(error)
            raise
        return run

    def checkpoints(self, configs: Sequence[TrainConfig]) -> Checkpoints:
        """Those of a job. Seeds in lock-step resume together: with other neighbours their last bits would differ."""
        claims = [self.claims[config.trial_key] for config in configs]
        attempts = "+".join(claim.attempt for claim in claims)
        folder = state_root(self.store) / "checkpoints" / sha256(attempts.encode()).hexdigest()[:16]
        return Checkpoints(folder, "+".join(claim.key for claim in claims))


class TrialRun:
    """The run of one trial."""

    def __init__(self, config: TrainConfig, record: RunRecord) -> None:
        self.config, self.record = config, record
        self.steps = {event["step"] for event in record.spool.events() if event["kind"] == "metrics"}

    def start(self, data: Data, parameters: int, device: torch.device, stack: int) -> None:
        """Everything known before the first step: parameters, tags, datasets, the configuration."""
        config, record = self.config, self.record
        tags = {
            **identity(config),
            Tag.NOTE: describe(config, "No result: this run has not finished."),
            Tag.CORES: usable_cores(),
            Tag.STACK: stack,
            "normstudy.data_digest": data.train.digest,
            "normstudy.device": device,
            "normstudy.threads": config.threads,
            **{f"normstudy.{name}": value for name, value in git_state().items()},
            **{f"normstudy.version.{name}": value for name, value in library_versions().items()},
        }
        record.open(tags, {**config.model_dump(), "parameters": parameters})
        record.spool.append("inputs", datasets=datasets(config.dataset, data))
        with record.artifacts("start") as folder:
            write_json(folder / Artifact.CONFIG, config.model_dump())
        record.tell()

    def epoch(self, epoch: int, metrics: Mapping[Metric, float]) -> None:
        """One epoch's metrics, counted from 1. One that was recorded before the trial was resumed stays as it is."""
        if epoch not in self.steps:
            values = {str(name): value for name, value in metrics.items()}
            self.record.spool.append("metrics", step=epoch, values=values)
            self.steps.add(epoch)
        self.record.tell()

    def finish(
        self, epoch: int, metrics: Mapping[Metric, float], model: DigitNet, test: Evaluation, split: Split
    ) -> None:
        """The last epoch: its metrics, the model, and the result.

        `split` is the whole test set in its fixed order, so an image's index is its place.
        """
        self.epoch(epoch, metrics)
        config, record = self.config, self.record
        with record.artifacts("result") as folder:
            weights = folder / Artifact.WEIGHTS
            weights.parent.mkdir(exist_ok=True)
            # safetensors stores contiguous tensors only
            weights.write_bytes(save({name: value.contiguous().cpu() for name, value in model.state_dict().items()}))
            errors = self._write_result(folder, test, split)
        record.spool.append(
            "model",
            norm=config.norm,
            network=config.network,
            groups=config.groups,
            weights=f"result/{Artifact.WEIGHTS}",
            step=epoch,
        )
        result = (
            f"**Result** (last epoch, {config.epochs}): test accuracy {100 * test.accuracy:.2f} %, "
            f"test loss {test.loss:.4f}, {errors} of {len(split):,} test images misclassified."
        )
        tables = json.dumps([{"path": Artifact.MISCLASSIFIED, "type": "table"}])  # for `mlflow.load_table`
        record.spool.append("tags", tags={Tag.NOTE: describe(config, result), Tag.TABLES: tables})

    def _write_result(self, folder: Path, test: Evaluation, split: Split) -> int:
        """The misclassified test images, as table and pictures, and the confusion matrix; how many there are."""
        table = misclassified(test, split)
        worst = plots.ten_worst(table)
        images = [split.images[index, 0].cpu().numpy() for index in worst["index"]]
        (folder / Artifact.TEN).mkdir(parents=True, exist_ok=True)
        write_json(folder / Artifact.MISCLASSIFIED, table.to_dict(orient="split", index=False))
        for row, image in zip(worst.itertuples(), images, strict=True):
            Image.fromarray(image).save(folder / Artifact.TEN / ten_name(row))
        variant = self.config.variant
        title = plots.grid_title(variant, test.accuracy, len(table), len(split))
        plots.misclassified_grid(images, worst, title).savefig(folder / Artifact.GRID)
        counts = confusion_matrix(test, split)
        write_json(folder / Artifact.CONFUSION, counts.to_dict(orient="split"))
        plots.confusion(counts, variant).savefig(folder / Artifact.CONFUSION_FIGURE)
        return len(table)

    def end(self, error: BaseException | None) -> None:
        """End the run, unless it has ended."""
        self.record.end(error)


def datasets(name: str, data: Data) -> list[dict[str, Any]]:
    """What MLflow keeps of each split, with its digest."""
    described = []
    source, title = loader(name).mirrors[-1], TITLES[name]
    for context, split in vars(data).items():
        if split is None:
            continue
        images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
        dataset = from_numpy(images, source=source, targets=labels, name=f"{title} {context}", digest=split.digest)
        described.append({"context": context, "dataset": dataset.to_dict()})
    return described


def describe(config: TrainConfig, result: str) -> str:
    """The run's description in the UI, as Markdown: what it is, what came out, how to repeat it."""
    data = f"{TITLES[config.dataset]}, {config.training_images:,} images"
    what = f"DigitNet ({config.network}) with {config.variant} on {data}, seed {config.seed}."
    return f"{what}\n\n{result}\n\nTo repeat it:\n\n```\n{config.command()}\n```"
