"""Classify Pixels Using Deep Learning: a model and imagery in, a raster of class values out (ArcGIS formats F.4)."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio.crs import CRS

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from tasks.band_choice import band_indexes
from tasks.class_blocks import write_classes
from tasks.class_products import check_products, finish
from tasks.imagery import gdal_settings, open_imagery, open_in_pixels
from tasks.inference import AnyFunction, check_tool, load_function, run_facts
from tasks.inference_options import ClassifyOptions, ModelSource
from tasks.parts import wanted_part
from tasks.placement import placement_of
from tasks.progress import OnProgress, ignore
from tasks.projecting import projected_between
from tasks.replacing import check_out
from tasks.results import RASTERS, write_features
from tasks.run_folder import Share, is_begun
from tasks.sources import Imageries, files_read, refuse_overwriting
from tasks.working_grid import items_of, open_working_grid


def classify_pixels(
    model: ModelFolder,
    imagery: Imageries,
    out: Path,
    options: ClassifyOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
    share: Share | None = None,
) -> Path:
    """Give every pixel of a raster, or of the mosaic of several, the value of a class; write a GeoTIFF to `out` (.tif).

    0 is background; nodata, the highest value that no class has, is what the input has not. The grid is the working
    grid: the raster's own, unless it was resampled to the model's cell size (see `training_cell`). Memory follows the
    block, not the raster. Items that are processed separately give a raster each in the folder `out`. With a `share`
    only that part of the work is done, see `tasks.run_folder`. Raises
    ImageryError for a raster without the model's bands, OptionsError for a model or an argument that does not fit,
    RasterFunctionError when the model fails.
    """
    check_tool(model, "classify-pixels")
    source = source or ModelSource.of(model)
    load = cache(lambda: load_function(model, options))  # once for all items; not at all where none is left to do
    classify = partial(_classify, model, load, options, source, on_progress, share)
    if options.processing_mode == "PROCESS_AS_MOSAICKED_IMAGE":
        classify(imagery, out)()
        return out
    items = _results(imagery, out, options)
    anew = options.overwrite_attachments
    _one_by_one(classify, {i: r for i, r in items.items() if anew or not r.is_file() or is_begun(r)})
    if options.out_featureclass and not share:
        _outlines(items, Path(options.out_featureclass), source, in_pixels=options.use_pixelspace)
    return out


def _one_by_one(classify: Callable[[str, Path], Callable[[], None]], items: Mapping[str, Path]) -> None:
    """A thread puts a result together while the next item is on its way."""
    with ThreadPoolExecutor(1, "finisher") as finisher:
        before: Future[None] | None = None
        for item, result in items.items():
            rest = classify(item, result)
            if before:
                before.result()  # no more than one waits
            before = finisher.submit(rest)
        if before:
            before.result()


def _classify(
    model: ModelFolder,
    load: Callable[[], AnyFunction],
    options: ClassifyOptions,
    source: ModelSource,
    on_progress: OnProgress,
    share: Share | None,
    imagery: Imageries,
    out: Path,
) -> Callable[[], None]:
    """Returns what is left to do when the imagery has been looked at: to write the result."""
    function = load()
    with open_working_grid(imagery, model.emd, options) as whole:
        read = files_read(imagery)
        refuse_overwriting(read, out, *filter(None, [options.probabilities]))
        image = wanted_part(whole, options)
        check_products(image, out, options)
        bands, tell = band_indexes(image, function.configuration), (on_progress, "classify pixels")
        facts = run_facts("classify-pixels", model, source, [whole], options, read)

        def second_look() -> None:
            if options.probabilities:
                again, shares = options.for_probabilities(), Path(options.probabilities)
                classify_pixels(model, imagery, shares, again, source=source, on_progress=on_progress, share=share)

        put_together = write_classes(function, model, image, bands, out, source, tell, facts, share, second_look)

        def rest() -> None:
            then = partial(finish, image=image, classes=model.emd.classes, options=options, source=source)
            with gdal_settings():
                put_together(then)

        if image.placed:
            return rest
        rest()  # takes what places the result out of the imagery
        return lambda: None


def _results(imagery: Imageries, out: Path, options: ClassifyOptions) -> dict[str, Path]:
    """The raster that each item gives, in the folder `out`, named like it. Raises OptionsError before work begins."""
    if out.suffix.lower() in RASTERS:
        raise OptionsError("expected a folder for rasters that are processed separately", where=out, got=out.suffix)
    if options.polygons or options.probabilities:
        do = "process the rasters as one mosaic, or run the tool once for each"
        raise OptionsError("polygons and probabilities are one file, of one raster", do=do)
    if options.out_featureclass:
        check_out(Path(options.out_featureclass), options.mask)
    items = [str(item) for item in items_of(imagery, options.processing_mode)]
    results = [out / f"{Path(item).stem}.tif" for item in items]
    if len(set(results)) < len(results):
        raise OptionsError("several rasters are of one name", where=out, do="rename them, or give folders apart")
    refuse_overwriting(items, *results)
    return dict(zip(items, results, strict=True))


def _outlines(results: Mapping[str, Path], out: Path, source: ModelSource, *, in_pixels: bool) -> None:
    """A feature for each raster that lies on the map: its outline, its name and where its result is."""
    rows: list[tuple[str, str]] = []
    shapes, crs = [], None
    for item, result in results.items():
        with open_in_pixels(item) if in_pixels else open_imagery(item, straighten=True) as image:
            if image.placed and image.crs is None:
                continue
            place, whole = placement_of(image), shapely.box(0, 0, image.width, image.height)
            crs = crs or place.crs
            outline = shapely.transform(whole, place.to_map)
            shapes.append(projected_between(np.array([outline]), place.crs, crs)[0])
        rows.append((Path(item).name, str(result)))
    names = {name: np.array([row[i] for row in rows], dtype=object) for i, name in enumerate(("Image", "Result"))}
    columns: dict[str, Any] = names | source.columns(len(rows))
    write_features(out, np.array(shapes, dtype=object), columns, crs or CRS.from_epsg(4326), source.tags())
