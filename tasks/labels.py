"""Labels come in as vector features of any kind and coordinate system, and are brought to one scene.

Features are moved once into the pixels of the working grid (x = column, y = row), so everything after that counts in
pixels and never meets a coordinate system again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

import geopandas
import numpy as np
import pandas
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from shapely.errors import GEOSException

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.class_values import class_values
from tasks.class_values import colour as colour  # noqa: PLC0414  # one name for all who draw labels
from tasks.definition_query import meeting
from tasks.feature_files import layer_to_read, source_of
from tasks.geometries import BATCH, Geometries, as_counted_by, brought_to, moved, turns_seen
from tasks.imagery import Imagery
from tasks.layers import PACKED, file_of
from tasks.pixel_features import PixelFeatures

VECTOR_SUFFIXES = {".gpkg", ".gdb", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".gml", ".kml", *PACKED}
ALWAYS_PLACED = {".geojson", ".json", ".kml", ".kmz"}  # these have a coordinate system by definition, also for pixels
TOLD_BY_ROW = {".gpkg", ".gdb", ".fgb"}  # others are parsed from the beginning for every row, or count deleted ones
KEPT = 64  # grids whose features are remembered: those of all angles and of forks are the same
SPACES_OF_PIXELS = ("PIXEL_SPACE", "IMAGE_SPACE")


def is_vector(path: Path) -> bool:
    """Features, as opposed to a classified raster."""
    return file_of(path).suffix.lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class Features:
    """Labelled geometries in the file's own coordinate system."""

    path: Path
    geometries: Geometries  # repaired where they were invalid
    crs: object | None  # of the file
    values: NDArray[np.int64]  # (n,) class Value of each feature
    classes: tuple[ClassLabel, ...]  # sorted by Value
    repaired: int
    lost: Counter[str] = field(default_factory=Counter)  # features that cannot be used, by reason
    _placed: dict[str, Geometries] = field(default_factory=dict)  # by coordinate system
    _on: dict[object, PixelFeatures] = field(default_factory=dict)  # by grid

    def on(self, imagery: Imagery, space: str = "MAP_SPACE") -> PixelFeatures:
        """In pixels of a scene; what does not touch it is left out.

        Raises LabelError when the two cannot be compared: either has no coordinate system, unless neither has and
        `space` is PIXEL_SPACE or IMAGE_SPACE. Then features are in the raster's own coordinates, which are columns and
        rows (down, or up as negative numbers) where it has none.
        """
        place = imagery.crs and imagery.crs.to_wkt(), imagery.transform, imagery.own_transform
        grid = (space, place, imagery.width, imagery.height)
        if grid not in self._on:
            if len(self._on) >= KEPT:
                self._on.pop(next(iter(self._on)))
            self._on[grid] = self._in_pixels(imagery, space)
        return self._on[grid]

    def _in_pixels(self, imagery: Imagery, space: str) -> PixelFeatures:
        placed = self._place(imagery, space)
        rows = np.flatnonzero(_touches(placed.bounds, imagery.bounds))
        whole, kept = (0, 0, imagery.width, imagery.height), [np.zeros(0, bool)]

        def here() -> Iterator[NDArray[np.object_]]:
            for batch in placed.batches(rows):
                pixels = moved(batch, ~imagery.transform)
                kept.append(_touches(shapely.bounds(pixels), whole))  # the bounds of a rotated raster promise too much
                yield pixels[kept[-1]]

        geometries = Geometries.packed(here())
        rows = rows[np.concatenate(kept)]
        indexes = np.searchsorted([label.value for label in self.classes], self.values[rows]) + 1
        return PixelFeatures(geometries, indexes, rows)

    def refuse_elsewhere(self, imagery: Imagery, space: str = "MAP_SPACE") -> None:
        """Raises LabelError that tells where both lie."""
        bounds = self._place(imagery, space).bounds
        low, high = np.nanmin(bounds[:, :2], axis=0), np.nanmax(bounds[:, 2:], axis=0)
        west, south, east, north = imagery.bounds
        what = f"does not overlap {imagery.path.name} ({west:.1f} {south:.1f} {east:.1f} {north:.1f})"
        do = "check the coordinate systems of both; they are compared in that of the raster"
        raise LabelError(what, where=self.path, got=[round(float(x), 1) for x in (*low, *high)], do=do)

    def _place(self, imagery: Imagery, space: str) -> Geometries:
        """The geometries in the raster's map units; moved once per coordinate system."""
        wanted, own = imagery.crs, self.crs
        if space in SPACES_OF_PIXELS and (
            own is None or (wanted is None and file_of(self.path).suffix.lower() in ALWAYS_PLACED)
        ):
            return self._in_raster_units(imagery)
        if wanted is None:
            do = (
                "assign one: gdal_edit.py -a_srs EPSG:code FILE; or, for labels in pixels, reference_system PIXEL_SPACE"
            )
            raise LabelError("has no coordinate system, so labels cannot be placed on it", where=imagery.path, do=do)
        if own is None:
            raise LabelError(
                "has no coordinate system", where=self.path, do="assign one, e.g. ogr2ogr -a_srs EPSG:code"
            )
        try:
            placed = self._moved_to(wanted)
        except ProjError as error:  # of a plan or a model, which lies nowhere on the earth
            what = f"has a coordinate system from which none leads to that of {imagery.path.name}"
            do = "give both a true one: gdal_edit.py -a_srs EPSG:code FILE, ogr2ogr -a_srs EPSG:code"
            raise LabelError(what, where=self.path, do=do) from error
        west, _, east, _ = imagery.bounds
        if not (wanted.is_geographic and any(turns_seen(west, east, placed.bounds))):
            return placed
        return Geometries.packed(as_counted_by(west, east, batch) for batch in placed.batches())

    def _moved_to(self, wanted: CRS) -> Geometries:
        key = wanted.to_wkt()
        if key not in self._placed:
            self._placed.clear()
            same = geopandas.GeoSeries(crs=wanted).crs.equals(self.crs, ignore_axis_order=True)
            self._placed[key] = (
                self.geometries
                if same
                else Geometries.packed(_sound(brought_to(one, self.crs, wanted)) for one in self.geometries.batches())
            )
        return self._placed[key]

    def _in_raster_units(self, imagery: Imagery) -> Geometries:
        """Rows count downwards, or upwards as negative numbers, in both."""
        lowest = self.geometries.bounds[:, 3].max()
        if imagery.crs and self.crs is None:  # a placed raster, labels in its pixels
            to_map = imagery.own_transform @ Affine.scale(1, 1 if lowest > 0 else -1)
        elif imagery.own_transform.is_identity and lowest <= 0:
            to_map = Affine.scale(1, -1)
        else:
            return self.geometries
        return Geometries.packed(moved(batch, to_map) for batch in self.geometries.batches())


