"""The labels of one scene, whatever they came as: what a place holds, and a chip filled with it.

`carries` is that of the metadata format (tasks/formats). A place is told by what is valid in it: None = every pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.chips import Chip, no_labels
from tasks.exporting.class_rasters import RasterLabels
from tasks.exporting.turning import turn_classes
from tasks.pixel_features import TOO_LITTLE, TOO_SMALL, Found, PixelFeatures, burn, burn_each
from tasks.windows import Bounds, Place, Window, around, boxed

IN_NODATA = "only nodata where it lies"
Valid = NDArray[np.bool_] | None


def no_rows() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Held:
    """What a place holds."""

    labels: NDArray[np.int64]  # class index from 1: one for each object, or each class once
    features: NDArray[np.int64] = field(default_factory=no_rows)  # rows in the file of features
    dropped: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # rows that are there but not held, by reason


class SceneLabels(Protocol):
    """What a scene asks of its labels."""

    def windows(self, area: Bounds) -> list[Window] | None:
        """Where chips are cut; None = on a grid."""

    def held(self, place: Place, window: Window, valid: Valid) -> Held: ...

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip: ...


@dataclass(frozen=True)
class NoLabels:
    """For formats that hold pictures alone."""

    def windows(self, area: Bounds) -> None:
        return None

    def held(self, place: Place, window: Window, valid: Valid) -> Held:
        return Held(no_labels())

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip:
        return chip


@dataclass(frozen=True)
class WholeImage:
    """The same classes wherever in the picture."""

    labels: NDArray[np.int64]
    carries: str

    def windows(self, area: Bounds) -> None:
        return None

    def held(self, place: Place, window: Window, valid: Valid) -> Held:
        return Held(self.labels)

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip:
        return tile_labels(chip, place, self.labels)


@dataclass(frozen=True)
class Classified:
    """A classified raster on the scene's grid."""

    raster: RasterLabels
    carries: str
    blacken: bool = False

    def windows(self, area: Bounds) -> None:
        return None

    def held(self, place: Place, window: Window, valid: Valid) -> Held:
        index = self._index(place)
        index = index if valid is None else index * valid
        found = np.unique(index[index > 0]).astype(np.int64)
        return Held(_commonest(index) if self.carries == "label" else found)

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip:
        index = self._index(place) * chip.valid
        if self.carries in ("mask", "panoptic"):
            return replace(chip, mask=index)
        if self.carries == "labels":
            return tile_labels(chip, place, np.unique(index[index > 0]).astype(np.int64))
        labels = _commonest(index)
        filled = tile_labels(chip, place, labels)
        return _blackened(filled, np.isin(index, labels)) if self.blacken else filled

    def _index(self, place: Place) -> NDArray[np.uint8]:
        index = self.raster.read(place.reach)
        if not place.is_whole:
            index = index * inside(place)
        return turn_classes(index, place) if place.angle else index


