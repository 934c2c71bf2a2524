"""PyTorch Lightning with `mlflow.pytorch.autolog()`, as in MLflow's own MNIST example, into the environment's store."""

import os
import time
from typing import Annotated, Any

import lightning
import mlflow
import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.loaders import usual_loaders
from benchmarks.measurement import WARM_UP_STEPS, print_result, startup_seconds
from normstudy.config import TRAIN_IMAGES, TrainConfig
from normstudy.model import DigitNet


class DigitModule(lightning.LightningModule):
    """DigitNet with its loss, optimiser and schedule."""

    def __init__(self, recipe: TrainConfig) -> None:
        super().__init__()
        self.recipe, self.net = recipe, DigitNet(recipe.norm)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.log("val_accuracy", (logits.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = SGD(
            self.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        schedule = OneCycleLR(optimizer, recipe.lr, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_index: int) -> int | None:
        """Cuts the first epoch short: it only warms up, and -1 makes Lightning skip its rest."""
        return -1 if self.current_epoch == 0 and batch_index >= WARM_UP_STEPS else None


class Clock(lightning.Callback):
    """Notes when each epoch begins, and when the last one ends, autologging included and the model's excluded."""

    def __init__(self) -> None:
        self.startup = 0.0
        self.marks: list[float] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.startup = self.startup or startup_seconds()
        self.marks.append(time.perf_counter())

    def on_train_end(self, trainer: Any, module: Any) -> None:  # called after every callback's `on_train_epoch_end`
        self.marks.append(time.perf_counter())


def main(
    norm: str = "gn",
    threads: int = 1,
    images: int = TRAIN_IMAGES,
    workers: int = 0,
    epochs: Annotated[int, typer.Option(min=2, help="the last is measured; the first is cut short")] = 2,
) -> None:
    """Time an epoch of training, validation on the test set and autologging."""
    torch.set_num_threads(threads)
    lightning.seed_everything(0, verbose=False)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    mlflow.pytorch.autolog()
    train, test = usual_loaders(images, workers)
    clock = Clock()
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[clock])
    trainer.fit(DigitModule(TrainConfig(norm=norm)), train, test)
    print_result(epoch_seconds=clock.marks[-1] - clock.marks[-2], startup_seconds=clock.startup)


if __name__ == "__main__":
    typer.run(main)
