"""Detect Objects Using Deep Learning: a model and imagery in, features out (ArcGIS formats F.4).

The raster function of the model finds objects block by block; here they get map coordinates, the copies that two blocks
found are merged, and the layer is written with the name, version and digest of the model that made it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from registry.dlpk import ModelFolder
from registry.errors import ImageryError
from tasks.feature_sets import Detection, Field
from tasks.found_objects import Tick, find_objects, found_in
from tasks.inference import (
    band_indexes,
    check_tool,
    load_function,
    open_working_grid,
    run_facts,
)
from tasks.inference_options import DetectOptions, ModelSource
from tasks.overlap import keep_best
from tasks.progress import OnProgress, Progress, ignore
from tasks.results import driver_of, write_features
from tasks.run_folder import Share, run_folder
from tasks.sources import Imageries


def detect_objects(
    model: ModelFolder,
    imagery: Imageries,
    out: Path,
    options: DetectOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
    share: Share | None = None,
) -> Path:
    """Find the objects of a model in a raster, or in the mosaic of several; write them to `out`.

    Polygons in the raster's CRS with Class, Value, Confidence (0-100) and the model. An existing `out` is replaced, and
    only by a whole result; a run that was killed goes on at the blocks that were done. With a
    `share` only that part of the work is done, see `tasks.run_folder`. Raises ImageryError for a raster
    without CRS or without the model's bands, OptionsError for a model or an argument that does not fit,
    RasterFunctionError when the model fails.
    """
    check_tool(model, "detect-objects")
    driver_of(out)
    function = load_function(model, options)
    source = source or ModelSource.of(model)
    with open_working_grid(imagery, model.emd, options.cell_size) as image:
        if image.crs is None:
            do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
            raise ImageryError("has no coordinate system, so features would lie nowhere", where=image.path, do=do)
        facts = run_facts("detect-objects", model, source, [image], options)
        with run_folder(out, facts, share) as run:
            bands, tick = band_indexes(image, function.configuration), _ticking(on_progress)
            find_objects(function, image, bands, run, tick, share)
            if share:
                return out
            found, polygons = found_in(run, image.transform)
            kept = _chosen(found, polygons, options)
            columns = _columns([d for d, stays in zip(found, kept, strict=True) if stays], function.fields, source)
            return write_features(out, polygons[kept], columns, image.crs, source.tags())


def _ticking(on_progress: OnProgress) -> Tick:
    return lambda done, total, found: on_progress(Progress("detect objects", done, total, "tiles", f"{found} found"))


def _chosen(found: Sequence[Detection], polygons: NDArray[np.object_], options: DetectOptions) -> NDArray[np.bool_]:
    """Without the copies that several tiles found."""
    if not options.run_nms or not found:
        return np.ones(len(found), dtype=bool)
    confidences = np.array([d.confidence for d in found])
    return keep_best(polygons, confidences, np.array([d.class_name for d in found]), options.max_overlap_ratio)


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