@dataclass(frozen=True)
class Objects:
    """Features. `shape` is that of a chip around each of them; None, its bounding box."""

    features: PixelFeatures
    carries: str
    least: float = 0.0  # share of a feature that must lie in the chip
    shape: tuple[int, int] | None = None
    blacken: bool = False

    def windows(self, area: Bounds) -> list[Window] | None:
        """Around the features whose bounds meet the area, by rows of 512 pixels so that blocks are decoded once."""
        if self.carries != "label":
            return None
        bounds = self.features.bounds
        low, high = np.array(area[:2]), np.array(area[2:])
        rows = np.flatnonzero(((bounds[:, :2] < high) & (bounds[:, 2:] > low)).all(axis=1) | self._points_in(area))
        centres = (bounds[rows, :2] + bounds[rows, 2:]) / 2
        places = around(centres, self.shape) if self.shape else boxed(bounds[rows], area)
        order = np.lexsort((rows, places[:, 0], places[:, 1] // 512))
        return [(*window, row) for window, row in zip(places[order].tolist(), rows[order].tolist(), strict=True)]

    def held(self, place: Place, window: Window, valid: Valid) -> Held:
        found, dropped = self._found(place, window, valid)
        if self.carries == "mask" and (slivers := found.cut & found.narrow).any():
            shown = ~slivers | np.isin(found.labels, burn(found.only(slivers), place.size))
            dropped[TOO_SMALL], found = found.rows[~shown], found.only(shown)
        source = self.features.source
        labels = found.labels if self.carries in ("boxes", "instances", "label") else np.unique(found.labels)
        return Held(labels, source[found.rows], {why: source[rows] for why, rows in dropped.items() if len(rows)})

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip:
        found, _ = self._found(place, window, None if chip.valid.all() else chip.valid)
        if self.carries == "mask":
            return replace(chip, mask=burn(found, place.size) * chip.valid)
        if self.carries == "labels":
            return tile_labels(chip, place, np.unique(found.labels))
        if self.carries == "instances":
            masks = burn_each(found.shapes, place.size) & chip.valid
            return replace(chip, boxes=found.boxes, labels=found.labels, masks=masks)
        filled = replace(chip, boxes=found.boxes, labels=found.labels)
        if self.blacken and self.carries == "label":
            return _blackened(filled, np.asarray(burn_each(found.shapes, place.size).any(axis=0)))
        return filled

    def _found(self, place: Place, window: Window, valid: Valid) -> tuple[Found, dict[str, NDArray[np.int64]]]:
        rows = np.array(window[4:], np.int64) if self.carries == "label" else None
        if rows is not None and len(rows) and not self.features.areas[rows[0]]:
            return self._point(rows, place), {}
        found, too_little = self.features.inside(place, self.least, rows)
        dropped = {TOO_LITTLE: too_little}
        if self.carries in ("boxes", "instances", "labels"):
            dropped[TOO_SMALL] = found.rows[~found.countable]
            found = found.only(found.countable)
        if valid is not None and len(found.rows):
            shown = np.array([_shows(valid, *one) for one in zip(found.shapes, found.bounds, strict=True)])
            dropped[IN_NODATA] = found.rows[~shown]
            found = found.only(shown)
        return found, dropped

    def _point(self, rows: NDArray[np.int64], place: Place) -> Found:
        """A point has no size: its box is the whole chip."""
        bounds = np.array([[0.0, 0.0, *place.size]])
        told = self.features.geometries[rows], bounds, self.features.labels[rows], np.zeros(1, bool), np.zeros(1)
        return Found(rows, *told)

    def _points_in(self, area: Bounds) -> NDArray[np.bool_]:
        bounds = self.features.bounds
        return np.asarray(
            (self.features.areas == 0) & ((bounds[:, :2] >= area[:2]) & (bounds[:, 2:] < area[2:])).all(1)
        )


@dataclass(frozen=True)
class Panoptic:
    """Classes of pixels beside objects."""

    ground: SceneLabels
    objects: Objects

    def windows(self, area: Bounds) -> None:
        return None

    def held(self, place: Place, window: Window, valid: Valid) -> Held:
        ground, objects = (part.held(place, window, valid) for part in (self.ground, self.objects))
        return Held(np.union1d(ground.labels, objects.labels), objects.features, objects.dropped)

    def fill(self, chip: Chip, place: Place, window: Window) -> Chip:
        return self.objects.fill(self.ground.fill(chip, place, window), place, window)


def inside(place: Place) -> NDArray[np.bool_]:
    """(rows, cols) of the reach: what lies in the area."""
    left, top, right, bottom = place.reach
    xmin, ymin, xmax, ymax = place.seen
    shown = np.zeros((bottom - top, right - left), bool)
    shown[ymin - top : ymax - top, xmin - left : xmax - left] = True
    return shown


def tile_labels(chip: Chip, place: Place, labels: NDArray[np.int64]) -> Chip:
    """Labels of the whole chip."""
    boxes = np.tile(np.array([0, 0, *place.size], np.float32), (len(labels), 1))
    return replace(chip, boxes=boxes, labels=labels)


def _commonest(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class with the most pixels, the lower one of two; empty where there is none."""
    counts = np.bincount(index.ravel())[1:]
    return np.array([counts.argmax() + 1] if counts.any() else [], np.int64)


def _shows(valid: NDArray[np.bool_], shape: shapely.Geometry, box: Sequence[float]) -> bool:
    """Whether any pixel of an object is valid."""
    xmin, ymin, xmax, ymax = box
    part = valid[int(ymin) : int(np.ceil(ymax)), int(xmin) : int(np.ceil(xmax))]
    if part.all() or not part.any():
        return bool(part.any())
    return bool((burn_each(np.array([shape]), valid.shape[::-1])[0] & valid).any())


def _blackened(chip: Chip, keep: NDArray[np.bool_]) -> Chip:
    """Outside the feature pixels become 0, the picture stays valid (F.1)."""
    return replace(chip, image=np.where(keep, chip.image, chip.image.dtype.type(0)))
