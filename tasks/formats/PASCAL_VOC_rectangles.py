"""PASCAL_VOC_rectangles: one XML file a chip, boxes in chip pixels (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.xml    <annotation> <filename> <source> <size> <object> <name>1</name> <bndbox> ...

`<name>` holds the class *Value*: ArcGIS drops every object that is named by its class name, without a word. A file
without objects is that of a background chip.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.emd import ClassLabel
from tasks.chips import Chip
from tasks.formats._labels import indexes, inside, objects, stems
from tasks.formats._voc import read_voc, write_voc

CARRIES = "boxes"


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """Boxes are clipped to the chip."""
    values = [str(classes[label - 1].value) for label in chip.labels.tolist()]
    found = list(zip(values, inside(chip).tolist(), strict=True))
    return (write_voc(_path(folder, chip.name), chip, suffix, found),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """A class is found by its Value, or by its name for files of other tools."""
    path = _path(folder, chip.name)
    names, corners = read_voc(path)
    boxes, labels = objects(corners, indexes(names, classes, path), path)
    return replace(chip, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", ".xml")


def _path(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.xml"
