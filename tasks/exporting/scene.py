"""Rasters and their labels on working grids, cut into labelled chips.

    with open_scenes(imagery, labels, options) as scenes:
        for scene in scenes:                    # a raster, turned by one of the angles
            for window in scene.windows():      # whole pixels, in a fixed order
                if scene.survey(window).reason is None:
                    chip = scene.cut(window)

The same arguments give the same scenes and windows everywhere, so a worker opens them again by path.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import ImageryError, OptionsError
from tasks.chips import Chip, Grid
from tasks.exporting.label_sources import Labels
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene_labels import Held, SceneLabels, inside
from tasks.exporting.turning import turn_block
from tasks.imagery import (
    Block,
    Imagery,
    data_bands,
    gdal_settings,
    one_thread,
    open_raster,
    refuse_scattered,
    resampled_grid,
    same_cell,
    scattered,
    short_name,
)
from tasks.labels import Features, read_areas
from tasks.mosaic import alike, honest, laid_on, mosaic
from tasks.nearby import nearby
from tasks.placement import bent_to, in_pixels
from tasks.sources import Imageries, find_rasters
from tasks.windows import Bounds, Place, Window, angles, grid

OUTSIDE_MASK, NO_FEATURE, NODATA = "outside the mask polygons", "no feature", "nodata"  # why a window is left out
ELSEWHERE, NO_CHIP = "outside the imagery or the extent", "only in chips that were left out"  # why a feature is lost
MOST_OPEN = 64  # rasters at a time
FAR, IN_A_ROW = 1e6, 1000  # pixels between rasters that have no place, as they are laid out for a split
SLACK = 0.01  # pixels by which a chip may stick out of a mask polygon: coordinates are rounded


@dataclass(frozen=True)
class Survey:
    """What a window holds, and why it is left out; None = it is worth a chip."""

    reason: str | None
    held: Held

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index from 1: one for each object, or each class once."""
        return self.held.labels


