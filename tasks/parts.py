"""The part of a raster that was asked for: ArcGIS's environments extent and mask (ArcGIS formats F.4).

What lies around them is still seen by the model, but gets no result: inside, the result is that of the whole raster.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.features import rasterize

from registry.errors import OptionsError
from tasks.feature_files import read_features
from tasks.imagery import Block, bounds_of
from tasks.inference_options import Extent, InferenceOptions
from tasks.placement import Located, Placement, bent_to, in_pixels, placement_of

Pixels = tuple[int, int, int, int]  # column, row, width, height
NEAR = 1e-6  # pixels: an extent on the edge of a pixel does not reach into the next


class Readable(Located, Protocol):
    """What blocks are cut from: a raster, two dates as one, or a part of these."""

    @property
    def dtype(self) -> str: ...
    @property
    def bands(self) -> int: ...
    @property
    def band_names(self) -> tuple[str, ...]: ...
    @property
    def nodata(self) -> float | None: ...
    @property
    def bounds(self) -> tuple[float, float, float, float]: ...
    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block: ...
    def wanted(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_] | None:
        """(rows, cols) where a result is wanted; None = everywhere."""


class Through:
    """Shows a raster, and answers as that does wherever a subclass says nothing else."""

    @property
    def shown(self) -> Readable:
        raise NotImplementedError

    @property
    def path(self) -> Path:
        return self.shown.path

    @property
    def width(self) -> int:
        return self.shown.width

    @property
    def height(self) -> int:
        return self.shown.height

    @property
    def crs(self) -> CRS | None:
        return self.shown.crs

    @property
    def placed(self) -> bool:
        return self.shown.placed

    @property
    def dataset(self) -> DatasetReader:
        return self.shown.dataset

    @property
    def corner(self) -> tuple[int, int]:
        return self.shown.corner

    @property
    def transform(self) -> Affine:
        return self.shown.transform

    @property
    def dtype(self) -> str:
        return self.shown.dtype

    @property
    def bands(self) -> int:
        return self.shown.bands

    @property
    def band_names(self) -> tuple[str, ...]:
        return self.shown.band_names

    @property
    def nodata(self) -> float | None:
        return self.shown.nodata

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        return bounds_of(self.transform, self.width, self.height)


@dataclass(frozen=True)
class Part(Through):
    """A window of a raster, and areas in it: read like a raster, also beyond its own edges."""

    whole: Readable
    window: Pixels
    mask: "Mask | None" = None  # in pixels of the window

    @property
    def shown(self) -> Readable:
        return self.whole

    @property
    def width(self) -> int:
        return self.window[2]

    @property
    def height(self) -> int:
        return self.window[3]

    @property
    def corner(self) -> tuple[int, int]:
        return self.whole.corner[0] + self.window[0], self.whole.corner[1] + self.window[1]

    @cached_property
    def transform(self) -> Affine:
        return self.whole.transform @ Affine.translation(*self.window[:2])

    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block:
        """Nothing is read where nothing is wanted: then no pixel is valid."""
        if self.mask and not self.mask.touches(col, row, width, height):
            count = self.bands if bands is None else len(bands)
            return Block(np.zeros((count, height, width), self.dtype), np.zeros((height, width), bool))
        return self.whole.read(col + self.window[0], row + self.window[1], width, height, bands)

    def wanted(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_] | None:
        return self.mask.burnt(col, row, width, height) if self.mask else None

    def wants(self, shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Which of n shapes, in pixels of the window, touch what is wanted."""
        inside = np.asarray(shapely.intersects(shapes, shapely.box(0, 0, self.width, self.height)))
        return inside & self.mask.touched(shapes) if self.mask else inside


class Mask:
    """Polygons in pixels, on a tree."""

    def __init__(self, polygons: NDArray[np.object_]) -> None:
        self.polygons = shapely.get_parts(shapely.make_valid(polygons))
        self._tree = shapely.STRtree(self.polygons)

    def touches(self, col: int, row: int, width: int, height: int) -> bool:
        return bool(len(self._tree.query(shapely.box(col, row, col + width, row + height), "intersects")))

    def touched(self, shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
        found = np.zeros(len(shapes), bool)
        found[self._tree.query(shapes, "intersects")[0]] = True
        return found

    def burnt(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_]:
        """(rows, cols): a pixel is inside where its middle is."""
        near = self.polygons[self._tree.query(shapely.box(col, row, col + width, row + height), "intersects")]
        if not len(near):
            return np.zeros((height, width), bool)
        shifted = Affine.translation(col, row)
        return np.asarray(rasterize(list(near), (height, width), transform=shifted, dtype=np.uint8) > 0)


def wanted_part(image: Readable, options: InferenceOptions) -> Readable:
    """The extent and the mask of the options; the raster itself where there are none.

    Raises OptionsError when they lie elsewhere, LabelError for a mask that cannot be read.
    """
    if options.extent is None and options.mask is None:
        return image
    window = (0, 0, image.width, image.height) if options.extent is None else _window(image, options.extent)
    part = Part(image, window)
    if options.mask is None:
        return part
    areas = bent_to(read_features(Path(options.mask)).geometry, part)
    mask = Mask(in_pixels(areas, part, options.mask))
    if not mask.touches(0, 0, part.width, part.height):
        raise OptionsError("mask lies elsewhere", where=options.mask, do=f"give areas that touch {image.path.name}")
    return replace(part, mask=mask)


def _window(image: Readable, extent: Extent) -> Pixels:
    """Whole pixels, outwards, inside of the raster. Raises OptionsError when that is nothing."""
    west, south, east, north = extent
    place = Placement(image.crs or CRS(), image.transform) if image.placed else placement_of(image)
    corners = place.to_pixels(_corners(west, south, east, north))
    low = np.floor(corners.min(axis=0) + NEAR).astype(int).clip(0)
    high = np.ceil(corners.max(axis=0) - NEAR).astype(int).clip(None, (image.width, image.height))
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    if left >= right or top >= bottom:
        ends = place.to_map(_corners(0, 0, image.width, image.height))
        bounds = ", ".join(f"{value:.10g}" for value in (*ends.min(axis=0), *ends.max(axis=0)))
        raise OptionsError(f"extent lies outside of {image.path.name}, which covers {bounds}", got=extent)
    return left, top, right - left, bottom - top


def _corners(left: float, low: float, right: float, high: float) -> NDArray[np.float64]:
    return np.array([(left, low), (left, high), (right, low), (right, high)], np.float64)
