"""One raster and its labels on a working grid, cut into labelled chips."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import LabelError, OptionsError
from tasks.chips import Chip, Grid, class_index
from tasks.imagery import Imagery, open_imagery
from tasks.labels import (
    Features,
    PixelFeatures,
    class_raster_classes,
    is_vector,
    read_class_raster,
    read_features,
)

if TYPE_CHECKING:
    from tasks.export import ExportOptions

Window = tuple[int, int, int, int]  # xmin ymin xmax ymax in pixels of the working grid, half open
SMALLEST_BOX = 1.0  # pixels; what the chip's edge leaves of an object must be as wide and as high to count


@dataclass(frozen=True)
class Labels:
    """Features, or a classified raster, and their classes."""

    path: Path
    classes: tuple[ClassLabel, ...]
    features: Features | None

    @classmethod
    def read(cls, path: Path, value_field: str, given: Sequence[ClassLabel]) -> "Labels":
        if not is_vector(path):
            return cls(path, class_raster_classes(path, given), None)
        features = read_features(path, value_field, given)
        return cls(path, features.classes, features)


@dataclass(frozen=True)
class Scene:
    """An open raster with its labels in pixels. Made by `open_scene`."""

    imagery: Imagery
    labels: Labels
    features: PixelFeatures | None
    area: Window  # chips are cut inside, nothing outside is seen
    options: "ExportOptions"

    def windows(self) -> list[Window]:
        """Row by row from the upper left corner of the area."""
        size, step = self.options.tile_size, self.options.stride
        xmin, ymin, xmax, ymax = self.area
        columns, rows = _starts(xmin, xmax, size, step), _starts(ymin, ymax, size, step)
        return [(x, y, x + size, y + size) for y in rows for x in columns]

    def may_hold_features(self, window: Window) -> bool:
        """A quick look at the spatial index, before any pixel is read."""
        return self.features is None or len(self.features.tree.query(shapely.box(*self._inside(window)))) > 0

    def cut(self, window: Window) -> Chip:
        """The picture and the labels of one window; what is outside the area is nodata."""
        xmin, ymin, xmax, ymax = window
        block = self.imagery.read(xmin, ymin, xmax - xmin, ymax - ymin)
        left, top, right, bottom = self._inside(window)
        seen = np.zeros_like(block.valid)
        seen[top - ymin : bottom - ymin, left - xmin : right - xmin] = True
        valid = block.valid & seen
        block.pixels[:, ~valid] = 0
        chip = Chip("", block.pixels, valid, grid=self._grid(xmin, ymin))
        return self._with_labels(chip, window)

    def _with_labels(self, chip: Chip, window: Window) -> Chip:
        xmin, ymin = window[:2]
        inside = self._inside(window)
        as_boxes = self.options.metadata_format.endswith("_rectangles")
        if self.features is None:
            values = read_class_raster(self.labels.path, self.imagery, window)
            return replace(chip, mask=_indexed(values, self.labels) * chip.valid)
        found = self.features.clip(inside, self.options.min_polygon_overlap_ratio)
        shifted = np.array([inside[0] - xmin, inside[1] - ymin] * 2, np.float32)
        if as_boxes:
            boxes = found.boxes + shifted
            whole = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_BOX).all(axis=1)
            return replace(chip, boxes=boxes[whole], labels=found.labels[whole])
        mask = np.zeros(chip.valid.shape, np.uint8)
        part = found.mask(inside[3] - inside[1], inside[2] - inside[0])
        mask[inside[1] - ymin : inside[3] - ymin, inside[0] - xmin : inside[2] - xmin] = part
        return replace(chip, mask=mask * chip.valid)

    def _inside(self, window: Window) -> Window:
        a, w = self.area, window
        return max(a[0], w[0]), max(a[1], w[1]), min(a[2], w[2]), min(a[3], w[3])

    def _grid(self, col: int, row: int) -> Grid:
        moved = self.imagery.transform @ Affine.translation(col, row)
        crs = self.imagery.crs.to_wkt() if self.imagery.crs else ""
        return Grid(crs, (moved.a, moved.b, moved.c, moved.d, moved.e, moved.f))


@contextmanager
def open_scene(path: Path, labels: Labels, options: "ExportOptions") -> Iterator[Scene]:
    """Raises ImageryError or LabelError when the two do not fit, OptionsError when the extent is elsewhere."""
    cell = (options.cell_size, options.cell_size) if options.cell_size else None
    with open_imagery(path, cell_size=cell) as imagery:
        if labels.features is None and options.metadata_format.endswith("_rectangles"):
            do = "give the objects as polygons, or export Classified_Tiles"
            raise LabelError("is a classified raster, which has no objects", where=labels.path, do=do)
        features = labels.features.on(imagery) if labels.features else None
        yield Scene(imagery, labels, features, _area(imagery, options), options)


def _area(imagery: Imagery, options: "ExportOptions") -> Window:
    if options.extent is None:
        return 0, 0, imagery.width, imagery.height
    west, south, east, north = options.extent
    left, top = ~imagery.transform @ (west, north)
    right, bottom = ~imagery.transform @ (east, south)
    area = (
        max(0, round(left)),
        max(0, round(top)),
        min(imagery.width, round(right)),
        min(imagery.height, round(bottom)),
    )
    if area[0] >= area[2] or area[1] >= area[3]:
        raise OptionsError(f"extent lies outside {imagery.path.name} {imagery.bounds}", got=options.extent)
    return area


def _starts(low: int, high: int, size: int, step: int) -> range:
    """Enough chips to reach the far edge, and none that only repeats what the one before has seen."""
    return range(low, max(low + 1, high - max(size - step, 0)), step)


def _indexed(values: NDArray[np.int64], labels: Labels) -> NDArray[np.uint8]:
    known = class_index(labels.classes)
    if unknown := sorted(set(np.unique(values).tolist()) - {0, *known}):
        raise LabelError("has values of no class", where=labels.path, got=unknown, do="list them among the classes")
    index = np.zeros(max(known, default=0) + 1, np.uint8)
    for value, i in known.items():
        index[value] = i
    indexed: NDArray[np.uint8] = index[values]
    return indexed
