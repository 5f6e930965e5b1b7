"""Panoptic_Segmentation: a class for each pixel, and the objects of some of the classes (ArcGIS formats D.6).

images/000000000.tif
labels/000000000.tif          one band of class Values, 0 = background
labels2/roof/000000000.tif    0 = background, 1..k the objects of the class
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.emd import ClassLabel
from tasks.chips import PICTURES, Chip
from tasks.formats._labels import folder_names, stems
from tasks.formats._rasters import label_path, read_classes, read_objects, write_classes, write_objects

CARRIES = "panoptic"


def check(classes: Sequence[ClassLabel]) -> None:
    folder_names(classes)


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    pixels = write_classes(folder / "labels" / f"{chip.name}.tif", chip, classes)
    return pixels, *write_objects(folder / "labels2", chip, classes)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """A chip may hold no object."""
    mask = read_classes(label_path(folder / "labels", chip.name), chip, classes)
    masks, boxes, labels = read_objects(folder / "labels2", chip, classes)
    return replace(chip, mask=mask, masks=masks, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", *PICTURES)
