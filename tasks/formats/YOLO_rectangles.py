"""YOLO_rectangles: one text file a chip, one object a line, in shares of the chip (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.txt    0 0.40625000 0.30468750 0.43750000 0.35937500
    data.yaml               names: {0: roof, 1: pond}

The columns are the place of the class among `names`, from 0, then the middle, width and height of the box.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from registry.emd import ClassLabel
from registry.errors import LabelError
from registry.files import write_text
from tasks.chips import Chip, ChipFolder
from tasks.formats._labels import found, indexes, inside, objects, stems, text_of, write_label

CARRIES = "boxes"
NAMES = "data.yaml"


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """Boxes are clipped to the chip; a background chip has an empty file."""
    rows, cols = chip.valid.shape
    boxes = inside(chip) / [cols, rows, cols, rows]
    columns = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
    lines = [
        f"{label - 1} {x:.8f} {y:.8f} {w:.8f} {h:.8f}\n"
        for label, (x, y, w, h) in zip(chip.labels.tolist(), columns.tolist(), strict=True)
    ]
    return (write_label(_path(folder, chip.name), "".join(lines)),)


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """Classes are found by their names in data.yaml, by their place in the definition where there is none."""
    path = _path(folder, chip.name)
    rows = [line.split() for line in text_of(path).splitlines() if line.strip()]
    names = _names(folder)
    try:
        numbers = np.array([[float(column) for column in row] for row in rows], np.float64).reshape(-1, 5)
        wanted = [names[int(row[0])] for row in rows]
    except (ValueError, KeyError) as error:
        what = f"is no YOLO file of these classes ({error})"
        raise LabelError(what, where=path, got=[" ".join(row) for row in rows][:1], do="export again") from error
    centres, halves = numbers[:, 1:3], numbers[:, 3:] / 2
    height, width = chip.valid.shape
    corners = np.hstack([centres - halves, centres + halves]) * [width, height, width, height]
    boxes, labels = objects(corners.tolist(), indexes(wanted, classes, path, named=(folder / NAMES).is_file()), path)
    return replace(chip, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return stems(folder / "labels", ".txt")


def finish(folder: Path, names: Sequence[str], classes: Sequence[ClassLabel]) -> None:
    """data.yaml, as YOLO trainers read it."""
    listed = {i: label.name for i, label in enumerate(classes)}
    parts = {"path": ".", "train": "images", "val": "images", "names": listed}
    write_text(folder / NAMES, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))


def _names(folder: Path) -> dict[int, str]:
    """What the numbers of this folder stand for, whatever it is read with."""
    path = folder / NAMES
    if not path.is_file():
        return {i: str(label.value) for i, label in enumerate(ChipFolder(folder).listed)}
    try:
        names = yaml.safe_load(found(path).read_text(encoding="utf-8"))["names"]
        return dict(enumerate(names)) if isinstance(names, list) else {int(i): str(name) for i, name in names.items()}
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabelError(f"lists no names ({error})", where=path, do="export the chips again") from error


def _path(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.txt"
