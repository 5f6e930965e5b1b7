"""Whole small rasters: a chip's picture and its label raster, with the world file that ArcGIS expects beside them.

A plain TIFF of a chip differs from its neighbour's in the pixels and in two numbers of its place. GDAL makes the first
one; the others repeat its header, which costs a tenth. Whatever GDAL would write otherwise is left to GDAL.
"""

import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from registry.errors import ImageryError
from tasks.chips import Grid
from tasks.masks import shown

os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")  # or GDAL 3.10 reads noise out of a PNG that is cut off
DRIVERS = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".mrf": "MRF"}
CREATION: dict[str, dict[str, Any]] = {".jpg": {"quality": 95}}
SQUEEZED = {"compress": "DEFLATE", "zlevel": 1}  # pictures become no smaller by 6, but take twice as long
STRIP_OFFSETS, TIE_POINT = 273, 33922  # TIFF tags
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, by TIFF type
LARGEST_COPY = 64 * 2**20  # bytes; above, the header is no matter


@dataclass(frozen=True)
class Raster:
    """A whole raster in memory."""

    pixels: NDArray[np.generic]  # (bands, rows, cols), 0 where not valid
    valid: NDArray[np.bool_]  # (rows, cols)
    grid: Grid


def write_raster(
    path: Path,
    pixels: NDArray[np.generic],
    grid: Grid | None,
    nodata: float | None = None,
    compress: str = "NONE",
) -> None:
    """Write (bands, rows, cols) and its world file. The file type is the suffix: .tif, .png, .jpg, .mrf.

    compress: NONE or DEFLATE, of a .tif. Raises OSError or RasterioError when the disk is full.
    """
    if path.suffix == ".tif" and compress == "NONE" and pixels.nbytes <= LARGEST_COPY:
        path.write_bytes(_plain_tiff(pixels, grid, nodata))
    else:
        _write(path, DRIVERS[path.suffix], pixels, grid, nodata, _creation(path.suffix, pixels.dtype, compress))
    if grid:
        world_path(path).write_bytes(world_text(grid).encode("ascii"))


def world_path(image: Path) -> Path:
    """.tif -> .tfw, .png -> .pgw, .jpg -> .jgw, .mrf -> .mfw (ArcGIS formats D.1)."""
    return image.with_suffix(image.suffix[:2] + image.suffix[-1] + "w")


def read_raster(path: Path) -> Raster:
    """The alpha band of a PNG is no band of it, it tells what is valid. ImageryError when the file is no raster."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                measured = _measured(file)
                pixels = file.read(measured)
                valid = _valid(file, measured)
                grid = Grid(file.crs.to_wkt() if file.crs else "", tuple(file.transform)[:6])
    except RasterioError as error:
        raise ImageryError(f"cannot be read ({error})", where=path, do="export the chips again") from error
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    if not valid.all():
        np.copyto(pixels, 0, where=~valid)
    return Raster(pixels, valid, grid)


def _measured(file: rasterio.DatasetReader) -> list[int]:
    """In a TIFF, GDAL may take a fourth 8-bit band for alpha that is none."""
    alpha = file.driver == "PNG"
    return [i for i in file.indexes if not (alpha and file.colorinterp[i - 1] == ColorInterp.alpha)]


def _valid(file: rasterio.DatasetReader, measured: Sequence[int]) -> NDArray[np.bool_]:
    """A band that is measured tells nothing of the others, whether GDAL takes it for alpha or not."""
    by_alpha = len(measured) == file.count and any(MaskFlags.alpha in flags for flags in file.mask_flag_enums)
    return np.ones(file.shape, bool) if by_alpha else shown(file, measured)


def world_text(grid: Grid) -> str:
    """Six lines: cell width, two rotations, minus cell height, centre of the upper left pixel (ArcGIS formats D.1)."""
    a, b, c, d, e, f = grid.transform
    return "".join(f"{number:.10f}\n" for number in (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2))


def _write(
    path: Path | str,
    driver: str,
    pixels: NDArray[np.generic],
    grid: Grid | None,
    nodata: float | None,
    creation: dict[str, Any],
) -> None:
    bands, rows, cols = pixels.shape
    where = {"crs": grid.crs or None, "transform": Affine(*grid.transform)} if grid else {}
    if driver == "GTiff":  # GDAL would take a fourth 8-bit band for alpha
        where |= {"photometric": "RGB" if bands == 3 else "MINISBLACK"}
    profile = {"driver": driver, "count": bands, "height": rows, "width": cols, "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", nodata=nodata, **profile, **where, **creation) as file:
            file.write(pixels)


def _creation(suffix: str, dtype: "np.dtype[np.generic]", compress: str) -> dict[str, Any]:
    if suffix == ".tif" and compress == "DEFLATE":
        return {**SQUEEZED, "predictor": 3 if dtype.kind == "f" else 2}
    return CREATION.get(suffix, {})


def _plain_tiff(pixels: NDArray[np.generic], grid: Grid | None, nodata: float | None) -> bytes:
    """The bytes that GDAL writes for it, uncompressed."""
    a, b, c, d, e, f = grid.transform if grid else (0.0,) * 6
    upright = not (b or d) and e < 0  # one that is turned, by 180 degrees too, has a matrix in place of a tie point
    corner = (0.0, 0.0) if upright else (c, f)
    form = (pixels.shape, pixels.dtype.str, grid.crs if grid else None, (a, b, d, e), corner, nodata)
    place = struct.pack("<2d", c, f) if upright else b""
    head, at = _header(form)
    if place:
        head = head[:at] + place + head[at + 16 :]
    return head + _interleaved(pixels).tobytes()


def _interleaved(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    if len(pixels) == 1:
        return pixels
    mixed = np.empty((*pixels.shape[1:], len(pixels)), pixels.dtype)
    for i, band in enumerate(pixels):
        mixed[:, :, i] = band
    return mixed


@lru_cache(maxsize=64)
def _header(form: tuple[Any, ...]) -> tuple[bytes, int]:
    """What GDAL puts before the pixels of a chip of this form, and where in it the tie point's x and y are."""
    shape, dtype, crs, (a, b, d, e), (c, f), nodata = form
    grid, upright = None if crs is None else Grid(crs, (a, b, c, d, e, f)), not (b or d) and e < 0
    pixels = np.full(shape, 2 if nodata == 1 else 1, dtype)  # empty strips would be laid otherwise
    with MemoryFile() as memory:
        _write(memory.name, "GTiff", pixels, grid, nodata, {})
        content = memory.read()
    start = len(content) - pixels.nbytes
    tags = _tags(content)
    assert start == int(tags[STRIP_OFFSETS][1]), "GDAL lays the strips of a plain TIFF behind its header"
    assert (TIE_POINT in tags) == upright, "GDAL ties a raster to a point where it is neither turned nor mirrored"
    return content[:start], tags[TIE_POINT][0] + 24 if upright else 0


def _tags(content: bytes) -> dict[int, tuple[int, int]]:
    """Where the values of each tag of the first directory are, and the first of them where it is a whole number."""
    assert content[:4] == b"II*\0", "GDAL writes little-endian classic TIFF"
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    found = {}
    for i in range(count):
        entry = directory + 2 + 12 * i
        tag, kind, number, value = struct.unpack_from("<HHII", content, entry)
        width = WIDTHS[kind] * number
        at = value if width > 4 else entry + 8
        first = struct.unpack_from("<H" if kind == 3 else "<I", content, at)[0]
        found[tag] = (at, first)
    return found