def read_features(
    path: Path,
    value_field: str = "",
    classes: Sequence[ClassLabel] = (),
    *,
    query: str = "",
    radius: float = 0.0,
    points: bool = False,
) -> Features:
    """Read features and their classes; with a `query` those that meet it, an SQL condition as OGR takes it.

    Points and lines become areas by `radius` in the file's own units; `points`: they may stay as they are. For the
    class see `class_values`. Geometry that is invalid is repaired and counted, what has no area is counted as lost.
    Raises LabelError.
    """
    return features_of(path, _read(path, query), value_field, classes, radius=radius, points=points)


def features_of(
    path: Path,
    tables: Iterable[geopandas.GeoDataFrame],
    value_field: str,
    classes: Sequence[ClassLabel],
    *,
    radius: float,
    points: bool,
) -> Features:
    """The same for tables of one kind that are read already, or while they are taken."""
    crs, lost, repaired = None, Counter[str](), 0
    attributes: list[pandas.DataFrame] = []

    def shapes() -> Iterator[NDArray[np.object_]]:
        nonlocal crs, repaired
        for table in tables:
            there = _kept(table, ~(table.geometry.isna() | table.geometry.is_empty), "no geometry", lost)
            found, broken = _mended(there.geometry.to_numpy())
            areas = _areas(path, found, radius, points, degrees=table.crs is not None and table.crs.is_geographic)
            empty = shapely.is_empty(areas)
            fields = there.drop(columns=there.geometry.name)
            attributes.append(_kept(fields, ~empty, "geometry without an area", lost))
            crs, repaired = table.crs, repaired + broken
            yield areas[~empty]

    geometries = Geometries.packed(shapes())
    if not len(geometries):
        what = " with an area" if lost["geometry without an area"] else " with a geometry" if lost else ""
        do = "choose another layer or file" if lost else "choose another file or definition_query"
        raise LabelError(f"has no feature{what}", where=path, do=do)
    values, found = class_values(path, pandas.concat(attributes, ignore_index=True), value_field, classes)
    return Features(path, geometries, crs, values, found, repaired, lost)


