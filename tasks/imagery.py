"""rasterio's home: imagery opened on a working grid, read window by window.

The working grid is the raster's own, or, when a cell size is asked for, the same extent in cells of that size
(averaged when coarser, bilinear when finer). Windows are whole pixels of the working grid, so no tile is lost or
doubled to rounding, and memory follows the window, not the raster.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from registry.errors import ImageryError

GDAL_SETTINGS: dict[str, str | int] = {"GDAL_NUM_THREADS": "2", "GDAL_CACHEMAX": 256}  # MB: flat memory on any raster
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
COLOURS = ("red", "green", "blue")
SAME_CELL = 0.02  # cell sizes that differ by less than this share are taken as equal: no resampling


@dataclass(frozen=True)
class Block:
    """Pixels of one window of the working grid."""

    pixels: NDArray[np.generic]  # (bands, rows, cols), raw sensor values, 0 where not valid
    valid: NDArray[np.bool_]  # (rows, cols), False = nodata, masked or outside the raster


@dataclass(frozen=True)
class ImageryFacts:
    """What is worth knowing of a raster after it is closed."""

    path: Path
    band_names: tuple[str, ...]
    dtype: str
    cell: tuple[float, float]  # x, y in map units
    epsg: int | None


@dataclass(frozen=True)
class Imagery:
    """An open raster. Made by `open_imagery`; not to be shared between threads."""

    path: Path
    dataset: rasterio.DatasetReader
    data_bands: tuple[int, ...]  # 1-based, alpha left out

    @property
    def crs(self) -> CRS | None:
        return self.dataset.crs

    @property
    def transform(self) -> Affine:
        return Affine(*self.dataset.transform[:6])

    @property
    def width(self) -> int:
        return int(self.dataset.width)

    @property
    def height(self) -> int:
        return int(self.dataset.height)

    @property
    def bands(self) -> int:
        return len(self.data_bands)

    @property
    def dtype(self) -> str:
        return str(self.dataset.dtypes[0])

    @property
    def facts(self) -> ImageryFacts:
        epsg = self.crs.to_epsg() if self.crs else None
        return ImageryFacts(self.path, self.band_names, self.dtype, _cell(self.transform), epsg)

    @property
    def nodata(self) -> float | None:
        return None if self.dataset.nodata is None else float(self.dataset.nodata)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax in map units."""
        return tuple(self.dataset.bounds)

    @property
    def block_shape(self) -> tuple[int, int]:
        """rows, cols of the file's own blocks."""
        rows, cols = self.dataset.block_shapes[0]
        return int(rows), int(cols)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The file's band descriptions; Red, Green, Blue where the colours say so; else Band_1, Band_2, ..."""
        return tuple(self._band_name(i) for i in self.data_bands)

    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block:
        """One window, which may reach over the raster's edge; `bands` are indexes from 0, None = all.

        Raises ImageryError naming the window when the file cannot be read there.
        """
        indexes = [self.data_bands[b] for b in (range(self.bands) if bands is None else bands)]
        pixels = np.zeros((len(indexes), height, width), dtype=self.dtype)
        valid = np.zeros((height, width), dtype=bool)
        x0, y0, x1, y1 = max(col, 0), max(row, 0), min(col + width, self.width), min(row + height, self.height)
        if x0 < x1 and y0 < y1:
            inside = (slice(y0 - row, y1 - row), slice(x0 - col, x1 - col))
            window = Window(x0, y0, x1 - x0, y1 - y0)
            try:
                pixels[:, *inside] = self.dataset.read(indexes, window=window)
                valid[inside] = self._valid(window, pixels[:, *inside])
            except (RasterioError, OSError) as error:
                where = f"{self.path} columns {x0}-{x1}, rows {y0}-{y1}"
                raise ImageryError(
                    f"cannot be read ({error})", where=where, do="repair or copy the file anew"
                ) from error
            if not valid.all():
                pixels[:, ~valid] = 0
        return Block(pixels, valid)

    def _band_name(self, index: int) -> str:
        colour = self.dataset.colorinterp[index - 1].name
        name = self.dataset.descriptions[index - 1] or (colour if colour in COLOURS else f"Band_{index}")
        return name.title() if name.lower() in COLOURS else str(name)  # ArcGIS knows Red, not red

    def _valid(self, window: Window, pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
        shape = pixels.shape[1:]
        flags = {flag for i in self.data_bands for flag in self.dataset.mask_flag_enums[i - 1]}
        no_alpha = MaskFlags.alpha in flags and self.bands == self.dataset.count
        if flags == {MaskFlags.all_valid} or no_alpha:
            valid = np.ones(shape, dtype=bool)  # spares a decode of the mask
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NodataShadowWarning)  # nodata beside alpha: nodata rules
                valid = self.dataset.dataset_mask(window=window) > 0
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(axis=0)
        return valid


