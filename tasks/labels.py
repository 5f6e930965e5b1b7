"""Labels come in: vector features of any kind and coordinate system, or a classified raster, brought to one scene.

Features are moved once into the pixels of the working grid (x = column, y = row), so everything after that counts in
pixels and never meets a coordinate system again.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import geopandas
import numpy as np
import pandas
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.imagery import Imagery

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".gml", ".kml"}
VALUE_FIELDS = ("classvalue", "class_value", "value")  # Classvalue is the field of ArcGIS training samples (F.1)
NAME_FIELDS = ("classname", "class_name", "class", "name")
PALETTE = ((230, 60, 40), (60, 120, 220), (70, 180, 80), (240, 190, 40), (150, 80, 190), (40, 190, 190), (200, 120, 60))


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

    def on(self, imagery: Imagery) -> "PixelFeatures":
        """In pixels of a scene. Raises LabelError when either has no coordinate system, or they do not overlap."""
        if imagery.crs is None:
            do = "assign one: gdal_edit.py -a_srs EPSG:code FILE"
            raise LabelError("has no coordinate system, so labels cannot be placed on it", where=imagery.path, do=do)
        if self.frame.crs is None:
            raise LabelError(
                "has no coordinate system", where=self.path, do="assign one, e.g. ogr2ogr -a_srs EPSG:code"
            )
        placed = self.frame.geometry.to_crs(imagery.crs)
        west, south, east, north = imagery.bounds
        lies = placed.total_bounds
        if not (lies[0] < east and lies[2] > west and lies[1] < north and lies[3] > south):
            what = f"does not overlap {imagery.path.name} ({west:.1f} {south:.1f} {east:.1f} {north:.1f})"
            do = "check the coordinate systems of both; they are compared in that of the raster"
            raise LabelError(what, where=self.path, got=[round(float(x), 1) for x in lies], do=do)
        a, b, c, d, e, f, *_ = ~imagery.transform
        pixels = shapely.transform(placed.to_numpy(), lambda xy: xy @ np.array([[a, d], [b, e]]) + [c, f])
        return PixelFeatures(pixels, np.array(self._indexes(), np.int64))

    def _indexes(self) -> list[int]:
        index = {label.value: i for i, label in enumerate(self.classes, start=1)}
        return [index[value] for value in self.values.tolist()]


@dataclass(frozen=True)
class PixelFeatures:
    """Geometries in pixels of a working grid, x = column, y = row, with a spatial index."""

    geometries: NDArray[np.object_]
    labels: NDArray[np.int64]  # (n,) class index from 1

    @cached_property
    def tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.geometries)

    def clip(self, window: tuple[int, int, int, int], min_overlap: float) -> "PixelFeatures":
        """What lies inside xmin, ymin, xmax, ymax, moved so that the window's corner is 0, 0.

        A feature of which a smaller share than `min_overlap` of its area is inside is left out.
        """
        xmin, ymin, xmax, ymax = window
        found = np.sort(self.tree.query(shapely.box(*window)))
        parts = shapely.clip_by_rect(self.geometries[found], xmin, ymin, xmax, ymax)
        areas = shapely.area(parts)
        keep = (areas > 0) & (areas >= min_overlap * shapely.area(self.geometries[found]))
        moved = shapely.transform(parts[keep], lambda xy: xy - [xmin, ymin])
        return PixelFeatures(moved, self.labels[found][keep])

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4) xmin ymin xmax ymax."""
        return np.asarray(shapely.bounds(self.geometries), np.float32).reshape(-1, 4)

    def mask(self, rows: int, cols: int) -> NDArray[np.uint8]:
        """Class index per pixel; where features overlap the smaller one is seen."""
        order = np.argsort(-shapely.area(self.geometries), kind="stable")
        shapes = [(self.geometries[i], int(self.labels[i])) for i in order]
        if not shapes:
            return np.zeros((rows, cols), np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rasterize warns that pixel coordinates are not georeferenced
            return np.asarray(rasterize(shapes, out_shape=(rows, cols), transform=Affine.identity(), dtype="uint8"))


def read_features(path: Path, value_field: str = "", classes: Sequence[ClassLabel] = ()) -> Features:
    """Read polygons and their classes.

    The class Value comes from `value_field`, else from a field Classvalue, class_value or Value, else every feature is
    class 1 (ArcGIS formats F.1). A field of texts is matched with the names of `classes`, or numbered in alphabetical
    order, so the order of features never matters. Raises LabelError.
    """
    try:
        frame = geopandas.read_file(path)
    except (DataSourceError, OSError, ValueError) as error:
        do = "check the path" if not path.exists() else "check that ogrinfo reads it"
        raise LabelError(f"cannot be opened as features ({error})", where=path, do=do) from error
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)].reset_index(drop=True)
    if frame.empty:
        raise LabelError("has no feature with a geometry", where=path, do="choose another layer or file")
    broken = ~frame.geometry.is_valid
    frame.geometry = frame.geometry.where(~broken, frame.geometry.make_valid())
    if odd := sorted(set(frame.geom_type) - {"Polygon", "MultiPolygon", "GeometryCollection"}):
        raise LabelError("expected polygons", where=path, got=odd, do="buffer points and lines first")
    values, found = _classes(path, frame, value_field, classes)
    return Features(path, frame, values, found, int(broken.sum()))


