"""What a network is to answer for a chip, as its `loss` takes it (see `tasks/networks`)."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from registry.emd import BandStatistics
from tasks.augment import IGNORED
from tasks.chips import OF_PIXELS, Chip, ChipFolder

Target = dict[str, Tensor] | Tensor


def learned(image: NDArray[np.float32], chip: Chip, carries: str, classes: int) -> tuple[Tensor, Target]:
    """(bands, rows, cols) float32, and the target: boxes (and masks) with labels from 1, pixels, or what is shown.

    A single label counts from 0, several are (classes,) of 0 and 1.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image))
    if carries in OF_PIXELS:
        assert chip.mask is not None
        return pixels, torch.from_numpy(np.ascontiguousarray(chip.mask)).long()
    labels = torch.from_numpy(np.ascontiguousarray(chip.labels))
    if carries == "label":
        return pixels, labels[0] - 1
    if carries == "labels":
        return pixels, torch.zeros(classes).index_fill_(0, labels - 1, 1.0)
    objects = {"boxes": torch.from_numpy(np.ascontiguousarray(chip.boxes)), "labels": labels}
    if carries == "instances":
        assert chip.masks is not None
        objects["masks"] = torch.from_numpy(np.ascontiguousarray(chip.masks))
    return pixels, objects


def ignoring(chip: Chip, ignored: Collection[int]) -> NDArray[np.int16]:
    """The mask of a chip with IGNORED where a pixel has no data, or a class index that does not count."""
    assert chip.mask is not None
    mask = chip.mask.astype(np.int16)
    mask[~chip.valid | np.isin(chip.mask, list(ignored))] = IGNORED
    return mask


def statistics(chips: ChipFolder) -> tuple[BandStatistics, ...]:
    """By which the bands of a chip are normalised; of two dates those of the second come after."""
    first = chips.band_statistics
    if not chips.paired:
        return first
    return first + (chips.definition.second_band_statistics or first)


def normalised(
    chip: Chip, statistics: Sequence[BandStatistics], bands: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """(bands, rows, cols) in standard deviations from the mean of the training chips; 0 where not valid.

    `bands`: of `Chip.dates`, those that are shown; None = all.
    """
    whole = list(range(len(statistics)))
    chosen = whole if bands is None else list(bands)
    mean = np.array([statistics[b].mean for b in chosen], np.float32)[:, None, None]
    std = np.array([statistics[b].std or 1.0 for b in chosen], np.float32)[:, None, None]
    pixels = chip.dates if chosen == whole else chip.dates[chosen]
    scaled = (pixels.astype(np.float32) - mean) / std
    np.copyto(scaled, 0, where=~chip.valid)
    return np.asarray(scaled, np.float32)


def batch(items: Sequence[tuple[Tensor, Target, str]]) -> tuple[Tensor, Any, list[str]]:
    """(images, targets, names of the chips); a detector's targets stay a list."""
    images = torch.stack([image for image, _, _ in items])
    targets = [target for _, target, _ in items]
    stacked = torch.stack(targets) if isinstance(targets[0], Tensor) else targets  # type: ignore[arg-type]
    return images, stacked, [name for _, _, name in items]
