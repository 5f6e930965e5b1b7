"""The training loop's parts: Lightning runs it, these say what a step is, what is kept, and who is told."""

import logging
import os
import shutil
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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from registry.emd import ClassLabel
from registry.errors import TrainingError
from registry.files import write_text
from tasks.goals import Goal
from tasks.judging import judge
from tasks.progress import Epoch, OnEpoch, OnProgress, Progress
from tasks.rate_test import find_rate
from tasks.scores import DetectionScores, Scores, Tally

if TYPE_CHECKING:
    from tasks.train_options import TrainOptions

log = logging.getLogger("dlpk.train")

CHECKPOINTS = ".checkpoints"
RATE = "learning_rate"  # file among the checkpoints: what the range test found
FITTING = "batch_size"  # file among the checkpoints: chips of a batch that fit into memory
SLOW_BACKBONE = 0.3  # share of the learning rate for a pretrained backbone: it knows more than the rest


class Fitting(pl.LightningModule):
    """One network, its loss and its scores."""

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[ClassLabel],
        goal: Goal,
        options: "TrainOptions",
        *,
        rate: float,
        pretrained: bool,
    ) -> None:
        """`rate`: the highest of the schedule. `pretrained`: the backbone knows something already."""
        super().__init__()
        self.network, self.classes, self.goal, self.options = network, list(classes), goal, options
        self.rate, self.pretrained = rate, pretrained
        self.average: AveragedModel | None = None
        if options.average_weights:
            ema = get_ema_multi_avg_fn(options.average_weights)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, multi_avg_fn=ema, use_buffers=True)
        self.tally: Tally

    @property
    def judged(self) -> nn.Module:
        """The network whose scores count: the averaged one where there is one."""
        return self.network if self.average is None else self.average.module

    def training_step(self, batch: tuple[Tensor, Any, list[str]], number: int) -> Tensor:
        images, targets, names = batch
        self._seed(number)
        loss: Tensor = self.network.loss(images.contiguous(memory_format=torch.channels_last), targets)  # type: ignore[operator]
        if not bool(torch.isfinite(loss)):
            what = f"the loss is {float(loss)} in epoch {self.current_epoch}, chips {', '.join(names)}"
            do = "look at these chips, or lower learning_rate; the epochs before are kept and are gone on from"
            raise TrainingError(what, do=do)
        self.log("training_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average is not None:
            self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self.tally = self.goal.tally(self.classes, self._background)

    def validation_step(self, batch: tuple[Tensor, Any, list[str]], _: int) -> None:
        images, targets, _names = batch
        loss = self.judged.loss(images, targets)  # type: ignore[operator]
        self.log("validation_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        judge(self.tally, self.judged(images), targets, background=self._background)

    def on_validation_epoch_end(self) -> None:
        values = self.result().values
        self.log_dict({name: values[name] for name in dict.fromkeys(self.goal.monitors.values())})
        self.log_dict({told: values[name] for name, told in self.goal.told.items()})

    def result(self) -> Scores:
        """Of the validation chips, in the epoch just seen."""
        if isinstance(self.tally, DetectionScores):
            return self.tally.compute(self.tally.best_threshold())
        return self.tally.compute()

    def configure_optimizers(self) -> Any:
        known = {id(p) for p in self.network.backbone.parameters()}  # type: ignore[union-attr]
        learning = [p for p in self.network.parameters() if p.requires_grad]
        parts = [[p for p in learning if (id(p) in known) == inside] for inside in (True, False)]
        rates = [self.rate * (SLOW_BACKBONE if self.pretrained else 1), self.rate]
        groups = [{"params": p, "lr": lr} for p, lr in zip(parts, rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.options.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2), pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _seed(self, number: int) -> None:
        """Each step draws the same in every run: Lightning itself draws more or less often after a resumption."""
        draw = np.random.SeedSequence((self.options.seed, self.current_epoch, number, self.global_rank))
        torch.manual_seed(int(draw.generate_state(1)[0]))

    @property
    def _background(self) -> bool:
        return 0 not in self.options.ignore_classes


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
        if not trainer.is_global_zero:
            return
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


def score(out: Path, fit: Fitting, validate: "DataLoader[Any]") -> Scores:
    """Of the validation chips, with the weights as they are now; in this process alone."""
    alone = pl.Trainer(
        devices=1,
        accelerator="auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=out,
    )
    with _quiet():
        alone.validate(fit, validate, verbose=False)
    return fit.result()


def found_rate(out: Path, network: nn.Module, batches: "DataLoader[Any]", on_progress: OnProgress) -> float:
    """The learning rate that the range test finds; a resumed training takes the same."""
    note = out / CHECKPOINTS / RATE
    if not note.is_file():
        write_text(note, str(find_rate(network, batches, on_progress=on_progress)))
    return float(note.read_text(encoding="ascii"))


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


def trainer(out: Path, options: "TrainOptions", monitor: str, told: Telling, batch_size: int) -> pl.Trainer:
    """Keeps the best and the last checkpoint in `out/.checkpoints`, and stops when nothing gets better.

    A `batch_size` below the one that was asked for is made up by as many more batches in a step.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its advice is for developers
    mode: Any = "min" if monitor.endswith("loss") else "max"
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
    several = options.devices * options.num_nodes > 1
    return pl.Trainer(
        max_epochs=options.max_epochs,
        accelerator="auto",
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        use_distributed_sampler=False,  # `tasks.loading` gives each process its share, the same after a kill
        precision=_precision(options),
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        accumulate_grad_batches=options.accumulate_batches * max(1, options.batch_size // batch_size),
        gradient_clip_val=options.gradient_clip or None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
    )


def _precision(options: "TrainOptions") -> Any:
    if not (options.mixed_precision and torch.cuda.is_available()):
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def batch_size(out: Path, wanted: int) -> int:
    """What `less` has found to fit into memory, else what is wanted."""
    note = out / CHECKPOINTS / FITTING
    return int(note.read_text(encoding="ascii")) if note.is_file() else wanted


def less(out: Path, size: int, error: BaseException) -> None:
    """Begin anew with half the chips in a batch. Raises TrainingError when one chip is too much."""
    if size == 1:
        do = "use a smaller backbone or network, chip_size for smaller crops, or a machine with more memory"
        raise TrainingError("memory runs out with a single chip in a batch", do=do) from error
    log.warning("memory ran out with %d chips in a batch: %d from now on", size, size // 2)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    write_text(out / CHECKPOINTS / FITTING, str(size // 2))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has an error of its own; the CPU's allocator only says so."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def resume_point(out: Path) -> Path | None:
    """The last checkpoint of an earlier, killed run."""
    last = out / CHECKPOINTS / "last.ckpt"
    return last if last.is_file() else None


def load_best(network: nn.Module, out: Path) -> None:
    """Weights of the best epoch, into the network."""
    checkpoint = torch.load(out / CHECKPOINTS / "best.ckpt", map_location="cpu", weights_only=True)
    whole = checkpoint["state_dict"]
    prefix = "average.module." if any(key.startswith("average.") for key in whole) else "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)})