def read_class_raster(path: Path, imagery: Imagery, window: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """Class Values of xmin, ymin, xmax, ymax on the grid of a scene, nearest neighbour; nodata and outside are 0."""
    col, row, right, bottom = window
    transform = imagery.transform @ Affine.translation(col, row)
    try:
        with rasterio.open(path) as source:
            grid = {"crs": imagery.crs, "transform": transform, "width": right - col, "height": bottom - row}
            with WarpedVRT(source, src_crs=source.crs or imagery.crs, resampling=Resampling.nearest, **grid) as labels:
                values = labels.read(1).astype(np.int64)
                values[labels.dataset_mask() == 0] = 0
                return np.asarray(values)
    except RasterioError as error:
        raise LabelError(f"cannot be read as a classified raster ({error})", where=path, do="check the path") from error


def class_raster_classes(path: Path, given: Sequence[ClassLabel]) -> tuple[ClassLabel, ...]:
    """The classes of a classified raster: those given, else its values without 0 and nodata, named by the value."""
    if given:
        return tuple(sorted((c for c in given if c.value != 0), key=lambda c: c.value))
    found: set[int] = set()
    with rasterio.open(path) as source:
        for _, window in source.block_windows(1):
            found |= set(np.unique(source.read(1, window=window, masked=True).compressed()).tolist())
    return tuple(ClassLabel(int(v), str(int(v)), colour(i)) for i, v in enumerate(sorted(found - {0})))


def colour(i: int) -> tuple[int, int, int]:
    """A legible colour for the i-th class."""
    return PALETTE[i % len(PALETTE)]


def _classes(
    path: Path, frame: geopandas.GeoDataFrame, value_field: str, given: Sequence[ClassLabel]
) -> tuple[NDArray[np.int64], tuple[ClassLabel, ...]]:
    field = _value_field(path, frame, value_field)
    if field is None:
        label = given[0] if len(given) == 1 else ClassLabel(1, "1", colour(0))
        return np.full(len(frame), label.value, np.int64), (label,)
    column = frame[field]
    if column.isna().any():
        what = f"{int(column.isna().sum())} features have no {field}"
        raise LabelError(what, where=path, do="fill or delete them")
    if not pandas.api.types.is_numeric_dtype(column):
        names = {c.name: c.value for c in given} or {n: i for i, n in enumerate(sorted(set(column.astype(str))), 1)}
        if unknown := sorted(set(column.astype(str)) - set(names)):
            raise LabelError(f"field {field} has classes that were not given", where=path, got=unknown)
        values = column.astype(str).map(names).to_numpy(np.int64)
        labels = tuple(given) or tuple(ClassLabel(v, n, colour(v - 1)) for n, v in names.items())
    else:
        values = column.to_numpy(np.int64)
        labels = tuple(given) or _named(frame, values, field)
    if (lost := sorted(set(values.tolist()) - {c.value for c in labels})) or (values <= 0).any():
        got = lost or sorted(set(values[values <= 0].tolist()))
        raise LabelError(f"field {field} has values that are no class; classes count from 1", where=path, got=got)
    return values, tuple(sorted(labels, key=lambda c: c.value))


def _value_field(path: Path, frame: geopandas.GeoDataFrame, wanted: str) -> str | None:
    fields = {str(name).lower(): str(name) for name in frame.columns if name != frame.geometry.name}
    if wanted and wanted.lower() not in fields:
        raise LabelError(f"has no field {wanted!r}", where=path, do=f"choose one of {', '.join(fields.values())}")
    return fields[wanted.lower()] if wanted else next((fields[f] for f in VALUE_FIELDS if f in fields), None)


def _named(frame: geopandas.GeoDataFrame, values: NDArray[np.int64], value_field: str) -> tuple[ClassLabel, ...]:
    """Names and colours of the values from Classname and Red, Green, Blue, where the file has them.

    A field `roof_value` is named by its sister `roof`.
    """
    fields = {str(name).lower(): str(name) for name in frame.columns}
    sister = value_field.lower().removesuffix("_value").removesuffix("value")
    name_field = next(
        (fields[f] for f in (sister, sister + "name", *NAME_FIELDS) if f in fields and f != value_field.lower()), None
    )
    rgb = [fields[c] for c in ("red", "green", "blue") if c in fields]
    labels = []
    for i, value in enumerate(sorted(set(values.tolist()))):
        first = frame[values == value].iloc[0]
        name = str(first[name_field]) if name_field else str(value)
        red, green, blue = (int(first[c]) for c in rgb) if len(rgb) == 3 else colour(i)
        labels.append(ClassLabel(value, name, (red, green, blue)))
    if len({label.name for label in labels}) < len(labels):  # the field names something else than these classes
        return tuple(replace(label, name=str(label.value)) for label in labels)
    return tuple(labels)
