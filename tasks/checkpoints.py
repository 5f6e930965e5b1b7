"""What a training keeps while it runs, in the folder `.checkpoints` of the model.

last.ckpt       where it stopped, after every epoch        best.ckpt     the best epoch so far
learning_rate   what the range test found                  batch_size    chips of a batch that fit into memory
"""

import gc
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from registry.errors import TrainingError
from registry.files import write_text
from tasks.train_options import CHECKPOINTS
from tasks.weights import write_weights

log = logging.getLogger("dlpk.train")

LAST, BEST, RATE, BATCH = "last.ckpt", "best.ckpt", "learning_rate", "batch_size"


class AtomicCheckpoints(TorchCheckpointIO):
    """A kill while a checkpoint is written leaves the one before. Lightning's own goes by way of the folder /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_weights(Path(path), checkpoint)


def resume_point(out: Path) -> Path | None:
    """The last checkpoint of an earlier, killed run."""
    last = out / CHECKPOINTS / LAST
    return last if last.is_file() else None


def load_best(network: nn.Module, out: Path) -> int:
    """Weights of the best epoch, the averaged ones where there are some, into the network; returns its number."""
    checkpoint = torch.load(out / CHECKPOINTS / BEST, map_location="cpu", weights_only=True)
    whole = checkpoint["state_dict"]
    prefix = "average.module." if any(key.startswith("average.") for key in whole) else "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)})
    return int(checkpoint["epoch"])


def found_rate(out: Path, find: Callable[[], float]) -> float:
    """The learning rate that the range test finds; a resumed training takes the same."""
    note = out / CHECKPOINTS / RATE
    if not note.is_file():
        write_text(note, str(find()))
    return float(note.read_text(encoding="ascii"))


def batch_size(out: Path, wanted: int) -> int:
    """What `halve` has found to fit into memory, else what is wanted."""
    note = out / CHECKPOINTS / BATCH
    return int(note.read_text(encoding="ascii")) if note.is_file() else wanted


def halve(out: Path, size: int, error: BaseException) -> None:
    """Begin anew with half the chips in a batch. Raises TrainingError when one chip is too much."""
    if size == 1:
        do = "use a smaller backbone or network, chip_size for smaller crops, or a machine with more memory"
        raise TrainingError("memory runs out with a single chip in a batch", do=do) from error
    log.warning("memory ran out with %d chips in a batch: %d from now on", size, size // 2)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    write_text(out / CHECKPOINTS / BATCH, str(size // 2))


def out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has an error of its own; the CPU's allocator only says so."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def peer_is_gone(error: BaseException) -> bool:
    """Another process that trained beside this one has ended: NCCL has an error of its own, gloo only says so."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def free_memory() -> None:
    """Of a training that is over: its parts know each other, so only the collector finds them."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
