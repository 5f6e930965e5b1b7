"""rasterio's home: imagery opened on a working grid, read window by window.

The working grid is the raster's own, or, when a cell size is asked for, the same extent in cells of that size
(averaged when coarser, bilinear when finer). Windows are whole pixels of the working grid, so no tile is lost or
doubled to rounding, and memory follows the window, not the raster.
"""

import itertools
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import AWSSession
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from registry.errors import ImageryError, StoreError
from tasks.masks import shown
from tasks.sources import gdal_name, is_far, remote_settings

CACHE = 128 * 2**20  # bytes, as rasterio wants it: decoded blocks that neighbouring windows share, on any raster
GDAL_SETTINGS: dict[str, str | int] = {
    "GDAL_NUM_THREADS": "2",
    "GDAL_CACHEMAX": CACHE,
    "GDAL_HTTP_MAX_RETRY": 3,  # of imagery in a bucket or on the web, whose server may be busy for a moment
    "GDAL_HTTP_RETRY_DELAY": 1,  # seconds, then about twice as many each time
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # or GDAL 3.10 reads noise, and no error, out of a PNG that is cut off
}
# Two threads of GDAL 3.10 take a block of a plain TIFF that a server does not hand out (503, a lost connection) for
# zeros, and tell nobody; one thread asks again
READ_BY_ONE: dict[str, str | int] = {"GDAL_NUM_THREADS": 1}
NO_ANSWER = re.compile(r"HTTP response code: (?:429|5\d\d)|CURL error")  # as GDAL tells of it
KEYS = (  # variables that boto3 makes a session of
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_NO_SIGN_REQUEST"),
)
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
WIDE = ("int64", "uint64")  # of classes alone; GDAL 3.10 forgets their nodata value in the mask of a resampled one
COLOURS = ("red", "green", "blue")
ON_A_GRID = "with gdalwarp; tools that run a model take it as it is with use_pixelspace"
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
    shift: tuple[int, int] = (
        0,
        0,
    )  # columns, rows from the working grid's corner to the file's, when laid on another's
    placed: bool = True  # False: it is taken as a plain picture, whatever else it says

    @cached_property
    def crs(self) -> CRS | None:
        return self.dataset.crs if self.placed else None

    @cached_property
    def transform(self) -> Affine:
        return Affine(*self.dataset.transform[:6])

    @cached_property
    def own_transform(self) -> Affine:
        """Of the raster itself, whatever the cells that it is read in."""
        return Affine(*getattr(self.dataset, "src_transform", self.dataset.transform)[:6])

    @cached_property
    def width(self) -> int:
        return int(self.dataset.width)

    @cached_property
    def height(self) -> int:
        return int(self.dataset.height)

    @property
    def bands(self) -> int:
        return len(self.data_bands)

    @cached_property
    def dtype(self) -> str:
        return str(self.dataset.dtypes[0])

    @cached_property
    def facts(self) -> ImageryFacts:
        epsg = self.crs.to_epsg() if self.crs else None
        return ImageryFacts(self.path, self.band_names, self.dtype, self.cell, epsg)

    @cached_property
    def cell(self) -> tuple[float, float]:
        """Sides of a pixel x, y in map units."""
        return cell_of(self.transform)

    @property
    def nodata(self) -> float | None:
        return None if self.dataset.nodata is None else float(self.dataset.nodata)

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax in map units."""
        return bounds_of(self.transform, self.width, self.height)

    @property
    def corner(self) -> tuple[int, int]:
        """Column and row in the dataset of its upper left pixel (see `tasks.placement`)."""
        return (0, 0)

    def wanted(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_] | None:
        """Where a result is wanted: everywhere (see `tasks.parts`)."""

    @property
    def block_shape(self) -> tuple[int, int]:
        """rows, cols of the file's own blocks."""
        rows, cols = self.dataset.block_shapes[0]
        return int(rows), int(cols)

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        """The file's band descriptions; Red, Green, Blue where the colours say so; else Band_1, Band_2, ..."""
        return tuple(self._band_name(i) for i in self.data_bands)

    @cached_property
    def far(self) -> bool:
        """Whether any of it lies on another machine, that of a VRT too."""
        return any(map(is_far, self.dataset.files))

    @cached_property
    def always_valid(self) -> bool:
        """No pixel inside the raster can be nodata, so none needs to be read to know."""
        return self.validity == "all" and np.dtype(self.dtype).kind != "f"

    @cached_property
    def averaged_wrongly(self) -> bool:
        """GDAL would count what is no number or hidden by an alpha band of numbers with a sign, or weigh by a measured
        band that it takes for alpha.
        """
        claimed = any(self.dataset.colorinterp[i - 1] == ColorInterp.alpha for i in self.data_bands)
        return claimed or self.validity == "alpha" or np.dtype(self.dtype).kind == "f"

    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block:
        """One window, which may reach over the raster's edge; `bands` are indexes from 0, None = all.

        Raises ImageryError naming the window when the file cannot be read there, StoreError when another machine does
        not hand it out.
        """
        col, row = col - self.shift[0], row - self.shift[1]
        indexes = list(self.data_bands if bands is None else (self.data_bands[b] for b in bands))
        x0, y0, x1, y1 = max(col, 0), max(row, 0), min(col + width, self.width), min(row + height, self.height)
        if (x0, y0, x1, y1) == (col, row, col + width, row + height):
            pixels, valid = self._inside(indexes, x0, y0, x1, y1)
        else:
            pixels = np.zeros((len(indexes), height, width), dtype=self.dtype)
            valid = np.zeros((height, width), dtype=bool)
            if x0 < x1 and y0 < y1:
                inside = (slice(y0 - row, y1 - row), slice(x0 - col, x1 - col))
                pixels[:, *inside], valid[inside] = self._inside(indexes, x0, y0, x1, y1)
        return Block(pixels, valid)

    def valid(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_]:
        """The same as of `read`, with as few bands decoded as will do."""
        if self.validity == "all" or np.dtype(self.dtype).kind == "f" or self.shift != (0, 0):
            return self.read(col, row, width, height).valid
        x0, y0, x1, y1 = max(col, 0), max(row, 0), min(col + width, self.width), min(row + height, self.height)
        valid = np.zeros((height, width), dtype=bool)
        if x0 < x1 and y0 < y1:
            with self._naming(x0, y0, x1, y1) as window:
                valid[y0 - row : y1 - row, x0 - col : x1 - col] = self._shown(window)
        return valid

    def _shown(self, window: Window) -> NDArray[np.bool_]:
        """A pixel whose first band is not nodata is valid whatever the others are."""
        indexes = list(self.data_bands)
        if self.validity == "nodata" and self.bands > 1:
            first = self.dataset.read(indexes[:1], window=window)
            if self._valid(window, first).all():
                return np.ones(first.shape[1:], bool)
        pixels = self.dataset.read(indexes, window=window) if self.validity == "nodata" else None
        return self._valid(window, pixels)

    def _inside(
        self, indexes: list[int], x0: int, y0: int, x1: int, y1: int
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        with self._naming(x0, y0, x1, y1) as window:
            pixels = self.dataset.read(indexes, window=window)
            valid = self._valid(window, pixels)
        if not valid.all():
            np.copyto(pixels, 0, where=~valid)
        return pixels, valid

    @contextmanager
    def _naming(self, x0: int, y0: int, x1: int, y1: int) -> Iterator[Window]:
        """Raises ImageryError or StoreError that names the window when it cannot be read."""
        try:
            yield Window(x0, y0, x1 - x0, y1 - y0)
        except (RasterioError, OSError) as error:
            where = f"{as_named(self.path)} columns {x0}-{x1}, rows {y0}-{y1}"
            if self.far:
                do = "run the same command again, or repair it there"
                raise StoreError(f"cannot be read ({error})", where=where, do=do) from error
            raise ImageryError(f"cannot be read ({error})", where=where, do="repair or copy the file anew") from error

    def _band_name(self, index: int) -> str:
        colour = self.dataset.colorinterp[index - 1].name
        name = self.dataset.descriptions[index - 1] or (colour if colour in COLOURS else f"Band_{index}")
        return name.title() if name.lower() in COLOURS else str(name)  # ArcGIS knows Red, not red

    @cached_property
    def validity(self) -> str:
        """What tells which pixels are valid: "all", "nodata" (one value for all bands), "mask" or "alpha"."""
        flags = {flag for i in self.data_bands for flag in self.dataset.mask_flag_enums[i - 1]}
        no_alpha = MaskFlags.alpha in flags and self.bands == self.dataset.count
        if flags == {MaskFlags.all_valid} and self.dtype in WIDE and self.nodata is not None:
            return "nodata"
        if flags == {MaskFlags.all_valid} or no_alpha:
            return "all" if self.alpha is None else "alpha"
        values = {self.dataset.nodatavals[i - 1] for i in self.data_bands}
        return (
            "nodata"
            if flags == {MaskFlags.nodata} and len(values) == 1 and self.bands == self.dataset.count
            else "mask"
        )

    @cached_property
    def alpha(self) -> int | None:
        """The band that is no data band, 1-based; None without one."""
        return next((i for i in self.dataset.indexes if i not in self.data_bands), None)

    def told(self, **how: Any) -> NDArray[np.bool_]:
        """What mask, nodata or alpha band say; `how`: as of rasterio's reading."""
        if self.validity == "alpha":  # GDAL makes a mask out of one of 8 or 16 bits without sign alone
            return np.asarray(self.dataset.read(self.alpha, **how) > 0)
        return shown(self.dataset, self.data_bands, **how)

    def _valid(self, window: Window, pixels: NDArray[np.generic] | None) -> NDArray[np.bool_]:
        """A pixel counts as valid where any band is not nodata; every band of it must be a number."""
        if self.validity in ("mask", "alpha") or pixels is None:
            valid = self.told(window=window)
        elif self.validity == "nodata" and (nodata := _as(pixels.dtype, self.nodata)) is not None:
            valid = np.asarray((pixels != nodata).any(axis=0))  # as GDAL's mask says, without decoding once more
            if len(pixels) < self.bands and not valid.all():
                valid = self.told(window=window)  # a band that is not read may know more
        else:
            valid = np.ones(pixels.shape[1:], dtype=bool)
        if pixels is not None and pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(axis=0)
        return valid


@contextmanager
def open_imagery(
    path: Path | str, *, cell_size: tuple[float, float] | None = None, straighten: bool = False
) -> Iterator[Imagery]:
    """Open a raster on its own grid, or on one of `cell_size` (x, y in units of its CRS).

    `straighten`: lay a raster that is rotated against its CRS on a straight grid of its cells (bilinear); there is no
    data in the corners. Raises ImageryError when the file is missing, no raster, or of a kind whose pixels are no
    measurements on a straight grid (palette, complex numbers, rotated, control points only), with the command that
    repairs it.
    """
    from tasks.mosaic import honest

    with gdal_settings(), open_raster(path) as source:
        name = short_name(str(path))
        bands = data_bands(name, source)
        turned = straighten and _is_rotated(source) and source.crs is not None
        if not turned:
            _refuse_unplaced(name, source)
            if cell_size is None or same_cell(source.transform, cell_size):
                yield Imagery(name, source, bands)
                return
        with open_raster(honest(str(path))) as mixed:
            grid = straight_grid(mixed, cell_size) if turned or not cell_size else resampled_grid(mixed, cell_size)
            with WarpedVRT(mixed, **grid) as working:
                yield Imagery(name, working, data_bands(name, mixed))


@contextmanager
def open_in_pixels(path: Path | str) -> Iterator[Imagery]:
    """A raster as it is, also where it is rotated or has no grid at all (pixel space)."""
    with gdal_settings(), open_raster(path) as source:
        name = short_name(str(path))
        yield Imagery(name, source, data_bands(name, source), placed=not scattered(source))


def gdal_settings(**more: str | int) -> rasterio.Env:
    """How GDAL is to behave, unless the environment says otherwise: flat memory, and the S3 server that it names."""
    own = {name: value for name, value in GDAL_SETTINGS.items() if name not in os.environ}
    return gdal_env(**{**own, **remote_settings(), **more})


def as_here() -> dict[str, str | int]:
    """What a thread that reads a raster has to be told, because GDAL's settings are those of a thread."""
    return {name: value for name, value in rasterio.env.getenv().items() if name in READ_BY_ONE}


def one_thread() -> rasterio.Env:
    """For work that is shared by processes: what GDAL would add to these only gets in their way."""
    return gdal_env(GDAL_NUM_THREADS=os.environ.get("GDAL_NUM_THREADS", "1"))


def gdal_env(**options: str | int) -> rasterio.Env:
    """Settings of GDAL for this thread. Where keys of S3 are in the environment, all threads use one session."""
    known = tuple(os.environ.get(name) for name in KEYS)
    return rasterio.Env(session=_session(known) if all(known[:2]) else None, **options)


@lru_cache(maxsize=4)
def _session(_: tuple[str | None, ...]) -> AWSSession:
    """Made anew for each block, as rasterio would, it costs 12 ms, and reads variables that a function is changing."""
    return AWSSession()


@contextmanager
def open_raster(path: Path | str) -> Iterator[rasterio.DatasetReader]:
    """Raises ImageryError when GDAL cannot open it, StoreError when its server does not answer."""
    name = gdal_name(str(path))
    with ExitStack() as stack:
        if is_far(name):
            stack.enter_context(gdal_env(**READ_BY_ONE))
        source = stack.enter_context(_opened(name))
        if not source.count and source.subdatasets:
            do = "name one of them, or make one of some: dlpk composite-bands NAME NAME ONE.vrt"
            raise ImageryError("holds several rasters", where=short_name(name), got=source.subdatasets, do=do)
        _refuse_short(Path(name), source)
        if source.driver == "VRT" and any(map(is_far, source.files)):
            stack.enter_context(gdal_env(**READ_BY_ONE))
        yield source


def _opened(name: str) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said by our own errors where it matters
            return rasterio.open(name)
    except RasterioError as error:
        where = as_named(short_name(name))
        if is_far(name) and NO_ANSWER.search(str(error)):
            do = "check that its server runs, then run the same command again"
            raise StoreError(f"cannot be opened ({error})", where=where, do=do) from error
        near = name.startswith("/vsi") or Path(name).exists()
        do = "check that GDAL reads it: gdalinfo FILE" if near else "check the path"
        raise ImageryError(f"cannot be opened as a raster ({error})", where=where, do=do) from error


def as_named(path: Path) -> str:
    """How people name it, who do not know GDAL's names of what lies elsewhere."""
    far = re.match(r"/vsi(?:curl/(?P<scheme>https?):|(?P<s3>s3))/+(?P<rest>.*)", str(path), re.DOTALL)
    return f"{far['scheme'] or far['s3']}://{far['rest']}" if far else str(path)


def _refuse_short(path: Path, source: rasterio.DatasetReader) -> None:
    """Raises ImageryError for an ENVI file that was copied in part: GDAL gives zeros for what it has not."""
    header = source.tags(ns="ENVI") if source.driver == "ENVI" and path.is_file() else {}
    if not header or header.get("file_compression", "0") != "0" or not {*source.dtypes} <= {*DTYPES}:
        return
    pixels = source.width * source.height * sum(np.dtype(dtype).itemsize for dtype in source.dtypes)
    whole, size = int(header.get("header_offset") or 0) + pixels, path.stat().st_size
    if size < whole:
        raise ImageryError(f"is cut off: its header tells of {whole} bytes", where=path, got=size, do="copy it anew")


def short_name(name: str) -> Path:
    """What to call a raster in a message; a mosaic is XML."""
    return Path("mosaic") if name.startswith("<") else Path(name)


def starts(size: int, step: int) -> range:
    """Where blocks of `step` pixels begin along an axis of `size` pixels; the last one may reach over the edge."""
    return range(0, size, step)


def data_bands(path: Path, source: rasterio.DatasetReader) -> tuple[int, ...]:
    kinds = set(source.dtypes)
    if ColorInterp.palette in source.colorinterp:
        raise ImageryError("has a colour palette, not measured bands", where=path, do="run gdal_translate -expand rgb")
    if unknown := kinds - set(DTYPES):
        raise ImageryError(f"expected one of {', '.join(DTYPES)}", where=path, got=sorted(unknown), do="convert it")
    if len(kinds) > 1:
        do = "give all bands one type: gdal_translate -ot"
        raise ImageryError("has bands of different types", where=path, got=sorted(kinds), do=do)
    return tuple(i for i in source.indexes if not _is_alpha(source, i))


def _refuse_unplaced(path: Path, source: rasterio.DatasetReader) -> None:
    if _is_rotated(source):
        raise ImageryError("is rotated against its coordinate system", where=path, do=f"straighten it {ON_A_GRID}")
    refuse_scattered(path, source)


def _is_rotated(source: rasterio.DatasetReader) -> bool:
    return bool(source.transform.b or source.transform.d)


def refuse_scattered(path: Path, source: rasterio.DatasetReader, do: str = f"put it on a grid {ON_A_GRID}") -> None:
    """Raises ImageryError for a raster that only control points or a sensor model place on the map."""
    if kind := scattered(source):
        raise ImageryError(f"is located by {kind} only", where=path, do=do)


def scattered(source: rasterio.DatasetReader) -> str:
    """What places a raster on the map in place of a grid; empty where a grid does."""
    if not source.transform.is_identity:
        return ""
    return "control points" if source.gcps[0] else "RPCs" if source.rpcs else ""


def _as(dtype: np.dtype[np.generic], nodata: float | None) -> np.generic | None:
    """The nodata value in the pixels' type; None where they cannot hold it."""
    if nodata is None or (dtype.kind != "f" and not (float(nodata).is_integer() and _fits(dtype, nodata))):
        return None
    with np.errstate(over="ignore"):
        value: np.generic = dtype.type(nodata)
    return value


def _fits(dtype: np.dtype[np.generic], value: float) -> bool:
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return bool(limits.min <= value <= limits.max)


def _is_alpha(source: rasterio.DatasetReader, index: int) -> bool:
    """GDAL calls a fourth 8-bit band alpha unless told otherwise; a band with another name is no alpha."""
    name = (source.descriptions[index - 1] or "alpha").lower()
    return source.colorinterp[index - 1] == ColorInterp.alpha and "alpha" in name


def bounds_of(transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    """xmin, ymin, xmax, ymax of a grid in map units."""
    xs, ys = zip(*(transform @ xy for xy in ((0, 0), (width, 0), (0, height), (width, height))), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def same_cell(transform: Affine, cell_size: tuple[float, float]) -> bool:
    """Near enough not to resample."""
    return all(abs(want / have - 1) < SAME_CELL for want, have in zip(cell_size, cell_of(transform), strict=True))


def cell_of(transform: Affine) -> tuple[float, float]:
    return math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)


def outside(source: rasterio.DatasetReader) -> dict[str, object]:
    """What makes WarpedVRT tell pixels it has from those it has not; of floats without a mask, what is no number."""
    if source.nodata is not None:
        return {"nodata": source.nodata}
    if _holes_are_nan(source):
        return {"src_nodata": math.nan, "nodata": math.nan}
    return {} if _has_alpha(source) else {"add_alpha": True}


def _holes_are_nan(source: rasterio.DatasetReader) -> bool:
    return np.dtype(source.dtypes[0]).kind == "f" and not _is_masked(source) and not _has_alpha(source)


def _is_masked(source: rasterio.DatasetReader) -> bool:
    return any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums)


def _has_alpha(source: rasterio.DatasetReader) -> bool:
    return ColorInterp.alpha in source.colorinterp


def resampled_grid(source: rasterio.DatasetReader, cell_size: tuple[float, float]) -> dict[str, object]:
    """The same extent, from the same corner the same way up, in cells of another size, as WarpedVRT wants it."""
    (x, y), place = cell_size, source.transform
    xmin, ymin, xmax, ymax = bounds_of(place, source.width, source.height)
    coarser = x * y > abs(place.a * place.e)
    masked = _holes_are_nan(source) or _is_masked(source)
    return {
        "transform": Affine(math.copysign(x, place.a), 0, place.c, 0, math.copysign(y, place.e), place.f),
        "width": max(1, round((xmax - xmin) / x)),
        "height": max(1, round((ymax - ymin) / y)),
        "resampling": Resampling.average if coarser else Resampling.bilinear,
        **(outside(source) if masked else {}),
    }


def straight_grid(source: rasterio.DatasetReader, cell_size: tuple[float, float] | None) -> dict[str, object]:
    """The envelope of a rotated raster, in cells of its own size or of another, as WarpedVRT wants it."""
    x, y = cell_size or cell_of(source.transform)
    corners = [source.transform @ xy for xy in itertools.product((0, source.width), (0, source.height))]
    (xmin, *_, xmax), (ymin, *_, ymax) = (sorted(values) for values in zip(*corners, strict=True))
    return {
        "crs": source.crs,
        "transform": Affine(x, 0, xmin, 0, -y, ymax),
        "width": max(1, math.ceil((xmax - xmin) / x - 1e-6)),
        "height": max(1, math.ceil((ymax - ymin) / y - 1e-6)),
        "resampling": Resampling.bilinear,
        **outside(source),
    }
