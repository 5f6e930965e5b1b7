"""Chips as torch reads them: normalised, augmented, in batches, the same in every run of the same seed.

Every draw depends on (seed, epoch, chip) alone, so a resumed training sees what an uninterrupted one would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from registry.emd import BandStatistics
from registry.errors import LabelError
from tasks.augment import IGNORED, pipeline
from tasks.chips import Chip, ChipFolder

Target = dict[str, Tensor] | Tensor  # a detector's {"boxes", "labels"}, or a segmenter's (rows, cols) int64


@dataclass(frozen=True)
class Loading:
    """How chips become batches."""

    batch_size: int
    ignored: tuple[int, ...]  # class indexes that do not count, 0 = background
    augmentation: str
    seed: int
    workers: int


def split(chips: ChipFolder, share: float) -> tuple[list[str], list[str]]:
    """Names to train on and to validate with, apart in space.

    Validation takes whole rows of chips at one end of the longer side; training chips that overlap them are left out,
    else validation would only repeat what was learned. Raises LabelError when too few chips are left.
    """
    bounds = {name: chips.bounds(name) for name in chips.names}
    boxes = np.array(list(bounds.values()))
    spans = boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)
    axis = int(spans.argmax())
    order = sorted(bounds, key=lambda name: bounds[name][axis])
    edge = bounds[order[max(0, round(len(order) * share) - 1)]][axis]
    validation = [name for name in chips.names if bounds[name][axis] <= edge]
    reach = np.array([bounds[name] for name in validation])
    training = [name for name in chips.names if name not in set(validation) and not _touches(bounds[name], reach)]
    if not training:
        do = "export more chips, with less overlap, or lower validation_percentage"
        raise LabelError(f"{len(chips.names)} chips are too few to train and validate on", where=chips.path, do=do)
    return training, validation


def loader(chips: ChipFolder, names: Sequence[str], loading: Loading, *, train: bool) -> "DataLoader[Any]":
    """Batches of (images (n, bands, rows, cols) float32, targets)."""
    chips_read = Chips(chips, names, loading, loading.augmentation if train else "NONE")
    order = Shuffled(len(names), loading.seed) if train else None
    return DataLoader(
        chips_read,
        batch_size=loading.batch_size,
        sampler=order,
        num_workers=loading.workers,
        collate_fn=_batch,
        drop_last=train and len(names) > loading.batch_size,
        persistent_workers=loading.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


class Chips(Dataset[tuple[Tensor, Target]]):
    """Normalised chips; `(epoch, i)` asks for the i-th chip as it is seen in that epoch."""

    def __init__(self, chips: ChipFolder, names: Sequence[str], loading: Loading, augmentation: str) -> None:
        self.chips, self.names, self.loading = chips, list(names), loading
        self.augment = pipeline(augmentation)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: int | tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, i = at if isinstance(at, tuple) else (0, at)
        chip = self.chips.read(self.names[i])
        image = normalised(chip, self.chips.band_statistics)
        mask = self._mask(chip) if chip.mask is not None else None
        if self.augment is not None:
            self.augment.set_random_seed(hash((self.loading.seed, epoch, i)) % 2**32)
            image, mask, chip = self._changed(image, mask, chip)
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        if mask is not None:
            return pixels, torch.from_numpy(np.ascontiguousarray(mask)).long()
        return pixels, {"boxes": torch.from_numpy(chip.boxes), "labels": torch.from_numpy(chip.labels)}

    def _mask(self, chip: Chip) -> NDArray[np.int16]:
        assert chip.mask is not None
        mask = chip.mask.astype(np.int16)
        mask[~chip.valid | np.isin(chip.mask, self.loading.ignored)] = IGNORED
        return mask

    def _changed(self, image: NDArray[np.float32], mask: NDArray[np.int16] | None, chip: Chip) -> Any:
        assert self.augment is not None
        masks = {} if mask is None else {"mask": mask}
        out = self.augment(image=image.transpose(1, 2, 0), bboxes=chip.boxes, labels=chip.labels, **masks)
        boxes = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        moved = replace(chip, boxes=boxes, labels=np.asarray(out["labels"], np.int64))
        return out["image"].transpose(2, 0, 1), out.get("mask"), moved


class Shuffled(Sampler[tuple[int, int]]):
    """A new order every epoch, the same in every run; Lightning calls `set_epoch`."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return ((self.epoch, int(i)) for i in order)


def normalised(chip: Chip, statistics: Sequence[BandStatistics]) -> NDArray[np.float32]:
    """(bands, rows, cols) in standard deviations from the mean of the training chips; 0 where not valid."""
    mean = np.array([s.mean for s in statistics], np.float32)[:, None, None]
    std = np.array([s.std or 1.0 for s in statistics], np.float32)[:, None, None]
    image = (chip.image.astype(np.float32) - mean) / std
    image[:, ~chip.valid] = 0
    return image


def _batch(items: Sequence[tuple[Tensor, Target]]) -> tuple[Tensor, Any]:
    images = torch.stack([image for image, _ in items])
    targets = [target for _, target in items]
    return images, torch.stack(targets) if isinstance(targets[0], Tensor) else targets  # type: ignore[arg-type]


def _touches(box: tuple[float, float, float, float], others: NDArray[np.float64]) -> bool:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return bool(((high - low) > 1e-9).all(axis=1).any())
