"""Chips: small labelled pictures, and the folder that Export Training Data For Deep Learning leaves behind.

On disk a chip speaks class Value, here it speaks class index: 0 is background, i is `classes[i - 1]`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from registry import plugins
from registry.emd import BandStatistics, ClassLabel, Emd
from registry.errors import LabelError
from registry.files import sha256

DEFINITION = "esri_model_definition.emd"
FILE_TYPES = {"TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg"}


def no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Grid:
    """Where a chip lies: the coordinate system (WKT, "" = none) and the six affine numbers a b c d e f."""

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Chip:
    """One labelled picture. Either `boxes` and `labels` count, or `mask`, by the metadata format."""

    name: str  # nine digits, the stem of its files
    image: NDArray[np.generic]  # (bands, rows, cols) raw sensor values
    valid: NDArray[np.bool_]  # (rows, cols) False = nodata
    boxes: NDArray[np.float32] = field(default_factory=no_boxes)  # (n, 4) xmin ymin xmax ymax, chip pixels, half open
    labels: NDArray[np.int64] = field(default_factory=no_labels)  # (n,) class index from 1
    mask: NDArray[np.uint8] | None = None  # (rows, cols) class index, 0 = background or unlabelled
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise LabelError("image must be (bands, rows, cols)", where=self.name, got=self.image.shape)


@dataclass(frozen=True)
class ChipFolder:
    """A view on an exported folder. Finished when `esri_model_definition.emd` is there: it is written last."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ChipFolder":
        """Raises LabelError when the export is missing or was not finished."""
        if not (path / DEFINITION).is_file():
            do = "run the export again; it writes this file last"
            raise LabelError(f"is no finished export: {DEFINITION} is missing", where=path, do=do)
        return cls(path)

    @cached_property
    def definition(self) -> Emd:
        return Emd.read(self.path / DEFINITION)

    @cached_property
    def classes(self) -> tuple[ClassLabel, ...]:
        """Sorted by Value; a class of value 0 is background and left out (ArcGIS formats D.4)."""
        return tuple(sorted((c for c in self.definition.classes if c.value != 0), key=lambda c: c.value))

    @cached_property
    def band_statistics(self) -> tuple[BandStatistics, ...]:
        return self.definition.band_statistics

    @cached_property
    def files(self) -> dict[str, Path]:
        """The image of each chip by its name, in order of name."""
        images = (p for p in sorted((self.path / "images").iterdir()) if p.suffix.lower() in FILE_TYPES.values())
        return {p.stem: p for p in images}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def tile_size(self) -> int:
        return self.definition.tile_size

    @cached_property
    def format(self) -> ModuleType:
        """The module of the metadata format, in `tasks/formats/`."""
        import tasks.formats

        return plugins.load(tasks.formats, self.definition.metadata_format)

    def read(self, name: str) -> Chip:
        """Picture and labels of one chip. Raises ImageryError or LabelError naming the file."""
        from tasks.rasters import read_raster

        image = self.files[name]
        raster = read_raster(image)
        chip = Chip(name, raster.pixels, raster.valid, grid=raster.grid)
        label = self.path / "labels" / (name + (self.format.SUFFIX or image.suffix))
        if not label.is_file():
            raise LabelError("the chip has no label file", where=label, do="export the chips again")
        read: Chip = self.format.read(chip, self.classes, label)
        return read

    @cached_property
    def digest(self) -> str:
        """sha256 over names and content of images, labels and definition: equal data, equal digest."""
        total = hashlib.sha256()
        for path in sorted(p for folder in ("images", "labels") for p in (self.path / folder).rglob("*.*")):
            total.update(f"{path.relative_to(self.path).as_posix()} {sha256(path)}\n".encode())
        total.update(self.definition.text().encode())
        return total.hexdigest()

    def bounds(self, name: str) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax of a chip in map units, from its world file (ArcGIS formats D.1)."""
        image = self.files[name]
        world = image.with_suffix(image.suffix[:2] + image.suffix[-1] + "w")  # .tif -> .tfw, .png -> .pgw, .jpg -> .jgw
        a, _, _, e, x, y = (float(line) for line in world.read_text(encoding="ascii").split())
        left, top = x - a / 2, y - e / 2
        size = self.tile_size
        return left, top + e * size, left + a * size, top


def class_index(classes: Sequence[ClassLabel]) -> dict[int, int]:
    """Class Value -> class index from 1, by position."""
    return {label.value: i for i, label in enumerate(classes, start=1)}
