"""Detect Objects Using Deep Learning: a model and imagery in, features out (ArcGIS formats F.4).

The raster function of the model finds objects block by block; here they get map coordinates, the copies that two blocks
found are merged, and the layer is written with the name, version and digest of the model that made it.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import shapely
from numpy.typing import NDArray

from registry.dlpk import ModelFolder
from registry.errors import ImageryError
from tasks.feature_sets import Detection, Field
from tasks.imagery import Imagery
from tasks.inference import (
    AnyFunction,
    band_indexes,
    blocks,
    check_tool,
    count_blocks,
    load_function,
    open_working_grid,
)
from tasks.inference_options import DetectOptions, ModelSource
from tasks.overlap import keep_best
from tasks.progress import OnProgress, Progress, ignore
from tasks.results import driver_of, write_features
from tasks.sources import Imageries
from tasks.tiling import Window, block_windows


def detect_objects(
    model: ModelFolder,
    imagery: Imageries,
    out: Path,
    options: DetectOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
) -> Path:
    """Find the objects of a model in a raster, or in the mosaic of several; write them to `out`.

    Polygons in the raster's CRS with Class, Value, Confidence (0-100) and the model. An existing `out` is replaced, and
    only by a whole result. Raises ImageryError for a raster without CRS or without the model's bands, OptionsError for
    a model or an argument that does not fit, RasterFunctionError when the model fails.
    """
    check_tool(model, "detect-objects")
    driver_of(out)
    function = load_function(model, options)
    with open_working_grid(imagery, model.emd, options.cell_size) as image:
        if image.crs is None:
            do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
            raise ImageryError("has no coordinate system, so features would lie nowhere", where=image.path, do=do)
        found, polygons = _find(function, image, on_progress)
        crs = image.crs
    kept = np.ones(len(found), dtype=bool)
    if options.run_nms and found:
        confidences = np.array([d.confidence for d in found])
        kept = keep_best(polygons, confidences, np.array([d.class_name for d in found]), options.max_overlap_ratio)
    source = source or ModelSource.of(model)
    columns = _columns([d for d, stays in zip(found, kept, strict=True) if stays], function.fields, source)
    return write_features(out, polygons[kept], columns, crs, source.tags())


def _find(
    function: AnyFunction, image: Imagery, on_progress: OnProgress
) -> tuple[list[Detection], NDArray[np.object_]]:
    """All detections of all blocks, and their polygons in map coordinates."""
    found: list[Detection] = []
    polygons: list[shapely.Polygon] = []
    total = count_blocks(image, function.configuration)
    bands, c = band_indexes(image, function.configuration), function.configuration
    whole = Window(0, 0, image.width, image.height)
    windows = block_windows(whole, (image.width, image.height), (c.tx, c.ty), c.fixed_tile_size)
    with closing(blocks(image, function.configuration, bands, windows)) as ahead:
        for done, (col, row, block) in enumerate(ahead, 1):
            if block.valid.any():
                here = function.vectorize(block.pixels, block.valid, at=(col, row))
                found += here
                polygons += (_on_map(detection, col, row, image) for detection in here)
            on_progress(Progress("detect objects", done, total, "tiles", f"{len(found)} found"))
    return found, np.array(polygons, dtype=object)


def _on_map(detection: Detection, col: int, row: int, image: Imagery) -> shapely.Polygon:
    grid = image.transform
    rings = [[grid @ (col + x, row + y) for x, y in ring] for ring in detection.rings]
    return shapely.Polygon(rings[0], rings[1:])


def _columns(found: Sequence[Detection], fields: Sequence[Field], source: ModelSource) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "Class": np.array([d.class_name for d in found], dtype=object),
        "Confidence": np.array([d.confidence for d in found], dtype=np.float64),
    }
    if all(d.value is not None for d in found):  # also where nothing was found: the same schema
        columns["Value"] = np.array([d.value for d in found], dtype=np.int32)
    columns |= {field.name: _column(found, field) for field in fields}
    return columns | source.columns(len(found))


def _column(found: Sequence[Detection], field: Field) -> Any:
    """What the function tells of its own; a number that is missing is null."""
    values = [d.extra.get(field.name) for d in found]
    if field.kind is str:
        return np.array([None if v is None else str(v) for v in values], dtype=object)
    kind = "Int64" if field.kind is int else "Float64"
    return pandas.Series([None if v in (None, "") else field.kind(v) for v in values], dtype=kind)
