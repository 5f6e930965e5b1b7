"""KITTI_rectangles: one text file a chip, one object a line, in 15 columns (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.txt    1 0.0 0 0.0 12.00 8.00 40.00 31.00 0.0 0.0 0.0 0.0 0.0 0.0 0.0

The columns are class *Value*, truncated, occluded, alpha, xmin ymin xmax ymax, and seven of three dimensions. ArcGIS
reads digits alone: a class name or a minus sign would spoil the line.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import indexes, inside, objects, stems, text_of, write_label

CARRIES = "boxes"
BOX = slice(4, 8)


def check(classes: Sequence[ClassLabel]) -> None:
    if negative := [c.value for c in classes if c.value < 0]:
        raise LabelError("KITTI_rectangles holds no negative class value", got=negative, do="renumber the classes")


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """Boxes are clipped to the chip; a background chip has an empty file."""
    check(classes)
    lines = [
        f"{classes[label - 1].value} 0.0 0 0.0 {box} 0.0 0.0 0.0 0.0 0.0 0.0 0.0\n"
        for label, corners in zip(chip.labels.tolist(), inside(chip).tolist(), strict=True)
        for box in [" ".join(f"{corner:.2f}" for corner in corners)]
    ]
    return (write_label(_path(folder, chip.name), "".join(lines)),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """A class is found by its Value, or by its name for files of other tools; `DontCare` is nothing."""
    path = _path(folder, chip.name)
    rows = [line.rsplit(maxsplit=14) for line in text_of(path).splitlines() if line.strip()]
    rows = [row for row in rows if row[0] != "DontCare"]
    try:
        corners = [[float(number) for number in row[BOX]] for row in rows]
    except ValueError as error:
        raise LabelError(f"is no KITTI file ({error})", where=path, do="export the chips again") from error
    if short := [row for row in rows if len(row) != 15]:
        raise LabelError("expected 15 columns", where=path, got=" ".join(short[0]), do="export the chips again")
    boxes, labels = objects(corners, indexes([row[0] for row in rows], classes, path), path)
    return replace(chip, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", ".txt")


def _path(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.txt"
