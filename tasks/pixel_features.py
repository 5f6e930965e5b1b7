"""Features in pixels of a working grid: found by a spatial index, clipped to a chip, burnt into masks."""

import warnings
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from tasks.geometries import Geometries, moved
from tasks.windows import Bounds, Place

ROUNDING = 1e-9  # share of its area that a whole feature may lose when it is turned
ASIDE = 0.37  # pixels, so that no outline drawn along pixels turns there
SMALLEST_SIDE = 1.0  # pixels; what a chip shows of an object that its edge cuts must be as wide and as high
TOO_LITTLE = "less of it in the chip than min_polygon_overlap_ratio"
TOO_SMALL = "less than a pixel of it in the chip"


@dataclass(frozen=True)
class Found:
    """What a chip shows of some features, in pixels of the chip."""

    rows: NDArray[np.int64]  # (n,) row of each feature in PixelFeatures
    shapes: NDArray[np.object_]  # (n,) what is inside the chip
    bounds: NDArray[np.float64]  # (n, 4) xmin ymin xmax ymax
    labels: NDArray[np.int64]  # (n,) class index from 1
    cut: NDArray[np.bool_]  # (n,) part of the feature lies outside
    sizes: NDArray[np.float64]  # (n,) pixels of the whole feature, wherever it lies

    def only(self, keep: NDArray[np.bool_]) -> "Found":
        shown = self.rows[keep], self.shapes[keep], self.bounds[keep], self.labels[keep]
        return Found(*shown, self.cut[keep], self.sizes[keep])

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4) xmin ymin xmax ymax; a side is at least the pixel that its middle lies in."""
        low, high = self.bounds[:, :2].copy(), self.bounds[:, 2:].copy()
        thin, pixel = high - low < SMALLEST_SIDE - 1e-9, np.floor((low + high) / 2)
        low[thin], high[thin] = np.minimum(low, pixel)[thin], np.maximum(high, pixel + 1)[thin]
        return np.asarray(np.hstack([low, high]), np.float32).reshape(-1, 4)

    @property
    def countable(self) -> NDArray[np.bool_]:
        """Not the slivers that the chip's edge leaves of what the next chip shows."""
        sides = self.bounds[:, 2:] - self.bounds[:, :2]
        return np.asarray((sides >= SMALLEST_SIDE - 1e-9).all(axis=1) | ~self.cut)

    @property
    def narrow(self) -> NDArray[np.bool_]:
        """On average less than a pixel wide, so that it may cover no centre of a pixel."""
        sides = self.bounds[:, 2:] - self.bounds[:, :2]
        return np.asarray(shapely.area(self.shapes) < np.hypot(sides[:, 0], sides[:, 1]))


