"""RCNN_Masks: one raster of numbered objects a chip and class, in a folder of the class's Name (ArcGIS formats D.6).

    images/000000000.tif
    labels/roof/000000000.tif    0 = background, 1..k the objects; in further bands those that overlap others

A chip has a file only for the classes that it holds; one without any is left out by ArcGIS and by us.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import folder_names
from tasks.formats._rasters import chips_with_objects, read_objects, write_objects

CARRIES = "instances"


def check(classes: Sequence[ClassLabel]) -> None:
    folder_names(classes)


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    return write_objects(folder / "labels", chip, classes)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """Objects come class by class; boxes are drawn around their pixels."""
    masks, boxes, labels = read_objects(folder / "labels", chip, classes)
    if not len(labels):
        do = "export the chips again"
        raise LabelError("no class has a label file of the chip", where=folder / "labels", got=chip.name, do=do)
    return replace(chip, masks=masks, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return chips_with_objects(folder / "labels", classes)
