"""Whether imagery has pixels like those that a model was trained on: 8 bits are no 16 bits, reflectance is no count.

What a run reads anyway is looked at, so it costs nothing.
"""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from registry.emd import BandStatistics, Emd

if TYPE_CHECKING:  # a host without imagery loads no rasterio
    from tasks.imagery import Block

log = logging.getLogger("dlpk.likeness")

ALONG = 16  # pixels of each side of a block that are looked at
PLENTY = 4096  # valid ones after which a run is judged
ENOUGH = 64  # of them to judge by when it ends
FAINT = 4  # times fainter than the mean of the training
UNLIKE = (
    "%s: its pixels (about %.4g) are far %s those that the model was trained on (%s: mean %.4g, at most %.4g); is it"
    " the same kind of imagery, of the same type and scale?"
)


class Likeness:
    """Warns once where all bands of the first blocks are fainter or brighter than what the model has learnt from."""

    def __init__(self, path: Path, trained: tuple[BandStatistics, ...]) -> None:
        self.path, self.trained = path, trained  # of the bands that are read; () where nothing is to be said
        self.seen: list[NDArray[np.float64]] = []  # (bands, n) valid pixels of each block

    def see(self, block: "Block") -> None:
        if not self.trained or len(block.pixels) != len(self.trained):
            return
        rows, columns = (slice(None, None, max(1, side // ALONG)) for side in block.valid.shape)
        some = block.valid[rows, columns]
        if some.any():
            self.seen.append(block.pixels[:, rows, columns][:, some].astype(np.float64))
        if sum(pixels.shape[1] for pixels in self.seen) >= PLENTY:
            self.judge()

    def judge(self) -> None:
        """By what was seen so far, and never again."""
        seen = np.concatenate(self.seen, axis=1) if self.seen else np.zeros((1, 0))
        trained, self.trained, self.seen = self.trained, (), []
        if seen.shape[1] < ENOUGH:
            return
        low, high = np.percentile(seen, (1, 99), axis=1)
        faint = all(above < band.mean / FAINT for above, band in zip(high, trained, strict=True))
        bright = all(below > band.max for below, band in zip(low, trained, strict=True))
        if faint or bright:
            most, side = max(trained, key=lambda band: band.mean), "below" if faint else "above"
            log.warning(UNLIKE, self.path, seen.mean(axis=1).max(), side, most.name, most.mean, most.max)


def statistics_of(emd: Emd) -> tuple[BandStatistics, ...]:
    """Of the bands that the model reads, of both dates; () where they are not told, or may be negative."""
    first = emd.band_statistics
    known = [*first, *(emd.second_band_statistics or first)]
    wanted = emd.extract_bands or range(len(first))
    found = tuple(known[b] for b in wanted if isinstance(b, int) and b < len(known))
    told = all(_is_number(value) for band in found for value in (band.min, band.max, band.mean))
    return found if len(found) == len(wanted) and told and all(band.min >= 0 for band in found) else ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
