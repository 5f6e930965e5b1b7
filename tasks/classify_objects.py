"""Classify Objects Using Deep Learning: a model, imagery and features in, features with their class out (F.4).

Each feature's surroundings are cut out of the imagery as the model wants them: a tile around its middle, or its
bounding box. Without features every raster is one object, and the result is the rasters' outlines.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from registry.dlpk import ModelFolder
from registry.errors import LabelError, OptionsError
from tasks.band_choice import band_indexes
from tasks.feature_files import read_features, with_whole_numbers
from tasks.feature_sets import Labelling
from tasks.imagery import Block, Imagery, open_imagery, open_in_pixels
from tasks.inference import AnyFunction, check_tool, load_function
from tasks.inference_options import ClassifyObjectsOptions, ModelSource
from tasks.likeness import Likeness
from tasks.parts import Part, Readable, wanted_part
from tasks.pixel_features import burn_each
from tasks.placement import in_pixels, placement_of
from tasks.progress import OnProgress, Progress, ignore
from tasks.projecting import system
from tasks.replacing import check_out
from tasks.results import beside, driver_of, write_table
from tasks.sources import Imageries, find_rasters
from tasks.windows import around, boxed
from tasks.working_grid import open_working_grid

CONFIDENCE, IMAGE = "Confidence", "Image"  # columns of the result
STRIP = 512  # rows of the raster whose features follow each other, so that blocks are decoded once
CROPS = 64  # cut out at a time
TABLES = (".gpkg", ".parquet", ".geojson")  # hold rows without a geometry


def classify_objects(
    model: ModelFolder,
    imagery: Imageries,
    out: Path,
    options: ClassifyObjectsOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
) -> Path:
    """Tell the class of every feature, or of every raster; write them to `out` (as of Detect Objects).

    The columns of the features stay, and ours get a number where they have such a name. `class_label_field` (several
    labels: joined by ;), Confidence as the function gives it (ours: 0-1) and the model come with them. What lies
    outside of the imagery or has no valid pixel has none.
    Raises ImageryError, LabelError for features that cannot be placed, OptionsError, RasterFunctionError.
    """
    check_tool(model, "classify-objects")
    check_out(out, options.in_features, options.mask)
    to = options.output_coordinate_system and system(options.output_coordinate_system).to_wkt()
    function = load_function(model, options)
    source = source or ModelSource.of(model)
    if options.in_features:
        table, labels = _features(function, model, imagery, options, on_progress)
    else:
        table, labels = _rasters(function, imagery, out, options, on_progress)
    if to and getattr(table, "crs", None):
        table = table.to_crs(to)
    columns = {**_columns(labels, options.class_label_field), **source.columns(len(labels))}
    return write_table(out, table.assign(**beside(table, columns, driver_of(out))), source.tags())


# -- features ----------------------------------------------------------------------------------------------------------
def _features(
    function: AnyFunction,
    model: ModelFolder,
    imagery: Imageries,
    options: ClassifyObjectsOptions,
    on_progress: OnProgress,
) -> tuple[geopandas.GeoDataFrame, list[Labelling | None]]:
    table = read_features(Path(str(options.in_features)))
    if options.class_label_field.lower() in {str(name).lower() for name in table}:
        what, do = "class_label_field: the features have such a column", "choose another name"
        raise OptionsError(what, where=options.in_features, got=options.class_label_field, do=do)
    labels: list[Labelling | None] = [None] * len(table)
    with open_working_grid(imagery, model.emd, options) as image:
        shapes = in_pixels(table.geometry, image, str(options.in_features))
        rows = _wanted(_inside(shapes, image), shapes, wanted_part(image, options))
        if len(table) and not len(rows):
            do = "check the coordinate systems of both"
            raise LabelError(f"has no feature inside {image.path.name}", where=options.in_features, do=do)
        likeness = Likeness(image.path, function.configuration.trained)
        for done in range(0, len(rows), CROPS):
            some = rows[done : done + CROPS].tolist()
            crops = {row: _crop(function, image, shapes[row]) for row in some}
            for crop in crops.values():
                likeness.see(crop)
            seen = [row for row, crop in crops.items() if crop.valid.any()]
            told = function.classify([(crops[row].pixels, crops[row].valid) for row in seen])
            for row, labelling in zip(seen, told, strict=True):
                labels[row] = labelling
            on_progress(Progress("classify objects", done + len(some), len(rows), "features"))
        likeness.judge()
    return with_whole_numbers(Path(str(options.in_features)), table), labels


def _inside(shapes: NDArray[np.object_], image: Imagery) -> NDArray[np.int64]:
    """Rows of the features that touch the image, in the order in which it is read."""
    bounds = np.nan_to_num(shapely.bounds(shapes).reshape(-1, 4), nan=-np.inf)
    high = np.array([image.width, image.height])
    rows = np.flatnonzero(((bounds[:, :2] < high) & (bounds[:, 2:] > 0)).all(axis=1))
    return rows[np.lexsort((bounds[rows, 0], bounds[rows, 1] // STRIP))]


def _wanted(rows: NDArray[np.int64], shapes: NDArray[np.object_], part: Readable) -> NDArray[np.int64]:
    """Those that touch extent and mask."""
    if not isinstance(part, Part):
        return rows
    return rows[part.wants(shapely.transform(shapes[rows], lambda xy: xy - part.window[:2]))]


def _crop(function: AnyFunction, image: Imagery, shape: shapely.Geometry) -> Block:
    """What the model sees of a feature (EMD CropSizeFixed, BlackenAroundFeature, ArcGIS formats A.2)."""
    wanted = function.configuration
    bounds = np.array([shapely.bounds(shape)])
    side = (wanted.tx, wanted.ty)
    if wanted.crop_size_fixed or not shape.area:  # a point has no box
        window = around((bounds[:, :2] + bounds[:, 2:]) / 2, side)[0]
    else:
        window = boxed(bounds, (0, 0, image.width, image.height))[0]
    block = _cut(image, window.tolist(), band_indexes(image, wanted), side)
    if wanted.blacken_around_feature and shape.area:
        rows, cols = block.valid.shape
        xmin, ymin, xmax, ymax = window
        scale = [cols / (xmax - xmin), rows / (ymax - ymin)]
        moved = shapely.transform(shape, lambda xy: (xy - [xmin, ymin]) * scale)
        block.pixels[:, ~burn_each(np.array([moved]), (cols, rows))[0]] = 0
    return block


# -- whole rasters -----------------------------------------------------------------------------------------------------
def _rasters(
    function: AnyFunction, imagery: Imageries, out: Path, options: ClassifyObjectsOptions, on_progress: OnProgress
) -> tuple[pandas.DataFrame, list[Labelling | None]]:
    if idle := [name for name in ("cell_size", "extent", "mask") if getattr(options, name)]:
        do = "give in_features, or cut the rasters"
        raise OptionsError("without features each raster is one object, whole and of any cell size", got=idle, do=do)
    names = find_rasters(imagery)
    labels: list[Labelling | None] = []
    outlines: list[Any] = []
    for first in range(0, len(names), CROPS):
        blocks, places = zip(*_whole(function, names[first : first + CROPS], options), strict=True)
        outlines += places
        told = iter(function.classify([(b.pixels, b.valid) for b in blocks if b.valid.any()]))
        labels += [next(told) if block.valid.any() else None for block in blocks]
        on_progress(Progress("classify objects", len(labels), len(names), "rasters"))
    rows = pandas.DataFrame({IMAGE: [Path(name).name for name in names]})
    placed = [outline for outline in outlines if outline is not None]
    if placed:
        crs = placed[0].crs
        shapes = [None if place is None else place.to_crs(crs).iloc[0] for place in outlines]
        return geopandas.GeoDataFrame(rows, geometry=shapes, crs=crs), labels
    if out.suffix.lower() not in TABLES:
        do = f"choose {', '.join(TABLES)}"
        raise OptionsError("the rasters have no place on the map, so the result is a table", where=out, do=do)
    return rows, labels


def _whole(
    function: AnyFunction, names: Sequence[str], options: ClassifyObjectsOptions
) -> Iterator[tuple[Block, geopandas.GeoSeries | None]]:
    """Each raster as one picture no larger than the model's tile, and its outline where it has a place on the map."""
    wanted = function.configuration
    for name in names:
        with open_in_pixels(name) if options.use_pixelspace else open_imagery(name, straighten=True) as image:
            bands, side = band_indexes(image, wanted), (wanted.tx, wanted.ty)
            block = _cut(image, (0, 0, image.width, image.height), bands, side)
            if wanted.crop_size_fixed:
                block = _centred(block, side)
            outline = _outline(image)
        yield block, outline