@dataclass(frozen=True)
class Scene:
    """An open raster with its labels in pixels. Made by `open_scenes`; not to be shared between threads."""

    imagery: Imagery
    labels: SceneLabels
    options: ExportOptions
    carries: str
    area: Bounds  # chips are cut inside, nothing outside is seen
    angle: float = 0.0
    second: Imagery | None = None  # in_raster2, on the grid of the imagery
    within: shapely.Geometry | None = None  # in_mask_polygons, in pixels

    def windows(self) -> list[Window]:
        """Row by row from the upper left corner of the area, or around each feature (ArcGIS formats D.7)."""
        o = self.options
        if self.is_outside:
            return []
        around = self.labels.windows(self.area)
        return grid(self.area, (o.tile_size_x, o.tile_size_y), (o.stride_x, o.stride_y)) if around is None else around

    def survey(self, window: Window) -> Survey:
        """Without a look at the pixels, except where the raster can have nodata."""
        place = self._place(window)
        if self.within is not None and not shapely.covers(self.within, place.outline):
            return Survey(OUTSIDE_MASK, Held(np.zeros(0, np.int64)))
        held = self.labels.held(place, window, None)
        if self._needs_labels and not len(held.labels):
            return Survey(NO_FEATURE, held)
        valid = self._valid(place)
        if valid is None or valid.all():
            return Survey(None, held)
        if 1 - valid.mean() > self.options.max_nodata_share:
            return Survey(NODATA, held)
        held = self.labels.held(place, window, valid)
        return Survey(NO_FEATURE if self._needs_labels and not len(held.labels) else None, held)

    def cut(self, window: Window) -> Chip:
        """The picture and the labels of one window; what is outside the area is nodata."""
        place = self._place(window)
        block = self._read(self.imagery, place)
        other = self._read(self.second, place) if self.second else None
        if other is not None and not (both := block.valid & other.valid).all():
            for one in (block, other):
                np.copyto(one.pixels, 0, where=~both)
            block = Block(block.pixels, both)
        image2 = None if other is None else other.pixels
        chip = Chip("", block.pixels, block.valid, image2=image2, grid=self._grid(place))
        return self.labels.fill(chip, place, window)

    def bounds(self, window: Window) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax of a window on the map, with its corners where it is turned; see `Scenes.ground`."""
        corners = shapely.get_coordinates(self._place(window).outline)
        xs, ys = zip(*(self.imagery.transform @ tuple(corner) for corner in corners.tolist()), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def is_outside(self) -> bool:
        """Whether nothing of it lies in the extent."""
        return self.area[0] >= self.area[2] or self.area[1] >= self.area[3]

    @property
    def far(self) -> bool:
        """Whether any of its pixels lie on another machine."""
        return any(raster.far for raster in (self.imagery, self.second) if raster)

    def _place(self, window: Window) -> Place:
        xmin, ymin, xmax, ymax = window[:4]
        return Place((xmin, ymin, xmax, ymax), self.angle, self.area)

    @property
    def _needs_labels(self) -> bool:
        """Whatever is asked for, where the format has just one label a chip."""
        return self.carries == "label" or (self.carries != "nothing" and not self.options.output_nofeature_tiles)

    def _valid(self, place: Place) -> NDArray[np.bool_] | None:
        """None = every pixel."""
        rasters = [raster for raster in (self.imagery, self.second) if raster]
        if all(raster.always_valid for raster in rasters) and len(rasters) == 1:
            if place.is_whole:
                return None
            if not place.angle:
                return inside(place)
        shown = [self._shown(raster, place) for raster in rasters]
        return np.asarray(np.logical_and.reduce(shown))

    def _shown(self, imagery: Imagery, place: Place) -> NDArray[np.bool_]:
        if place.angle:
            return self._read(imagery, place).valid
        xmin, ymin, xmax, ymax = place.window
        valid = imagery.valid(xmin, ymin, xmax - xmin, ymax - ymin)
        return valid if place.is_whole else valid & inside(place)

    def _read(self, imagery: Imagery, place: Place) -> Block:
        xmin, ymin, xmax, ymax = place.reach
        block = imagery.read(xmin, ymin, xmax - xmin, ymax - ymin)
        if not place.is_whole:
            block = Block(block.pixels, block.valid & inside(place))
            np.copyto(block.pixels, 0, where=~block.valid)
        return turn_block(block, place) if place.angle else block

    @cached_property
    def _to_map(self) -> Affine:
        """Columns to the right and rows downwards as negative numbers where the export is in pixels (F.1)."""
        return self.imagery.transform if self.options.reference_system == "MAP_SPACE" else Affine.scale(1, -1)

    @cached_property
    def _crs(self) -> str:
        in_map = self.options.reference_system == "MAP_SPACE"
        return self.imagery.crs.to_wkt() if self.imagery.crs and in_map else ""

    def _grid(self, place: Place) -> Grid:
        moved = self._to_map @ place.from_chip
        a, b, c, d, e, f = (number + 0.0 for number in moved[:6])  # -0.0 would be written as such
        return Grid(self._crs, (a, b, c, d, e, f))


@dataclass
class Scenes(Sequence[Scene]):
    """The scenes of an export: each raster, once for every angle. Rasters are opened when their scene is asked for."""

    names: tuple[str, ...]  # that GDAL opens
    labels: Labels
    options: ExportOptions
    second: tuple[str, ...] = ()
    _open: OrderedDict[int, tuple[Scene, ExitStack]] = field(default_factory=OrderedDict)
    _parents: list[object] = field(default_factory=list)

    @property
    def classes(self) -> tuple[ClassLabel, ...]:
        return self.labels.classes

    @cached_property
    def angles(self) -> tuple[float, ...]:
        return angles(self.options.rotation_angle)

    def __len__(self) -> int:
        return len(self.names) * len(self.angles)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self._open:
            with ExitStack() as stack:
                self._open[index] = self._opened(index, stack), stack.pop_all()
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(index)
        return self._open[index][0]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()

    def reopen(self) -> None:
        """In a fork: the rasters that lie open are the parent's, who closes them."""
        self._parents, self._open = [*self._parents, self._open], OrderedDict()

    def lost(self, surveys: Iterable[Survey]) -> Counter[str]:
        """Features that no chip shows, by reason, once all windows were surveyed."""
        source = self.labels.counted
        if source is None:
            return Counter()
        reasons = np.full(len(source.values), ELSEWHERE, object)
        shown = np.zeros(len(source.values), bool)
        for survey in surveys:
            for why, rows in survey.held.dropped.items():
                reasons[rows] = why
            if survey.reason is None:
                shown[survey.held.features] = True
            else:
                reasons[survey.held.features] = NO_CHIP
        return source.lost + Counter(reasons[~shown].tolist())

    def ground(self, index: int, window: Window) -> tuple[float, float, float, float]:
        """What a window of a scene covers on the map; a raster that has no place there lies away from all others."""
        imagery, (west, south, east, north) = self[index].imagery, self[index].bounds(window)
        if imagery.crs or not imagery.own_transform.is_identity:
            return west, south, east, north
        y, x = (FAR * n for n in divmod(index // len(self.angles), IN_A_ROW))
        return west + x, south + y, east + x, north + y

    def refuse_outside(self) -> None:
        """Raises OptionsError when the extent meets no raster."""
        if self.options.extent and all(scene.is_outside for scene in self._each()):
            first = self[0].imagery
            others = " and all other rasters" if len(self.names) > 1 else ""
            what = f"extent lies outside {first.path.name} {first.bounds}{others}"
            raise OptionsError(what, got=self.options.extent, do="give it in the map units of the imagery")

    def refuse_elsewhere(self) -> None:
        """Raises LabelError when no feature lies on any raster."""
        source, space = self.labels.source, self.options.reference_system
        if isinstance(source, Features) and not any(
            len(source.on(scene.imagery, space).labels) for scene in self._each()
        ):
            source.refuse_elsewhere(self[0].imagery, space)

    def _each(self) -> Iterator[Scene]:
        return (self[i] for i in range(0, len(self), len(self.angles)))

    def _opened(self, index: int, stack: ExitStack) -> Scene:
        number, turn = divmod(index, len(self.angles))
        imagery = stack.enter_context(_imagery(self.names[number], self.options))
        labels = stack.enter_context(self.labels.on(imagery))
        second = None
        if self.second:
            name = self.second[number if len(self.second) > 1 else 0]
            second = stack.enter_context(laid_on(imagery, name))
            if self.labels.carries == "mask" and second.bands != imagery.bands:
                do = f"give the same {imagery.bands} of both dates"
                raise ImageryError("in_raster2: has other bands", where=second.path, got=second.bands, do=do)
        within = _mask(self.options, imagery)
        area, angle = _area(imagery, self.options), self.angles[turn]
        return Scene(imagery, labels, self.options, self.labels.carries, area, angle, second, within)


@contextmanager
def open_scenes(
    imagery: Imageries, labels: Path | None, options: ExportOptions, classes: Sequence[ClassLabel] = ()
) -> Iterator[Scenes]:
    """Raises ImageryError or LabelError when the two do not fit, OptionsError when the extent is elsewhere."""
    with gdal_settings(), one_thread():
        names = _named(find_rasters(imagery), options)
        second = _named(find_rasters(options.in_raster2 or ()), options) if _shows_two(options) else ()
        if len(second) > 1 and len(second) != len(names):
            what = f"expected one second raster, or one for each of {len(names)}"
            raise OptionsError(f"in_raster2: {what}", got=len(second), do="sort both by name, or give mosaics")
        with open_raster(names[0]) as first:
            known = Labels.read(labels, options, classes, first.crs, [short_name(name) for name in names])
        scenes = Scenes(names, known, options, second)
        try:
            scenes.refuse_outside()
            scenes.refuse_elsewhere()
            yield scenes
        finally:
            scenes.close()


def _shows_two(options: ExportOptions) -> bool:
    """A format with sides makes an export of its own of the second raster."""
    return bool(options.in_raster2) and not hasattr(plugins.load(tasks.formats, options.metadata_format), "SIDES")


def _named(names: tuple[str, ...], options: ExportOptions) -> tuple[str, ...]:
    """Rasters of one kind, or their mosaic."""
    if len(names) == 1:
        return names
    names = alike(names, warp=options.warp, any_cell=options.cell_size is not None)
    return (mosaic(names),) if options.processing_mode == "PROCESS_AS_MOSAICKED_IMAGE" else names


@contextmanager
def _imagery(name: str, options: ExportOptions) -> Iterator[Imagery]:
    """A raster on the working grid of an export; unlike for inference it may be rotated, or have no place at all."""
    path, cell = short_name(name), options.cell_size
    with open_raster(honest(name) if cell else name) as source:
        bands = data_bands(path, source)
        if options.reference_system == "MAP_SPACE":
            refuse_scattered(path, source, "put it on a grid with gdalwarp, or choose reference_system IMAGE_SPACE")
        if cell is None or same_cell(source.transform, (cell, cell)):
            yield Imagery(path, source, bands, placed=not scattered(source))
            return
        if source.transform.b or source.transform.d:
            do = "straighten it with gdalwarp, or leave cell_size empty"
            raise ImageryError("is rotated against its coordinate system", where=path, do=do)
        with WarpedVRT(source, **resampled_grid(source, (cell, cell))) as working:
            yield Imagery(path, working, bands, placed=not scattered(source))


def _area(imagery: Imagery, options: ExportOptions) -> Bounds:
    if options.extent is None:
        return 0, 0, imagery.width, imagery.height
    west, south, east, north = options.extent
    corners = [~imagery.transform @ xy for xy in ((west, north), (east, south), (west, south), (east, north))]
    xs, ys = zip(*corners, strict=True)
    return (
        max(0, round(min(xs))),
        max(0, round(min(ys))),
        min(imagery.width, round(max(xs))),
        min(imagery.height, round(max(ys))),
    )


def _mask(options: ExportOptions, imagery: Imagery) -> shapely.Geometry | None:
    """The mask polygons as one area in pixels, ready to be asked often."""
    if options.in_mask_polygons is None:
        return None
    areas = read_areas(nearby(Path(options.in_mask_polygons)))
    if options.reference_system == "MAP_SPACE" and imagery.crs and areas.crs is not None:
        shapes = geopandas.GeoSeries(np.concatenate([*areas.geometries.batches()]), crs=areas.crs)
        whole = shapely.union_all(in_pixels(bent_to(shapes, imagery), imagery, options.in_mask_polygons))
    else:
        polygons = areas.on(imagery, options.reference_system)
        whole = shapely.union_all([shapely.union_all(batch) for batch in polygons.geometries.batches()])
    within = shapely.buffer(whole, SLACK)
    shapely.prepare(within)
    return within
