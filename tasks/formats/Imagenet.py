"""Imagenet: one label a chip, which is the folder that its picture lies in (ArcGIS formats D.6).

images/roof/000000000.tif    named by the class's Name; there are no label files
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import PICTURES, Chip
from tasks.formats._labels import SPELLINGS, folder_names, one_label, stems, tile, values

CARRIES = "label"


def check(classes: Sequence[ClassLabel]) -> None:
    folder_names(classes)


def image_path(chip: Chip, classes: Sequence[ClassLabel], suffix: str) -> Path:
    return Path("images") / folder_names(classes)[one_label(chip) - 1] / (chip.name + suffix)


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """Nothing: the picture's path says it all."""
    return ()


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """The box is the whole tile. Raises LabelError when the picture lies in the folder of no class."""
    home, _, _ = chip.name.rpartition("/")  # given where two classes hold the same name
    holders = [home] if home else _holders(folder, chip.name)
    if len(holders) != 1:
        do = "keep each picture in the folder of one class"
        raise LabelError(f"{chip.name} lies in the folder of no class", where=folder / "images", got=holders, do=do)
    boxes = np.array([tile(chip)], np.float32)
    labels = values(holders, classes, folder / "images" / holders[0], named=True)
    return replace(chip, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    """All pictures in folders: a picture beside them has no class."""
    return {n for home in _homes(folder) for s in stems(home, *PICTURES) for n in (s, f"{home.name}/{s}")}


def _holders(folder: Path, name: str) -> list[str]:
    return [home.name for home in _homes(folder) if any((home / (name + s)).is_file() for s in SPELLINGS)]


def _homes(folder: Path) -> list[Path]:
    images = folder / "images"
    return sorted(p for p in images.iterdir() if p.is_dir()) if images.is_dir() else []
