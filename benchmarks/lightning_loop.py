"""PyTorch Lightning on the usual loop's data, without logger, checkpoints and progress bar."""

import logging
import time
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor

from benchmarks.contenders import Epoch, objective, total_steps, usual_loaders
from normstudy.config import TrainConfig
from normstudy.step import build_optimizer
from normstudy.train import initial_model

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")  # that more workers may be faster: both numbers are measured


class DigitModule(lightning.LightningModule):
    """The network with its loss, optimiser and schedule; notes when an epoch begins and ends."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config, self.net = config, initial_model(config)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        loss = objective(self.net, self.net(images), labels, self.config)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(self.net, self.config, total_steps(self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.begin = time.perf_counter()

    def on_train_epoch_end(self) -> None:  # called after the validation
        self.end = time.perf_counter()


def lightning_loop(config: TrainConfig, workers: int = 0) -> Epoch:
    """An epoch of `Trainer.fit`, with its validation and without the set-up around it."""
    module = DigitModule(config)
    train, test = usual_loaders(config, workers)
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )

    def epoch() -> dict[str, float]:
        trainer = lightning.Trainer(accelerator=config.device, devices=1, max_epochs=1, num_sanity_val_steps=0, **quiet)
        trainer.fit(module, train, test)
        loss: Tensor = torch.as_tensor(trainer.callback_metrics["loss"])
        return {"seconds": module.end - module.begin, "loss": loss.item()}

    return epoch
