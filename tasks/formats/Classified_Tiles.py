"""Classified_Tiles: one raster of class Values a chip, 0 = background or unlabelled (ArcGIS formats D.6).

images/000000000.tif     the picture
images2/000000000.tif    change detection: the picture of the later date; an old layout says images_before, images_after
labels/000000000.tif     one band of class Values, same size and georeference
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.emd import ClassLabel
from tasks.chips import PICTURES, Chip
from tasks.formats._labels import stems
from tasks.formats._rasters import label_path, read_classes, read_labels, write_classes

CARRIES = "mask"


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """The smallest integer type that holds the class Values."""
    return (write_classes(folder / "labels" / f"{chip.name}.tif", chip, classes),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """Of two dates any value but 0 is change, where there is one class of it (ArcGIS formats D.6)."""
    path = label_path(folder / "labels", chip.name)
    if chip.image2 is not None and len(classes) == 1:
        return replace(chip, mask=(read_labels(path, chip)[0] != 0).astype(np.uint8))
    return replace(chip, mask=read_classes(path, chip, classes))


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", *PICTURES)