def read_areas(path: Path) -> Features:
    """Polygons of which only the geometry counts, all of class 1. Raises LabelError."""
    tables = (table[[table.geometry.name]] for table in _read(path, ""))
    return features_of(path, tables, "", (), radius=0.0, points=False)


def _read(path: Path, query: str) -> Iterator[geopandas.GeoDataFrame]:
    """A batch at a time, and whole what is no stream."""
    suffix = file_of(path).suffix.lower()
    if suffix == ".parquet":
        table = _opened(path, geopandas.read_parquet)
        yield meeting(path, table, query) if query else table
        return
    how = {"where": query or None, "layer": layer_to_read(path)}
    if suffix not in TOLD_BY_ROW or (query and suffix == ".gdb"):  # of which GDAL counts the rows that do not meet it
        yield _opened(path, geopandas.read_file, **how, on_invalid="fix")
        return
    for first in count(0, BATCH):
        table = _opened(path, geopandas.read_file, **how, rows=slice(first, first + BATCH), on_invalid="fix")
        yield table
        if len(table) < BATCH:
            return


def _opened(path: Path, read: Callable[..., pandas.DataFrame], **options: object) -> geopandas.GeoDataFrame:
    try:
        table = read(source_of(path), **options)
    except (DataSourceError, DataLayerError, OSError, ValueError, GEOSException) as error:
        do = "check definition_query" if options.get("where") else "check that ogrinfo reads it"
        do = do if file_of(path).exists() else "check the path"
        raise LabelError(f"cannot be opened as features ({error})", where=path, do=do) from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise LabelError("has no geometry", where=path, do="choose a layer of features, or give it as .csv")
    return table


Table = TypeVar("Table", bound=pandas.DataFrame)


def _kept(table: Table, keep: NDArray[np.bool_], reason: str, lost: Counter[str]) -> Table:
    if dropped := int((~keep).sum()):
        lost[reason] += dropped
    return table[keep]


def _mended(shapes: NDArray[np.object_]) -> tuple[NDArray[np.object_], int]:
    """Flat and valid, and how many were not valid."""
    flat = shapely.force_2d(shapes)
    broken = ~shapely.is_valid(flat)
    flat[broken] = shapely.make_valid(flat[broken], method="structure", keep_collapsed=False)
    return flat, int(broken.sum())


def _sound(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Still valid where they came to: half the world may end as a line."""
    there = np.isfinite(shapely.bounds(shapes)).all(axis=1)
    shapes[there], _ = _mended(shapes[there])
    return shapes


def _areas(
    path: Path, shapes: NDArray[np.object_], radius: float, points: bool, *, degrees: bool
) -> NDArray[np.object_]:
    """Points and lines widened by the radius; polygons as they are, without the points and lines of a collection."""
    thin = shapely.get_dimensions(shapes) < 2
    if thin.any() and degrees and radius >= 1:
        do = "give it in degrees (1 m is about 0.000009), or the labels in a coordinate system in metres"
        raise LabelError("buffer_radius is in degrees, as these features are", where=path, got=radius, do=do)
    if thin.any() and radius > 0:
        shapes[thin] = shapely.buffer(shapes[thin], radius)
    elif thin.any() and not (points and (shapely.get_dimensions(shapes[thin]) == 0).all()):
        kinds = sorted({shape.geom_type for shape in shapes[thin]})
        raise LabelError("expected polygons", where=path, got=kinds, do="set buffer_radius to widen points and lines")
    mixed = ~thin & (shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION)
    shapes[mixed] = shapely.buffer(shapes[mixed], 0)
    return shapes


def _touches(bounds: NDArray[np.float64], area: Sequence[float]) -> NDArray[np.bool_]:
    """Which bounds (n, 4) share more than an edge with the area; those that could not be placed do not."""
    low, high = bounds[:, :2], bounds[:, 2:]
    with np.errstate(invalid="ignore"):
        inside = (low <= area[2:]).all(axis=1) & (high >= area[:2]).all(axis=1)
        meets = (low < area[2:]).all(axis=1) & (high > area[:2]).all(axis=1)
    points = (low == high).all(axis=1)
    return np.asarray(np.isfinite(bounds).all(axis=1) & np.where(points, inside, meets))
