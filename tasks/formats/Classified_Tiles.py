"""Classified_Tiles: one raster of class Values a chip, 0 = background or unlabelled (ArcGIS formats D.6).

images/000000000.tif    the picture
labels/000000000.tif    one band of class Values, same size and georeference
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip
from tasks.rasters import read_raster, write_raster

CARRIES = "mask"
SUFFIX = ""


def write(chip: Chip, classes: Sequence[ClassLabel], path: Path) -> None:
    """The smallest unsigned type that holds the class Values."""
    values = np.array([0, *(c.value for c in classes)])
    dtype = np.min_scalar_type(values.max())
    write_raster(path, values.astype(dtype)[chip.mask][None], chip.grid)


def read(chip: Chip, classes: Sequence[ClassLabel], path: Path) -> Chip:
    """Values that no class has raise LabelError: they would turn into background without a word."""
    values = read_raster(path).pixels[0].astype(np.int64)
    index = np.full(max(int(values.max()), *(c.value for c in classes)) + 1, 255, np.uint8)
    index[[0, *(c.value for c in classes)]] = np.arange(len(classes) + 1)
    mask = index[values]
    if (mask == 255).any():
        unknown = sorted(set(np.unique(values[mask == 255]).tolist()))
        raise LabelError("has values of no class in the definition", where=path, got=unknown)
    return replace(chip, mask=mask)
