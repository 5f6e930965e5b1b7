"""Labels come in as vector features of any kind and coordinate system, and are brought to one scene.

Features are moved once into the pixels of the working grid (x = column, y = row), so everything after that counts in
pixels and never meets a coordinate system again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.class_values import class_values
from tasks.class_values import colour as colour  # noqa: PLC0414  # one name for all who draw labels
from tasks.imagery import Imagery
from tasks.pixel_features import PixelFeatures

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".gml", ".kml"}
ALWAYS_PLACED = {".geojson", ".json", ".kml"}  # these have a coordinate system by definition, also for pixels
SPACES_OF_PIXELS = ("PIXEL_SPACE", "IMAGE_SPACE")


def is_vector(path: Path) -> bool:
    """Features, as opposed to a classified raster."""
    return path.suffix.lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class Features:
    """Labelled geometries in the file's own coordinate system."""

    path: Path
    frame: geopandas.GeoDataFrame  # geometry, repaired where it was invalid
    values: NDArray[np.int64]  # (n,) class Value of each feature
    classes: tuple[ClassLabel, ...]  # sorted by Value
    repaired: int
    lost: Counter[str] = field(default_factory=Counter)  # features that cannot be used, by reason
    _placed: dict[str, NDArray[np.object_]] = field(default_factory=dict)  # geometries by coordinate system

    def on(self, imagery: Imagery, space: str = "MAP_SPACE") -> PixelFeatures:
        """In pixels of a scene; what does not touch it is left out.

        Raises LabelError when the two cannot be compared: either has no coordinate system, unless neither has and
        `space` is PIXEL_SPACE or IMAGE_SPACE. Then features are in the raster's own coordinates, which are columns and
        rows (down, or up as negative numbers) where it has none.
        """
        placed = self._place(imagery, space)
        rows = np.flatnonzero(_touches(shapely.bounds(placed), imagery.bounds))
        a, b, c, d, e, f, *_ = ~imagery.transform
        pixels = shapely.transform(placed[rows], lambda xy: xy @ np.array([[a, d], [b, e]]) + [c, f])
        whole = (0, 0, imagery.width, imagery.height)
        here = _touches(shapely.bounds(pixels), whole)  # on a rotated raster the bounds promise too much
        indexes = np.searchsorted([label.value for label in self.classes], self.values[rows]) + 1
        return PixelFeatures(pixels[here], indexes[here], rows[here])

    def refuse_elsewhere(self, imagery: Imagery, space: str = "MAP_SPACE") -> None:
        """Raises LabelError that tells where both lie."""
        bounds = shapely.bounds(self._place(imagery, space))
        low, high = np.nanmin(bounds[:, :2], axis=0), np.nanmax(bounds[:, 2:], axis=0)
        west, south, east, north = imagery.bounds
        what = f"does not overlap {imagery.path.name} ({west:.1f} {south:.1f} {east:.1f} {north:.1f})"
        do = "check the coordinate systems of both; they are compared in that of the raster"
        raise LabelError(what, where=self.path, got=[round(float(x), 1) for x in (*low, *high)], do=do)

    def _place(self, imagery: Imagery, space: str) -> NDArray[np.object_]:
        """The geometries in the raster's map units; moved once per coordinate system."""
        wanted, own = imagery.crs, self.frame.crs
        if space in SPACES_OF_PIXELS and (
            own is None or (wanted is None and self.path.suffix.lower() in ALWAYS_PLACED)
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
        key = wanted.to_wkt()
        if key not in self._placed:
            self._placed.clear()
            self._placed[key] = self.frame.geometry.to_crs(wanted).to_numpy()
        return _near_date_line(self._placed[key], wanted, imagery.bounds)

    def _in_raster_units(self, imagery: Imagery) -> NDArray[np.object_]:
        shapes = self.frame.geometry.to_numpy()
        upwards = imagery.transform.is_identity and shapely.total_bounds(shapes)[3] <= 0
        to_map = imagery.transform if imagery.crs and self.frame.crs is None else None
        turned = shapely.transform(shapes, lambda xy: xy * [1, -1]) if upwards else shapes
        if to_map is None:
            return np.asarray(turned)
        a, b, c, d, e, f, *_ = to_map  # a placed raster, labels in its pixels
        down = shapely.total_bounds(turned)[3] > 0
        sign = 1 if down else -1
        return np.asarray(shapely.transform(turned, lambda xy: xy * [1, sign] @ np.array([[a, d], [b, e]]) + [c, f]))


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
    frame: geopandas.GeoDataFrame,
    value_field: str,
    classes: Sequence[ClassLabel],
    *,
    radius: float,
    points: bool,
) -> Features:
    """The same for a table that is read already."""
    lost: Counter[str] = Counter()
    frame = _kept(frame, ~(frame.geometry.isna() | frame.geometry.is_empty), "no geometry", lost)
    if frame.empty:
        raise LabelError("has no feature with a geometry", where=path, do="choose another layer or file")
    shapes = shapely.force_2d(frame.geometry.to_numpy())
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.make_valid(shapes[broken], method="structure", keep_collapsed=False)
    shapes = _areas(path, shapes, radius, points)
    frame = frame.set_geometry(geopandas.GeoSeries(shapes, index=frame.index, crs=frame.crs))
    frame = _kept(frame, ~shapely.is_empty(shapes), "geometry without an area", lost)
    if frame.empty:
        raise LabelError("has no feature with an area", where=path, do="check the geometries")
    values, found = class_values(path, frame.drop(columns=frame.geometry.name), value_field, classes)
    return Features(path, frame, values, found, int(broken.sum()), lost)


