"""Classify Pixels Using Deep Learning: a model and imagery in, a raster of class values out (ArcGIS formats F.4)."""

from pathlib import Path

from registry.dlpk import ModelFolder
from tasks.class_blocks import write_classes
from tasks.inference import band_indexes, check_tool, load_function, open_working_grid, run_facts
from tasks.inference_options import ClassifyOptions, ModelSource
from tasks.progress import OnProgress, ignore
from tasks.run_folder import Share
from tasks.sources import Imageries


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
    block, not the raster. With a `share` only that part of the work is done, see `tasks.run_folder`. Raises
    ImageryError for a raster without the model's bands, OptionsError for a model or an argument that does not fit,
    RasterFunctionError when the model fails.
    """
    check_tool(model, "classify-pixels")
    function = load_function(model, options)
    with open_working_grid(imagery, model.emd, options.cell_size) as image:
        bands, tell = band_indexes(image, function.configuration), (on_progress, "classify pixels")
        source = source or ModelSource.of(model)
        facts = run_facts("classify-pixels", model, source, [image], options)
        write_classes(function, model, image, bands, out, source, tell, facts, share)
    return out
