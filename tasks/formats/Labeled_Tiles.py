"""Labeled_Tiles: one label a chip, in an XML file like that of PASCAL VOC (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.xml    <annotation> ... <object> <name>1</name> <bndbox> ...

There is exactly one object; `<name>` holds its class *Value*, the box is the feature or the whole tile.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import inside, one_label, stems, tile, values
from tasks.formats._voc import read_voc, write_voc

CARRIES = "label"


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """Raises LabelError when the chip has no label, or several."""
    label = classes[one_label(chip) - 1]
    box = inside(chip)[0] if len(chip.boxes) else tile(chip)
    return (write_voc(folder / "labels" / f"{chip.name}.xml", chip, suffix, [(str(label.value), box)]),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """A class is found by its Value, or by its name for files of other tools; 0 is a class like any other here."""
    path = folder / "labels" / f"{chip.name}.xml"
    names, boxes = read_voc(path)
    if len(names) != 1:
        raise LabelError("expected exactly one object", where=path, got=len(names), do="export the chips again")
    return replace(chip, boxes=np.array(boxes, np.float32), labels=values(names, classes, path))


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", ".xml")