def _read(path: Path, query: str) -> geopandas.GeoDataFrame:
    try:
        parquet = path.suffix.lower() == ".parquet" and not query
        frame = geopandas.read_parquet(path) if parquet else geopandas.read_file(path, where=query or None)
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        do = "check the path" if not path.exists() else "check that ogrinfo reads it"
        raise LabelError(f"cannot be opened as features ({error})", where=path, do=do) from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise LabelError("has no geometry", where=path, do="choose a layer of features, or give it as .csv")
    return frame


def _kept(
    frame: geopandas.GeoDataFrame, keep: NDArray[np.bool_], reason: str, lost: Counter[str]
) -> geopandas.GeoDataFrame:
    if dropped := int((~keep).sum()):
        lost[reason] += dropped
    return frame[keep].reset_index(drop=True)


def _areas(path: Path, shapes: NDArray[np.object_], radius: float, points: bool) -> NDArray[np.object_]:
    """Points and lines widened by the radius; polygons as they are."""
    thin = shapely.get_dimensions(shapes) < 2
    if thin.any() and radius > 0:
        shapes[thin] = shapely.buffer(shapes[thin], radius)
    elif thin.any() and not (points and (shapely.get_dimensions(shapes[thin]) == 0).all()):
        kinds = sorted({shape.geom_type for shape in shapes[thin]})
        raise LabelError("expected polygons", where=path, got=kinds, do="set buffer_radius to widen points and lines")
    return shapes


def _touches(bounds: NDArray[np.float64], area: Sequence[float]) -> NDArray[np.bool_]:
    """Which bounds (n, 4) share more than an edge with the area; those that could not be placed do not."""
    low, high = bounds[:, :2], bounds[:, 2:]
    with np.errstate(invalid="ignore"):
        inside = (low <= area[2:]).all(axis=1) & (high >= area[:2]).all(axis=1)
        meets = (low < area[2:]).all(axis=1) & (high > area[:2]).all(axis=1)
    points = (low == high).all(axis=1)
    return np.asarray(np.isfinite(bounds).all(axis=1) & np.where(points, inside, meets))


def _near_date_line(shapes: NDArray[np.object_], crs: CRS, bounds: Sequence[float]) -> NDArray[np.object_]:
    """Longitudes within 180 degrees of the raster's middle: it may count 179 to 181 where the labels have -179."""
    west, _, east, _ = bounds
    if not crs.is_geographic or (west >= -180 and east <= 180):
        return shapes
    middle = (west + east) / 2
    return np.asarray(shapely.transform(shapes, lambda xy: xy + [360, 0] * np.round((middle - xy[:, :1]) / 360)))
