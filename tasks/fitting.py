"""The training loop's parts: Lightning runs it, these say what a step is, what is kept, and who is told."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader

from registry.emd import ClassLabel
from registry.errors import TrainingError
from tasks.progress import Epoch, OnEpoch, OnProgress, Progress
from tasks.scores import DetectionScores, PixelScores, Scores

if TYPE_CHECKING:
    from tasks.train import TrainOptions

CHECKPOINTS = ".checkpoints"
SLOW_BACKBONE = 0.3  # share of the learning rate for a pretrained backbone: it knows more than the rest


class Fitting(pl.LightningModule):
    """One network, its loss and its scores."""

    def __init__(
        self, network: nn.Module, classes: Sequence[ClassLabel], options: "TrainOptions", *, pretrained: bool
    ) -> None:
        super().__init__()
        self.network, self.classes, self.options, self.pretrained = network, list(classes), options, pretrained
        self.scores: DetectionScores | PixelScores

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.options.seed * 100_003 + self.current_epoch)  # a resumed epoch draws the same

    def training_step(self, batch: tuple[Tensor, Any], _: int) -> Tensor:
        loss: Tensor = self.network.loss(*batch)  # type: ignore[operator]
        if not bool(torch.isfinite(loss)):
            do = "lower learning_rate, or look for broken values in the imagery"
            raise TrainingError(f"the loss is {float(loss)} in epoch {self.current_epoch}", do=do)
        self.log("training_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def on_validation_epoch_start(self) -> None:
        ignores_background = 0 in self.options.ignore_classes
        detects = hasattr(self.network, "network")  # torchvision's detectors sit inside ours
        self.scores = (
            DetectionScores(self.classes) if detects else PixelScores(self.classes, background=not ignores_background)
        )

    def validation_step(self, batch: tuple[Tensor, Any], _: int) -> None:
        images, targets = batch
        loss = self.network.loss(images, targets)  # type: ignore[operator]
        self.log("validation_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        found = self.network(images)
        if isinstance(self.scores, PixelScores):
            first = 1 if 0 in self.options.ignore_classes else 0
            index = found[:, first:].max(1)[1] + first
            for mask, truth in zip(index, targets, strict=True):
                self.scores.add(mask.cpu().numpy(), truth.cpu().numpy())
            return
        for one, truth in zip(found, targets, strict=True):
            arrays = [v.detach().float().cpu().numpy() for v in (one["boxes"], one["scores"], truth["boxes"])]
            labels = [v.cpu().numpy().astype(np.int64) for v in (one["labels"], truth["labels"])]
            self.scores.add(arrays[0], labels[0], arrays[1], arrays[2], labels[1])

    def on_validation_epoch_end(self) -> None:
        scores = self.result()
        self.log(scores.primary, scores.values[scores.primary])
        names = {"AP50": "average_precision", "accuracy": "accuracy", "F1": "Dice"}  # ArcGIS's names (C.2)
        self.log_dict({names[k]: v for k, v in scores.values.items() if k in names})

    def result(self) -> Scores:
        """Of the validation chips, in the epoch just seen."""
        if isinstance(self.scores, PixelScores):
            return self.scores.compute()
        return self.scores.compute(self.scores.best_threshold())

    def configure_optimizers(self) -> Any:
        backbone = [p for p in self.network.backbone.parameters() if p.requires_grad]  # type: ignore[union-attr]
        known = {id(p) for p in self.network.backbone.parameters()}  # type: ignore[union-attr]
        rest = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        rate = self.options.learning_rate
        rates = [rate * (SLOW_BACKBONE if self.pretrained else 1), rate]
        groups = [{"params": p, "lr": lr} for p, lr in zip((backbone, rest), rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.options.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2), pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Telling(pl.Callback):
    """Tells of steps and epochs, and remembers the epochs through a kill."""

    def __init__(self, out: Path, on_epoch: OnEpoch, on_progress: OnProgress) -> None:
        self.out, self.on_epoch, self.on_progress = out, on_epoch, on_progress
        self.epochs: list[Epoch] = []
        self.since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = [Epoch(**epoch) for epoch in state_dict["epochs"]]

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.since = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        note = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        if self.epochs:
            note += f", validation loss {self.epochs[-1].metrics['validation_loss']:.4f}"
        self.on_progress(Progress("train", trainer.global_step, int(trainer.estimated_stepping_batches), "steps", note))

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        from tasks.report import write_losses

        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        metrics["learning_rate"] = float(trainer.optimizers[0].param_groups[-1]["lr"])
        seconds = time.monotonic() - self.since
        epoch = Epoch(trainer.current_epoch, trainer.max_epochs or 0, metrics, seconds)
        self.epochs.append(epoch)
        write_losses(self.out, self.epochs)
        self.on_epoch(epoch)


class AtomicCheckpoints(TorchCheckpointIO):
    """A kill while a checkpoint is written leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        part = Path(f"{path}.part")
        super().save_checkpoint(checkpoint, part, storage_options)
        part.replace(path)


def run(
    trainer: pl.Trainer, fit: Fitting, train: "DataLoader[Any]", validate: "DataLoader[Any]", resume: Path | None
) -> None:
    """Fit, from the last checkpoint where there is one; at the end `load_best` takes the best."""
    with _quiet():
        trainer.fit(fit, train, validate, ckpt_path=resume, weights_only=True)


def score(trainer: pl.Trainer, fit: Fitting, validate: "DataLoader[Any]") -> Scores:
    """Of the validation chips, with the weights as they are now."""
    with _quiet():
        trainer.validate(fit, validate, verbose=False)
    return fit.result()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning warns of few loader workers, short epochs and its own use of torch: nothing a user could mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec")
        yield


def prepare(seed: int) -> None:
    """Seed what is drawn before the first epoch; torch takes all cores, OpenCV stays out of its way."""
    import cv2

    torch.manual_seed(seed)

    cv2.setNumThreads(1)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))


def trainer(out: Path, options: "TrainOptions", monitor: str, told: Telling) -> pl.Trainer:
    """Keeps the best and the last checkpoint in `out/.checkpoints`, and stops when nothing gets better."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its advice is for developers
    mode = "min" if monitor.endswith("loss") else "max"
    best = ModelCheckpoint(
        dirpath=out / CHECKPOINTS,
        filename="best",
        monitor=monitor,
        mode=mode,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks: list[pl.Callback] = [told, best]
    if options.stop_training:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=options.patience, min_delta=0.001))
    return pl.Trainer(
        max_epochs=options.max_epochs,
        accelerator="auto",
        devices=1,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        gradient_clip_val=5.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
    )


def resume_point(out: Path) -> Path | None:
    """The last checkpoint of an earlier, killed run."""
    last = out / CHECKPOINTS / "last.ckpt"
    return last if last.is_file() else None


def load_best(network: nn.Module, out: Path) -> None:
    """Weights of the best epoch, into the network."""
    checkpoint = torch.load(out / CHECKPOINTS / "best.ckpt", map_location="cpu", weights_only=True)
    state = {k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items() if k.startswith("network.")}
    network.load_state_dict(state)
