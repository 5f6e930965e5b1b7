"""Whole small rasters: a chip's picture and its label raster, with the world file that ArcGIS expects beside them."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from registry.errors import ImageryError
from tasks.chips import Grid

DRIVERS = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".mrf": "MRF"}
CREATION = {".jpg": {"quality": 95}}


@dataclass(frozen=True)
class Raster:
    """A whole raster in memory."""

    pixels: NDArray[np.generic]  # (bands, rows, cols)
    valid: NDArray[np.bool_]  # (rows, cols)
    grid: Grid


def write_raster(path: Path, pixels: NDArray[np.generic], grid: Grid | None, nodata: float | None = None) -> None:
    """Write (bands, rows, cols) and its world file. The file type is the suffix: .tif, .png, .jpg."""
    bands, rows, cols = pixels.shape
    where = {"crs": grid.crs or None, "transform": Affine(*grid.transform)} if grid else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        plain = {"photometric": "RGB" if bands == 3 else "MINISBLACK"}  # GDAL would take a fourth 8-bit band for alpha
        where |= plain if path.suffix == ".tif" else {}
        profile = {"driver": DRIVERS[path.suffix], "count": bands, "height": rows, "width": cols, "dtype": pixels.dtype}
        with rasterio.open(path, "w", nodata=nodata, **profile, **where, **CREATION.get(path.suffix, {})) as file:
            file.write(pixels)
    if grid:
        world = path.with_suffix(path.suffix[:2] + path.suffix[-1] + "w")
        world.write_text(world_text(grid), encoding="ascii", newline="")


def read_raster(path: Path) -> Raster:
    """Raises ImageryError when the file is no whole raster."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                pixels = file.read()
                valid = file.dataset_mask() > 0
                grid = Grid(file.crs.to_wkt() if file.crs else "", tuple(file.transform)[:6])
    except RasterioError as error:
        raise ImageryError(f"cannot be read ({error})", where=path, do="export the chips again") from error
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
        pixels[:, ~valid] = 0
    return Raster(pixels, valid, grid)


def world_text(grid: Grid) -> str:
    """Six lines: cell width, two rotations, minus cell height, centre of the upper left pixel (ArcGIS formats D.1)."""
    a, b, c, d, e, f = grid.transform
    return "".join(f"{number:.10f}\n" for number in (a, d, b, e, c + a / 2, f + e / 2))
