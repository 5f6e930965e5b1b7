"""The training loop's parts: Lightning runs it, these say what a step is, what is best, and when it is over."""

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from registry.emd import ClassLabel
from registry.errors import TrainingError
from tasks import checkpoints, convolutions
from tasks.goals import Goal
from tasks.judging import judge
from tasks.scores import DetectionScores, Scores, Tally
from tasks.telling import Telling
from tasks.train_options import CHECKPOINTS, TrainOptions

log = logging.getLogger("dlpk.train")

SLOW_BACKBONE = 0.3  # share of the learning rate for a pretrained backbone: it knows more than the rest
SILENT: dict[str, Any] = {  # of every trainer: what is worth telling is told by `tasks.telling`
    "accelerator": "auto",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
SHORTEST = 10  # steps of a schedule: torch's one-cycle divides by zero where there are five


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
        never: Sequence[int] = (),
    ) -> None:
        """`rate`: the highest of the schedule. `pretrained`: the backbone knows something already.

        `never`: indexes of the classes that are not to be learnt.
        """
        super().__init__()
        self.network, self.classes, self.goal, self.options = network, list(classes), goal, options
        self.rate, self.pretrained, self.never = rate, pretrained, never
        self.average: AveragedModel | None = None
        if options.average_weights:
            ema = get_ema_multi_avg_fn(options.average_weights)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, multi_avg_fn=ema, use_buffers=True).requires_grad_(False)
        self.steps = 0  # of the optimizer, as the average has seen them
        self.tally: Tally

    @property
    def judged(self) -> nn.Module:
        """The network whose scores count: the averaged one where there is one."""
        return self.network if self.average is None else self.average.module

    def training_step(self, batch: tuple[Tensor, Any, list[str]], number: int) -> Tensor:
        images, targets, names = batch
        self._seed(number)
        images = images.contiguous(memory_format=torch.channels_last)
        with convolutions.fastest(images.device):
            loss: Tensor = self.network.loss(images, targets)  # type: ignore[operator]
        if not bool(torch.isfinite(loss)):
            what = f"the loss is {float(loss.detach())} in epoch {self.current_epoch}, chips {', '.join(names)}"
            do = "look at these chips, or train into another folder with a lower learning_rate; "
            do += f"the last good epoch is kept in {CHECKPOINTS}"
            raise TrainingError(what, do=do)
        self.log(
            "training_loss",
            loss.detach(),
            on_step=False,
            on_epoch=True,
            sync_dist=True,  # each process sees its share of the chips, but validates with all
            batch_size=len(images),
        )
        return loss

    def on_train_start(self) -> None:
        self.steps = self.trainer.global_step

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average is not None and self.trainer.global_step > self.steps:  # not while gradients add up
            self.average.update_parameters(self.network)
            self.steps = self.trainer.global_step

    def on_validation_epoch_start(self) -> None:
        self.tally = self.goal.tally(self.classes, 0 not in self.never)

    def validation_step(self, batch: tuple[Tensor, Any, list[str]], _: int) -> None:
        images, targets, _names = batch
        torch.manual_seed(self.options.seed)  # losses of two stages draw boxes to look at: the same in every epoch
        loss = self.judged.loss(images, targets)  # type: ignore[operator]
        self.log("validation_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        judge(self.tally, self.judged(images), targets, self.never)

    def on_validation_epoch_end(self) -> None:
        values = self.result().values
        self.log_dict({name: values[name] for name in dict.fromkeys(self.goal.monitors.values())})
        self.log_dict({told: values[name] for name, told in self.goal.told.items()})

    def result(self) -> Scores:
        """Of the validation chips, in the epoch just seen."""
        if isinstance(self.tally, DetectionScores):
            return self.tally.compute(self.tally.best_threshold() or 0.5)
        return self.tally.compute()

    def configure_optimizers(self) -> Any:
        known = {id(p) for p in self.network.backbone.parameters()}  # type: ignore[union-attr]
        learning = [p for p in self.network.parameters() if p.requires_grad]
        parts = [[p for p in learning if (id(p) in known) == inside] for inside in (True, False)]
        rates = [self.rate * (SLOW_BACKBONE if self.pretrained else 1), self.rate]
        groups = [{"params": p, "lr": lr} for p, lr in zip(parts, rates, strict=True)]
        fused = self.device.type == "cpu"  # saves 4 % of a step; on a GPU Lightning would not clip its gradients
        optimizer = torch.optim.AdamW(groups, weight_decay=self.options.weight_decay, fused=fused)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=max(steps, SHORTEST), pct_start=0.2
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _seed(self, number: int) -> None:
        """Each step draws the same in every run: Lightning itself draws more or less often after a resumption."""
        draw = np.random.SeedSequence((self.options.seed, self.current_epoch, number, self.global_rank))
        torch.manual_seed(int(draw.generate_state(1)[0]))


class Patience(EarlyStopping):
    """A training that had stopped early when it was killed does not begin again.

    A score of 0 is where a training starts: it loses no patience before something is right.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = torch.stack([trainer.callback_metrics[self.monitor].cpu(), self.best_score.cpu()])
        if self.mode == "min" or bool((scores > 0).any()):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.stopped_epoch > 0


class Best(ModelCheckpoint):
    """The best epoch, of equal ones the last: while nothing is right yet, that has learnt the most.

    Lightning's own forgets how good it was when the model folder was moved in between.
    """

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        as_good = current is not None and current == self.best_model_score
        return super().check_monitor_top_k(trainer, current) or bool(as_good)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class Last(Checkpoint):
    """Every epoch is kept, after `best` has judged it; Lightning's own `save_last` keeps only the better ones."""

    def __init__(self, told: Telling) -> None:
        self.told = told

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINTS / checkpoints.LAST)
        if trainer.is_global_zero:
            self.told.tell()


