"""How pixels of a raster come to the map and back: by its grid, by control points or by RPCs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer, RPCTransformer

from registry.errors import ImageryError, LabelError
from tasks.results import Grid


@dataclass(frozen=True)
class Placement:
    """Of a raster, or of a window in it whose upper left pixel is `corner`."""

    crs: CRS
    grid: Affine
    transformer: Any = None  # of rasterio, where there is no grid
    corner: tuple[int, int] = (0, 0)

    def to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) column, row -> (n, 2) x, y."""
        if self.transformer is None:
            return _applied(self.grid, points)
        columns, rows = (points + self.corner).T
        xs, ys = self.transformer.xy(rows, columns, offset="ul")
        return np.column_stack([xs, ys])

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) x, y -> (n, 2) column, row."""
        if self.transformer is None:
            return _applied(~self.grid, points)
        rows, columns = self.transformer.rowcol(points[:, 0], points[:, 1], op=float)
        return np.column_stack([columns, rows]) - self.corner


def placement_of(image: Grid) -> Placement:
    """Raises ImageryError for a raster that nothing places on the map."""
    if image.crs is not None:
        return Placement(image.crs, image.transform)
    whole, corner = getattr(image, "whole", image), getattr(image, "window", (0, 0))[:2]
    source = getattr(whole, "dataset", None)
    if source is None or getattr(whole, "placed", True):
        do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
        where = getattr(image, "path", Path())
        raise ImageryError("has no coordinate system, so features would lie nowhere", where=where, do=do)
    points, crs = source.gcps
    if points:
        return Placement(crs, Affine.identity(), GCPTransformer(points), corner)
    by_rpcs = RPCTransformer(source.rpcs, RPC_HEIGHT=source.rpcs.height_off)
    return Placement(CRS.from_epsg(4326), Affine.identity(), by_rpcs, corner)


def in_pixels(shapes: Any, image: Grid, where: object) -> NDArray[np.object_]:
    """A GeoSeries in columns and rows of the grid. Raises ImageryError or LabelError without coordinate systems."""
    place = placement_of(image)
    if shapes.crs is None:
        raise LabelError("has no coordinate system", where=where, do="assign one, e.g. ogr2ogr -a_srs EPSG:CODE")
    placed = shapes.to_crs(place.crs.to_wkt()).to_numpy()
    return np.asarray(shapely.transform(placed, place.to_pixels))


def _applied(grid: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c, d, e, f, *_ = grid
    return np.asarray(points @ np.array([[a, d], [b, e]]) + [c, f])
