"""What the tools share that write a raster of class values: block by block through the function, into a GeoTIFF."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from registry.dlpk import ModelFolder
from registry.errors import RasterFunctionError
from tasks.imagery import Imagery
from tasks.inference import AnyFunction, blocks, count_blocks, place_of
from tasks.inference_options import ModelSource
from tasks.pairs import Pair
from tasks.progress import OnProgress, Progress
from tasks.results import class_raster, pixel_type


def write_classes(
    function: AnyFunction,
    model: ModelFolder,
    image: Imagery | Pair,
    bands: tuple[int, ...] | None,
    out: Path,
    source: ModelSource,
    tell: tuple[OnProgress, str],
) -> None:
    """The class of every pixel of the image, as a cloud optimised GeoTIFF. `tell`: whom, and the name of the tool."""
    info = function.update_raster_info(np.dtype(image.dtype).str[1:], image.bands, place_of(image))
    classes, configuration = model.emd.classes, function.configuration
    kind, total = pixel_type(info.pixel_type, classes), count_blocks(image, function.configuration)
    on_progress, tool = tell
    tags = {**{str(key): str(value) for key, value in info.key_metadata.items()}, **source.tags()}
    with class_raster(out, image, bands=info.bands, kind=kind, classes=classes, tags=tags) as raster:
        for done, (col, row, block) in enumerate(blocks(image, configuration, bands), 1):
            if block.valid.any():
                pixels, valid = function.update_block(block.pixels, block.valid, at=(col, row))
                rows, cols = min(pixels.shape[1], image.height - row), min(pixels.shape[2], image.width - col)
                cut = _stored(pixels[:, :rows, :cols], valid[:rows, :cols], kind, model.name)
                raster.write(cut, window=Window(col, row, cols, rows))
            on_progress(Progress(tool, done, total, "tiles"))


def _stored(
    pixels: NDArray[np.generic], valid: NDArray[np.bool_], kind: tuple[str, float], name: str
) -> NDArray[np.generic]:
    """In the type of the file, nodata where not valid. Raises RasterFunctionError when that cannot hold the values."""
    dtype, nodata = kind
    if dtype != "float32" and not np.can_cast(pixels.dtype, dtype):
        limits = np.iinfo(dtype)
        if pixels.min() < limits.min or pixels.max() > limits.max:
            raise RasterFunctionError(f"gave values that no class has and {dtype} cannot hold", where=name)
    stored = pixels.astype(dtype, copy=False)
    return stored if valid.all() else np.where(valid, stored, np.array(nodata, dtype))