def _outline(image: Imagery) -> geopandas.GeoSeries | None:
    if image.placed and image.crs is None:
        return None
    place, whole = placement_of(image), shapely.box(0, 0, image.width, image.height)
    return geopandas.GeoSeries([shapely.transform(whole, place.to_map)], crs=place.crs.to_wkt())


def _centred(block: Block, side: tuple[int, int]) -> Block:
    """In the middle of a tile of `side` columns, rows; nothing is valid around it."""
    rows, cols = block.valid.shape
    left, top = (side[0] - cols) // 2, (side[1] - rows) // 2
    place = (slice(top, top + rows), slice(left, left + cols))
    tile = Block(np.zeros((len(block.pixels), side[1], side[0]), block.pixels.dtype), np.zeros(side[::-1], bool))
    tile.pixels[:, *place], tile.valid[place] = block.pixels, block.valid
    return tile


# -- both --------------------------------------------------------------------------------------------------------------
def _cut(image: Imagery, window: Sequence[int], bands: tuple[int, ...] | None, side: tuple[int, int]) -> Block:
    """The window xmin ymin xmax ymax; a larger one than `side` is scaled down to it while it is read."""
    xmin, ymin, xmax, ymax = window
    share = min(side[0] / (xmax - xmin), side[1] / (ymax - ymin))
    if share >= 1:
        return image.read(xmin, ymin, xmax - xmin, ymax - ymin, bands)
    shape = max(1, round((ymax - ymin) * share)), max(1, round((xmax - xmin) * share))
    if image.averaged_wrongly:
        return _averaged(image.read(xmin, ymin, xmax - xmin, ymax - ymin, bands), shape)
    place = Window(xmin, ymin, xmax - xmin, ymax - ymin)
    indexes = [image.data_bands[band] for band in bands or range(image.bands)]
    how = {"window": place, "resampling": Resampling.average}
    pixels = image.dataset.read(indexes, out_shape=(len(indexes), *shape), **how)
    valid = np.ones(shape, bool) if image.always_valid else image.told(out_shape=shape, **how)
    np.copyto(pixels, 0, where=~valid)
    return Block(pixels, valid)


def _averaged(block: Block, shape: tuple[int, int]) -> Block:
    """Scaled down to `shape`, of which each pixel is the mean of what is valid in it."""
    rows, cols = (np.arange(small) * large // small for small, large in zip(shape, block.valid.shape, strict=True))

    def sums(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=-2, dtype=np.float64), cols, axis=-1)

    count = sums(block.valid)
    means = sums(block.pixels) / count.clip(min=1)  # what is not valid is 0
    whole = block.pixels.dtype.kind in "iu"
    return Block((means.round() if whole else means).astype(block.pixels.dtype), count > 0)


def _columns(labels: Sequence[Labelling | None], field: str) -> dict[str, Any]:
    names = [None if told is None else ";".join(told.names) for told in labels]
    if all(told is None or len(told.confidences) == 1 for told in labels):
        sure: Any = np.array([np.nan if told is None else told.confidences[0] for told in labels], np.float64)
    else:  # of several labels the confidence of every class is told
        sure = [None if told is None else ";".join(f"{c:.4f}" for c in told.confidences) for told in labels]
    return {field: names, CONFIDENCE: sure}
