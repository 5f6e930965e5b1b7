"""How pixels of a raster come to the map and back: by its grid, by control points or by RPCs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer, RPCTransformer

from registry.errors import ImageryError, LabelError
from tasks.geometries import as_counted_by, brought_to
from tasks.imagery import bounds_of
from tasks.results import Grid

PIECES = 64  # of a raster's side: an edge so long is straight enough in any coordinate system


class Located(Grid, Protocol):
    """What knows by which means it lies on the map."""

    @property
    def path(self) -> Path: ...
    @property
    def placed(self) -> bool:
        """False: no grid places it, but control points or RPCs of its dataset."""

    @property
    def dataset(self) -> DatasetReader: ...
    @property
    def corner(self) -> tuple[int, int]:
        """Column and row in the dataset of its upper left pixel."""


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
            return applied(self.grid, points)
        columns, rows = (points + self.corner).T
        xs, ys = self.transformer.xy(rows, columns, offset="ul")
        return np.column_stack([xs, ys])

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) x, y -> (n, 2) column, row."""
        if self.transformer is None:
            return applied(~self.grid, points)
        rows, columns = self.transformer.rowcol(points[:, 0], points[:, 1], op=float)
        return np.column_stack([columns, rows]) - self.corner


def placement_of(image: Located) -> Placement:
    """Raises ImageryError for a raster that nothing places on the map."""
    if image.crs is not None:
        return Placement(image.crs, image.transform)
    if image.placed:
        do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
        raise ImageryError("has no coordinate system, so features would lie nowhere", where=image.path, do=do)
    points, crs = image.dataset.gcps
    if points:
        return Placement(crs, Affine.identity(), GCPTransformer(points), image.corner)
    by_rpcs = RPCTransformer(image.dataset.rpcs, RPC_HEIGHT=image.dataset.rpcs.height_off)
    return Placement(CRS.from_epsg(4326), Affine.identity(), by_rpcs, image.corner)


def in_pixels(shapes: Any, image: Located, where: object) -> NDArray[np.object_]:
    """A GeoSeries in columns and rows of the grid. Raises ImageryError or LabelError without coordinate systems."""
    place = placement_of(image)
    if shapes.crs is None:
        raise LabelError("has no coordinate system", where=where, do="assign one, e.g. ogr2ogr -a_srs EPSG:CODE")
    placed = brought_to(shapes.to_numpy(), shapes.crs, place.crs.to_wkt())
    if image.placed and place.crs.is_geographic:
        west, _, east, _ = bounds_of(image.transform, image.width, image.height)
        placed = as_counted_by(west, east, placed)
    return np.asarray(shapely.transform(placed, place.to_pixels))


def bent_to(areas: Any, image: Located) -> Any:
    """A GeoSeries with points along its edges, which are no straight lines in the coordinate system of a raster.

    What is far from the raster is cut off: its coordinate system may know nothing of it.
    """
    place = placement_of(image)
    if areas.crs is None or areas.crs == place.crs.to_wkt():
        return areas
    pixels = shapely.segmentize(shapely.box(0, 0, image.width, image.height), max(image.width, image.height) / PIECES)
    outline = shapely.get_coordinates(pixels)
    border = geopandas.GeoSeries(shapely.points(place.to_map(outline)), crs=place.crs.to_wkt()).to_crs(areas.crs)
    west, south, east, north = border.total_bounds
    side = max(east - west, north - south)
    if not 0 < side < np.inf:
        return areas
    around = shapely.box(west - side, south - side, east + side, north + side)
    far = ~shapely.covered_by(shapely.envelope(areas.to_numpy()), around)
    near = areas.copy()
    near[far] = shapely.intersection(shapely.make_valid(areas[far].to_numpy()), around)
    return near.segmentize(side / PIECES)


def applied(grid: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) points through a grid's transform."""
    a, b, c, d, e, f, *_ = grid
    return np.asarray(points @ np.array([[a, d], [b, e]]) + [c, f])