def run(
    trainer: pl.Trainer, fit: Fitting, train: "DataLoader[Any]", validate: "DataLoader[Any]", resume: Path | None
) -> None:
    """Fit, from the last checkpoint where there is one; the best epoch is kept beside it."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with _quiet():
            trainer.fit(fit, train, validate, ckpt_path=resume, weights_only=True)
    except SystemExit:  # so ends Lightning after Ctrl-C, without a word and deaf to another
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, before)
        log.warning("interrupted in epoch %d; the same again goes on there", trainer.current_epoch + 1)
        raise KeyboardInterrupt from None


def score(out: Path, fit: Fitting, validate: "DataLoader[Any]") -> Scores:
    """Of the validation chips, with the weights as they are now; in this process alone."""
    alone = pl.Trainer(devices=1, enable_checkpointing=False, default_root_dir=out, **SILENT)
    with _quiet():
        alone.validate(fit, validate, verbose=False)
    return fit.result()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning warns of few loader workers, short epochs and its own use of torch: nothing a user could mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec")
        yield


def prepare(seed: int, processes: int) -> None:
    """Seed what is drawn before the first epoch; torch takes all cores, OpenCV stays out of its way.

    `processes`: that share the cores of this machine.
    """
    import cv2

    torch.manual_seed(seed)
    cv2.setNumThreads(1)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def trainer(out: Path, options: "TrainOptions", monitor: str, told: Telling, batch_size: int) -> pl.Trainer:
    """Keeps the best and the last checkpoint in `out/.checkpoints`, and stops when nothing gets better.

    Without a `monitor`, "", the last epoch is the best.
    A `batch_size` below the one that was asked for is made up by as many more batches in a step.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its advice is for developers
    mode: Any = "min" if monitor.endswith("loss") else "max"
    best = Best(
        dirpath=out / CHECKPOINTS,
        filename="best",
        monitor=monitor or None,
        mode=mode,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks: list[pl.Callback] = [told, best, Last(told)]
    if options.stop_training and monitor:
        callbacks.append(Patience(monitor, mode=mode, patience=options.patience, min_delta=0.001))
    several = options.devices * options.num_nodes > 1
    return pl.Trainer(
        max_epochs=options.max_epochs,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        use_distributed_sampler=False,  # `tasks.loading` gives each process its share, the same after a kill
        precision=_precision(options),
        callbacks=callbacks,
        plugins=[checkpoints.AtomicCheckpoints()],
        accumulate_grad_batches=options.accumulate_batches * max(1, options.batch_size // batch_size),
        gradient_clip_val=options.gradient_clip or None,
        num_sanity_val_steps=0,
        default_root_dir=out,
        **SILENT,
    )


def _precision(options: "TrainOptions") -> Any:
    if not (options.mixed_precision and torch.cuda.is_available()):
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
