"""Who is told while Lightning trains: the caller of every step and epoch, ArcGIS's file of losses of every epoch."""

import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from tasks.progress import Epoch, OnEpoch, OnProgress, Progress

LOSSES = ("training_loss", "validation_loss")


class Telling(pl.Callback):
    """Tells of steps and epochs, and remembers the epochs through a kill; of several processes one speaks."""

    def __init__(self, out: Path, scores: Collection[str], on_epoch: OnEpoch, on_progress: OnProgress) -> None:
        """`scores`: those that training_validation_loss.json has of such a model (ArcGIS formats C.2)."""
        self.out, self.kept, self.on_epoch, self.on_progress = out, {*LOSSES, *scores}, on_epoch, on_progress
        self.epochs: list[Epoch] = []
        self.since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = [Epoch(**epoch) for epoch in state_dict["epochs"]]

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            self._write()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.since = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        note = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        if self.epochs:
            note += f", validation loss {self.epochs[-1].metrics['validation_loss']:.4f}"
        self.on_progress(Progress("train", trainer.global_step, int(trainer.estimated_stepping_batches), "steps", note))

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        metrics["learning_rate"] = float(trainer.optimizers[0].param_groups[-1]["lr"])
        seconds = time.monotonic() - self.since
        self.epochs.append(Epoch(trainer.current_epoch, trainer.max_epochs or 0, metrics, seconds))
        if trainer.is_global_zero:
            self._write()

    def tell(self) -> None:
        """Of the last epoch, once it is kept: one that a kill takes back is told only when it was done again."""
        self.on_epoch(self.epochs[-1])

    def _write(self) -> None:
        from tasks.report import write_losses

        write_losses(self.out, [self._as_arcgis(epoch) for epoch in self.epochs])

    def _as_arcgis(self, epoch: Epoch) -> Epoch:
        return replace(epoch, metrics={name: value for name, value in epoch.metrics.items() if name in self.kept})