@contextmanager
def open_imagery(path: Path | str, *, cell_size: tuple[float, float] | None = None) -> Iterator[Imagery]:
    """Open a raster on its own grid, or on one of `cell_size` (x, y in units of its CRS).

    Raises ImageryError when the file is missing, no raster, or of a kind whose pixels are no measurements on a
    straight grid (palette, complex numbers, rotated, control points only), with the command that repairs it.
    """
    with rasterio.Env(**GDAL_SETTINGS):
        try:
            source = rasterio.open(path)
        except RasterioError as error:
            do = "check the path" if not Path(path).exists() else "check that GDAL reads it: gdalinfo FILE"
            raise ImageryError(f"cannot be opened as a raster ({error})", where=path, do=do) from error
        with source:
            bands = _data_bands(Path(path), source)
            if cell_size is None or _same_cell(source.transform, cell_size):
                yield Imagery(Path(path), source, bands)
            else:
                with WarpedVRT(source, **_resampled_grid(source, cell_size)) as grid:
                    yield Imagery(Path(path), grid, bands)


def starts(size: int, step: int) -> range:
    """Where blocks of `step` pixels begin along an axis of `size` pixels; the last one may reach over the edge."""
    return range(0, size, step)


def _data_bands(path: Path, source: rasterio.DatasetReader) -> tuple[int, ...]:
    kinds = set(source.dtypes)
    if ColorInterp.palette in source.colorinterp:
        raise ImageryError("has a colour palette, not measured bands", where=path, do="run gdal_translate -expand rgb")
    if unknown := kinds - set(DTYPES):
        raise ImageryError(f"expected one of {', '.join(DTYPES)}", where=path, got=sorted(unknown), do="convert it")
    if len(kinds) > 1:
        do = "give all bands one type: gdal_translate -ot"
        raise ImageryError("has bands of different types", where=path, got=sorted(kinds), do=do)
    if source.transform.b or source.transform.d:
        raise ImageryError("is rotated against its coordinate system", where=path, do="straighten it with gdalwarp")
    if source.transform.is_identity and (source.gcps[0] or source.rpcs):
        kind = "control points" if source.gcps[0] else "RPCs"
        raise ImageryError(f"is located by {kind} only", where=path, do="put it on a grid with gdalwarp")
    return tuple(i for i in source.indexes if not _is_alpha(source, i))


def _is_alpha(source: rasterio.DatasetReader, index: int) -> bool:
    """GDAL calls a fourth 8-bit band alpha unless told otherwise; a band with another name is no alpha."""
    name = (source.descriptions[index - 1] or "alpha").lower()
    return source.colorinterp[index - 1] == ColorInterp.alpha and "alpha" in name


def _same_cell(transform: Affine, cell_size: tuple[float, float]) -> bool:
    return all(abs(want / have - 1) < SAME_CELL for want, have in zip(cell_size, _cell(transform), strict=True))


def _cell(transform: Affine) -> tuple[float, float]:
    return abs(transform.a), abs(transform.e)


def _resampled_grid(source: rasterio.DatasetReader, cell_size: tuple[float, float]) -> dict[str, object]:
    x, y = cell_size
    xmin, ymin, xmax, ymax = source.bounds
    coarser = x * y > abs(source.transform.a * source.transform.e)
    return {
        "crs": source.crs or CRS.from_epsg(3857),  # a grid without a CRS is resampled in plain coordinates
        "src_crs": source.crs or CRS.from_epsg(3857),
        "transform": Affine(x, 0, xmin, 0, -y, ymax),
        "width": max(1, round((xmax - xmin) / x)),
        "height": max(1, round((ymax - ymin) / y)),
        "resampling": Resampling.average if coarser else Resampling.bilinear,
    }
