"""Labels as classified rasters: one, or a folder of them, laid on the grid of a scene."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from registry.emd import ClassLabel
from registry.errors import ImageryError, LabelError
from tasks.class_values import check_values, colour
from tasks.imagery import Imagery, bounds_of, open_raster, short_name
from tasks.mosaic import kind_of, mosaic, on_grid_of, shift_of
from tasks.sources import find_rasters
from tasks.windows import Bounds

SEAM = 0.1  # share of a raster that the next one may cover
MOST_VALUES = 1000  # a raster with more different values is a measurement, not a classification


@dataclass(frozen=True)
class ClassRasters:
    """One raster, or several of which each belongs to the picture of its name or lies beside the others on the map."""

    path: Path
    names: tuple[str, ...]  # that GDAL opens
    classes: tuple[ClassLabel, ...]

    @classmethod
    def read(cls, path: Path, given: Sequence[ClassLabel]) -> "ClassRasters":
        """The classes are those given, else the values found without 0 and nodata, named by the value."""
        try:
            names = find_rasters(path)
        except ImageryError as error:
            raise LabelError(error.what, where=error.where, do=error.do) from error
        classes = sorted((c for c in given if c.value != 0), key=lambda c: c.value) if given else _found(path, names)
        return cls(path, names, tuple(classes))

    def of(self, imagery: Imagery) -> str:
        """The raster for a scene. Raises LabelError when a folder has none of its name and they do not lie apart."""
        if len(self.names) == 1:
            return self.names[0]
        stem = imagery.path.stem.lower()
        stems = {name: Path(name).stem.lower() for name in self.names}
        alike = [n for n, s in stems.items() if s == stem] or [n for n, s in stems.items() if s.startswith(stem + "_")]
        if len(alike) == 1:
            return alike[0]
        try:
            return self._together
        except ImageryError as error:
            do = f"name one of the rasters {imagery.path.stem}.tif, or lay them together with gdalbuildvrt"
            raise LabelError(f"has no raster for {imagery.path.name} ({error})", where=self.path, do=do) from error

    @cached_property
    def _together(self) -> str:
        """Their mosaic. Raises ImageryError for rasters of no place, of several coordinate systems, or on each other.

        A seam may overlap.
        """
        kinds = [kind_of(name, classes=True) for name in self.names]
        if unplaced := [kind.name for kind in kinds if not kind.placed]:
            raise ImageryError("has no place on the map", where=short_name(unplaced[0]))
        if others := [kind.name for kind in kinds if kind.crs != kinds[0].crs]:
            what = f"has another coordinate system than {short_name(self.names[0]).name}"
            raise ImageryError(what, where=short_name(others[0]))
        boxes = shapely.box(*np.array([bounds_of(kind.transform, kind.width, kind.height) for kind in kinds]).T)
        one, other = shapely.STRtree(boxes).query(boxes, predicate="intersects")
        common = shapely.area(shapely.intersection(boxes[one], boxes[other]))
        heaped = common > SEAM * np.minimum(shapely.area(boxes[one]), shapely.area(boxes[other]))
        for i in np.flatnonzero(heaped & (one < other))[:1]:
            what = f"lies on {short_name(self.names[other[i]]).name}"
            raise ImageryError(what, where=short_name(self.names[one[i]]))
        return mosaic(self.names, classes=True)

    @contextmanager
    def on(self, imagery: Imagery) -> Iterator["RasterLabels"]:
        """Open on the grid of a scene, nearest neighbour where the grids differ."""
        name = self.of(imagery)
        with open_raster(name) as source:
            _check_kind(name, source)
            shift = shift_of(imagery, source)
            if shift is not None:
                yield RasterLabels(self, Imagery(self.path, source, (1,), shift))
                return
            if source.crs and imagery.crs is None:
                do = "assign one to it: gdal_edit.py -a_srs EPSG:code FILE"
                raise LabelError(
                    "has no coordinate system, so labels cannot be placed on it", where=imagery.path, do=do
                )
            with on_grid_of(imagery, source, Resampling.nearest) as grid:
                yield RasterLabels(self, Imagery(self.path, grid, (1,)))


@dataclass(frozen=True)
class RasterLabels:
    """A classified raster on the grid of a scene."""

    rasters: ClassRasters
    grid: Imagery

    def read(self, window: Bounds) -> NDArray[np.uint8]:
        """(rows, cols) class index; nodata and what lies outside are 0. Raises LabelError for a value of no class."""
        xmin, ymin, xmax, ymax = window
        block = self.grid.read(xmin, ymin, xmax - xmin, ymax - ymin)
        values = block.pixels[0]
        known = np.array([0, *(label.value for label in self.rasters.classes)], np.int64)
        position = np.searchsorted(known, values).clip(max=len(known) - 1)
        if (known[position] != values).any():
            unknown = np.unique(values[known[position] != values])[:9].tolist()
            do = "list them among the classes"
            raise LabelError("has values of no class", where=self.rasters.path, got=unknown, do=do)
        return np.asarray(position, np.uint8)


def _found(path: Path, names: Sequence[str]) -> list[ClassLabel]:
    values: set[float] = set()
    colours: dict[int, tuple[int, ...]] = {}
    for name in names:
        with open_raster(name) as source:
            _check_kind(name, source)
            for _, window in source.block_windows(1):
                told = source.read(1, window=window, masked=True).compressed()
                values |= set(np.unique(told[np.isfinite(told)]).tolist())  # no number is no data, as in `read`
                if len(values) > MOST_VALUES:
                    do = "name the classes, or give a classified raster"
                    raise LabelError(f"has more than {MOST_VALUES} different values", where=name, do=do)
            if source.colorinterp[0] == ColorInterp.palette:
                colours |= source.colormap(1)
    numbers = check_values(path, np.array(sorted(values - {0})), "the classified raster")
    shown = {v: c[:3] for v, c in colours.items() if any(c[:3])}
    return [
        ClassLabel(v, str(v), (shown[v][0], shown[v][1], shown[v][2]) if v in shown else colour(i))
        for i, v in enumerate(numbers.tolist())
    ]


def _check_kind(name: str, source: rasterio.DatasetReader) -> None:
    if source.count > 1:
        do = "choose its band with gdal_translate -b"
        raise LabelError("expected one band of classes", where=name, got=f"{source.count} bands", do=do)
