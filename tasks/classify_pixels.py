"""Classify Pixels Using Deep Learning: a model and imagery in, a raster of class values out (ArcGIS formats F.4)."""

from pathlib import Path

import numpy as np
from rasterio.windows import Window

from registry.dlpk import ModelFolder
from registry.errors import RasterFunctionError
from tasks.host import RasterFunction
from tasks.inference import blocks, check_tool, count_blocks, open_working_grid
from tasks.inference_options import ClassifyOptions, ModelSource
from tasks.progress import OnProgress, Progress, ignore
from tasks.results import class_raster, pixel_type


def classify_pixels(
    model: ModelFolder,
    imagery: Path,
    out: Path,
    options: ClassifyOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
) -> Path:
    """Give every pixel of a raster the value of a class; write a cloud optimised GeoTIFF to `out` (.tif).

    0 is background; nodata, the highest value that no class has, is what the input has not. The grid is the working
    grid: the raster's own, unless it was resampled to the model's cell size (see `training_cell`). Memory follows the
    block, not the raster. Raises ImageryError for a raster without the model's bands, OptionsError for a model or an
    argument that does not fit, RasterFunctionError when the model fails.
    """
    check_tool(model, "classify-pixels")
    function = RasterFunction.load(model, device=options.device, arguments=options.arguments)
    source, classes = source or ModelSource.of(model), model.emd.classes
    with open_working_grid(imagery, model.emd, options.cell_size) as image:
        info = function.update_raster_info(np.dtype(image.dtype).str[1:], image.bands)
        dtype, nodata = kind = pixel_type(info.pixel_type, classes)
        total = count_blocks(image, function.configuration)
        with class_raster(out, image, bands=info.bands, kind=kind, classes=classes, tags=source.tags()) as raster:
            for done, (col, row, block) in enumerate(blocks(image, function.configuration), 1):
                if block.valid.any():
                    pixels, valid = function.update_block(block.pixels, block.valid, at=(col, row))
                    rows, cols = min(pixels.shape[1], image.height - row), min(pixels.shape[2], image.width - col)
                    cut = pixels[:, :rows, :cols]
                    if dtype != "float32" and (cut.min() < np.iinfo(dtype).min or cut.max() > np.iinfo(dtype).max):
                        raise RasterFunctionError(
                            f"gave values that no class has and {dtype} cannot hold", where=model.name
                        )
                    cut = np.where(valid[:rows, :cols], cut, nodata).astype(dtype)
                    raster.write(cut, window=Window(col, row, cols, rows))
                on_progress(Progress("classify pixels", done, total, "tiles"))
    return out
