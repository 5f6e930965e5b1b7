"""MultiLabeled_Tiles: the classes in a chip, in an XML file like that of PASCAL VOC (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.xml    <annotation> ... <object> <name>roof,pond</name> <bndbox> ...

There is one object, the whole tile; `<name>` holds the class *Names*, joined by commas, as nowhere else.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import stems, tile, values
from tasks.formats._voc import read_voc, write_voc

CARRIES = "labels"


def check(classes: Sequence[ClassLabel]) -> None:
    if wrong := [c.name for c in classes if "," in c.name or not c.name.strip()]:
        do = "rename the classes"
        raise LabelError("MultiLabeled_Tiles joins class names by commas, so that none may hold one", got=wrong, do=do)


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """A chip without any class has a file without object."""
    check(classes)
    names = ",".join(classes[i - 1].name for i in sorted(set(chip.labels.tolist())))
    objects = [(names, tile(chip))] if names else []
    return (write_voc(folder / "labels" / f"{chip.name}.xml", chip, suffix, objects),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """Each class once, in order; the box of each is the whole tile."""
    path = folder / "labels" / f"{chip.name}.xml"
    names = [name for joined in read_voc(path)[0] for name in joined.split(",") if name.strip()]
    labels = np.unique(values(names, classes, path, named=True))
    return replace(chip, boxes=np.array([tile(chip)] * len(labels), np.float32).reshape(-1, 4), labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", ".xml")