@dataclass(frozen=True)
class PixelFeatures:
    """Geometries in pixels of a working grid, x = column, y = row, with a spatial index."""

    geometries: Geometries
    labels: NDArray[np.int64]  # (n,) class index from 1
    source: NDArray[np.int64]  # (n,) row in the file of features

    @property
    def bounds(self) -> NDArray[np.float64]:
        """(n, 4) xmin ymin xmax ymax."""
        return self.geometries.bounds

    @property
    def areas(self) -> NDArray[np.float64]:
        return self.geometries.areas

    def near(self, place: Place) -> NDArray[np.int64]:
        """Rows of features whose bounds meet what the place shows, in their own order."""
        return self.geometries.near(place.seen)

    def inside(
        self, place: Place, least: float = 0.0, rows: NDArray[np.int64] | None = None
    ) -> tuple[Found, NDArray[np.int64]]:
        """What the place shows, and the rows of which less than the share `least` is inside."""
        rows = self.near(place) if rows is None else rows
        rows = rows[:0] if place.is_nowhere else rows  # the middle of a feature may lie far outside
        shapes, bounds, areas, cut = self._clipped(rows, place)
        here = areas > 0
        enough = here & (areas >= least * self.areas[rows] * (1 - ROUNDING))
        found = Found(rows, shapes, bounds, self.labels[rows], cut, self.areas[rows]).only(enough)
        return found, rows[here & ~enough]

    def _clipped(
        self, rows: NDArray[np.int64], place: Place
    ) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Shapes in chip pixels, their bounds, their areas in pixels, and which of them were cut."""
        shapes, bounds, areas = self.geometries[rows], self.bounds[rows], self.areas[rows].copy()
        low, high = np.array(place.seen[:2]), np.array(place.seen[2:])
        cut = np.asarray((bounds[:, :2] < low).any(axis=1) | (bounds[:, 2:] > high).any(axis=1))
        if cut.any():
            shapes[cut] = clipped(shapes[cut], place.seen)
        if place.angle:
            shapes = moved(shapes, ~place.from_chip)
            shapes = clipped(shapes, (0, 0, *place.size))
            bounds, areas = shapely.bounds(shapes), shapely.area(shapes)
            return shapes, bounds, areas, np.asarray(areas < self.areas[rows] * (1 - ROUNDING))
        if cut.any():
            areas[cut], bounds[cut] = shapely.area(shapes[cut]), shapely.bounds(shapes[cut])
        corner = np.array(place.window[:2], np.float64)
        return shapely.transform(shapes, lambda xy: xy - corner), bounds - np.tile(corner, 2), areas, cut


def clipped(shapes: NDArray[np.object_], box: Bounds) -> NDArray[np.object_]:
    """What lies in the box.

    GEOS is quick with a rectangle, but leaves out parts, or covers holes, where an outline turns in line with an edge:
    such shapes are clipped by a wider one, and only then exactly.
    """
    parts = np.asarray(shapely.clip_by_rect(shapes, *box))
    points, of = shapely.get_coordinates(shapes, return_index=True)
    low, high = np.array(box[:2]), np.array(box[2:])
    odd = np.unique(of[((points == low) | (points == high)).any(axis=1)])
    wide = np.asarray(shapely.clip_by_rect(shapes[odd], *(low - ASIDE), *(high + ASIDE)))
    wide = np.where(shapely.is_valid(wide), wide, shapes[odd])
    sound = shapely.is_valid(wide)
    exact = np.asarray(shapely.intersection(wide[sound], shapely.box(*box)))
    touching = shapely.get_type_id(exact) == shapely.GeometryType.GEOMETRYCOLLECTION
    exact[touching] = shapely.buffer(exact[touching], 0)  # without the lines and points where it only touches
    parts[odd[sound]] = exact
    return parts


def burn(found: Found, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(rows, cols) class index per pixel as of `burn_each`; where features overlap the smaller one is seen.

    Smaller as a whole: neighbouring chips show the same. Of slivers at the chip's edge the centres alone count.
    """
    columns, rows = size
    mask = np.zeros((rows, columns), np.uint8)
    thin = np.flatnonzero(found.narrow & ~found.cut)
    alone = dict(zip(thin.tolist(), burn_each(found.shapes[thin], size), strict=True))
    pending: list[tuple[object, int]] = []
    for i in np.argsort(-found.sizes, kind="stable").tolist():
        if i in alone:
            _burn(pending, mask)
            pending, mask[alone[i]] = [], found.labels[i]
        else:
            pending.append((found.shapes[i], int(found.labels[i])))
    _burn(pending, mask)
    return mask


def burn_each(shapes: NDArray[np.object_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(n, rows, cols) the pixels whose centres each object covers; of one that covers none those that it touches, or,
    where it is smaller than a pixel, the one that its middle lies in.
    """
    columns, rows = size
    masks = np.zeros((len(shapes), rows, columns), np.uint8)
    for mask, shape in zip(masks, shapes, strict=True):
        _burn([(shape, 1)], mask)
        if mask.any() or shape is None or shape.is_empty:
            continue
        low, high = np.array(shape.bounds[:2]), np.array(shape.bounds[2:])
        column, row = np.floor((low + high) / 2).astype(int).clip(0, (columns - 1, rows - 1))
        if (high - low < SMALLEST_SIDE).all():
            mask[row, column] = 1
        else:
            _burn([(shape, 1)], mask, touched=True)
    return masks.astype(bool)


def _burn(shapes: list[tuple[object, int]], mask: NDArray[np.uint8], touched: bool = False) -> None:
    if shapes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rasterize warns that pixel coordinates are not georeferenced
            rasterize(shapes, out=mask, transform=Affine.identity(), all_touched=touched)
