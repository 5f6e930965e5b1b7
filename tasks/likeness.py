"""Whether imagery has pixels like those that a model was trained on: 8 bits are no 16 bits, reflectance is no count."""

import logging
import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from registry.emd import BandStatistics, Emd
from registry.errors import ImageryError, StoreError
from tasks.host import Configuration
from tasks.parts import Readable

log = logging.getLogger("dlpk.likeness")

ALONG = 3  # windows along each side of the raster
SIDE = 32  # pixels of a window
ENOUGH = 256  # valid pixels to judge by
FAINT = 4  # times fainter than the mean of the training
UNLIKE = (
    "%s: its pixels (about %.4g) are far %s those that the model was trained on (%s: mean %.4g, at most %.4g); is it"
    " the same kind of imagery, of the same type and scale?"
)


def tell_unlike(image: Readable, configuration: Configuration, emd: Emd, bands: tuple[int, ...] | None) -> None:
    """Warn where a few windows of it are fainter or brighter than all that the model has learnt from, in every band.

    `bands`: those that the model reads, indexes from 0; None: all.
    """
    trained = _trained(emd)
    if not trained or configuration.data_range:  # the host brings pixels into that range
        return
    try:
        seen = _sample(image, bands)
    except (ImageryError, StoreError):
        return  # the run itself will tell
    if len(seen) != len(trained) or seen.shape[1] < ENOUGH:
        return
    low, high = np.percentile(seen, (1, 99), axis=1)
    faint = all(above < band.mean / FAINT for above, band in zip(high, trained, strict=True))
    bright = all(below > band.max for below, band in zip(low, trained, strict=True))
    if faint or bright:
        most, side = max(trained, key=lambda band: band.mean), "below" if faint else "above"
        log.warning(UNLIKE, image.path, seen.mean(axis=1).max(), side, most.name, most.mean, most.max)


def _trained(emd: Emd) -> list[BandStatistics]:
    """Of the bands that the model reads, of both dates; none where they are not told."""
    first = emd.band_statistics
    known = [*first, *(emd.second_band_statistics or first)]
    wanted = emd.extract_bands or range(len(first))
    found = [known[b] for b in wanted if isinstance(b, int) and b < len(known)]
    told = all(_is_number(value) for band in found for value in (band.min, band.max, band.mean))
    return found if len(found) == len(wanted) and told and all(band.min >= 0 for band in found) else []


def _sample(image: Readable, bands: tuple[int, ...] | None) -> NDArray[np.float64]:
    """(bands, n) valid pixels of windows that lie evenly over the raster."""
    sizes = image.height, image.width
    rows, columns = ([max(0, round((i + 0.5) * n / ALONG) - SIDE // 2) for i in range(ALONG)] for n in sizes)
    blocks = [image.read(column, row, SIDE, SIDE, bands) for row, column in product(rows, columns)]
    return np.concatenate([block.pixels[:, block.valid] for block in blocks], axis=1).astype(np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
