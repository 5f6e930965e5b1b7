"""The areas of one class of a raster as polygons, block by block: memory holds what is open, not the raster.

A block's polygons are simplified as one coverage (Visvalingam and Whyatt's rule, on lines that neighbours share) whose
frame stays as it is. What reaches over a frame between blocks is joined there: corners are whole pixels, so exactly.
"""

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from tasks.geometries import moved, polygons_of

BLOCK = 1024
Polygons = NDArray[np.object_]


def areas(
    raster: rasterio.DatasetReader, wanted: Sequence[int], *, simplify: float = 0, block: int = BLOCK
) -> Iterator[tuple[Polygons, int]]:
    """(n,) polygons in map coordinates and the value of them all, n as it comes; every area exactly once.

    Pixels that touch in a corner alone are of two areas. `simplify` is in map units, 0 keeps the outlines of pixels;
    the raster's own edge, and points where an outline crosses a frame between blocks, stay where they are.
    """
    tolerance = simplify / sqrt(abs(raster.transform.determinant))
    reaching = {value: np.zeros(0, object) for value in wanted}
    for top in range(0, raster.height, block):
        bottom = min(top + block, raster.height)
        for left in range(0, raster.width, block):
            window = Window(left, top, min(block, raster.width - left), bottom - top)
            for value, shapes in _pieces(raster, window, wanted, tolerance).items():
                held = _reach_over(shapes, window, raster)
                reaching[value] = np.concatenate([reaching[value], shapes[held]])
                yield moved(shapes[~held], raster.transform), value
        for value, shapes in reaching.items():
            joined = _joined(shapes)
            held = (shapely.bounds(joined)[:, 3] == bottom) & (bottom < raster.height)
            reaching[value] = joined[held]
            yield moved(joined[~held], raster.transform), value


def _pieces(
    raster: rasterio.DatasetReader, window: Window, wanted: Sequence[int], tolerance: float
) -> dict[int, Polygons]:
    """What a block shows of each value, in pixels of the raster; what is not wanted only helps to simplify."""
    read = raster.read(1, window=window, masked=True)
    shown = np.isin(read.data, wanted) & ~np.ma.getmaskarray(read)
    if not shown.any():
        return {}
    corner = Affine.translation(window.col_off, window.row_off)
    pixels = np.where(shown, read.data, 0).astype(np.int32)
    rings, counts, values = list[NDArray[np.float64]](), list[int](), list[int]()
    for outline, value in rasterio.features.shapes(pixels, transform=corner):  # lists of numbers, so not held
        rings += map(np.array, outline["coordinates"])
        counts.append(len(outline["coordinates"]))
        values.append(int(value))
    polygons = polygons_of(np.concatenate(rings), [len(ring) for ring in rings], counts)
    if tolerance:  # a coverage has a corner wherever neighbours have one
        polygons = shapely.coverage_simplify(shapely.segmentize(polygons, 1), tolerance, simplify_boundary=False)
        polygons = shapely.simplify(polygons, 0)
    numbers = np.array(values)
    return {value: polygons[numbers == value] for value in wanted if value in numbers}


def _reach_over(shapes: Polygons, window: Window, raster: rasterio.DatasetReader) -> NDArray[np.bool_]:
    """Which of a block's polygons touch a frame that another block lies behind."""
    left, top, right, bottom = shapely.bounds(shapes).T
    end, below = window.col_off + window.width, window.row_off + window.height
    across = (left == window.col_off) & (window.col_off > 0) | (right == end) & (end < raster.width)
    down = (top == window.row_off) & (window.row_off > 0) | (bottom == below) & (below < raster.height)
    return np.asarray(across | down)


def _joined(shapes: Polygons) -> Polygons:
    """The areas of one value that the pieces make."""
    return np.asarray(shapely.simplify(shapely.get_parts(shapely.union_all(shapes)), 0))
