"""What the inference tools share: the working grid, bands, the walk over blocks (ArcGIS formats E.12)."""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from rasterio.crs import CRS
from rasterio.errors import CRSError

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import ImageryError, OptionsError
from registry.signing import demand
from tasks.guarded import GuardedFunction
from tasks.host import Configuration, Place, RasterFunction
from tasks.imagery import SAME_CELL, Block, Imagery, gdal_settings, open_imagery
from tasks.inference_options import InferenceOptions, ModelSource, tool_of
from tasks.mosaic import alike, mosaic
from tasks.results import Grid
from tasks.run_folder import facts_of_files, facts_of_model
from tasks.sources import Imageries, find_rasters
from tasks.tiling import Window
from tasks.trust import is_trusted, refuse_stranger

AnyFunction = RasterFunction | GuardedFunction
NO_MATTER = ("memory_limit", "tile_seconds", "trust")  # options that change no result
_last = threading.local()  # wanted, function
AHEAD = 2  # blocks that are read while the function is at work


class Readable(Grid, Protocol):
    """What blocks are cut from: a raster, or two dates as one."""

    @property
    def nodata(self) -> float | None: ...
    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block: ...


def check_tool(model: ModelFolder, tool: str) -> None:
    """Raises OptionsError when the model is of a type for another tool, and names it."""
    right = tool_of(model.emd)
    if right != tool:
        kind = model.emd.document.get("ModelType")
        do = f"use dlpk {right}" if right else "run it in ArcGIS"
        raise OptionsError(f"is a model for another tool than {tool}", where=model.name, got=kind, do=do)


def mosaicked(imagery: Imageries) -> str:
    """The name of a raster, or of the mosaic of several of one kind, as GDAL opens it. Raises ImageryError."""
    with gdal_settings():
        names = find_rasters(imagery)
        return names[0] if len(names) == 1 else mosaic(alike(names, warp=False, any_cell=False))


def load_function(model: ModelFolder, options: InferenceOptions) -> AnyFunction:
    """The raster function, ready for blocks: in this process when its code is trusted, else in one of its own.

    Raises OptionsError for a stranger's code that the user did not name with --trust, and what the function raises.
    """
    demand(model.path)
    if is_trusted(model):
        return _loaded(model, options)
    if not options.trust:
        refuse_stranger(model)
    limits = {"memory": options.memory_limit, "seconds": options.tile_seconds}
    return GuardedFunction.load(model, device=options.device, arguments=options.arguments, **limits)


def _loaded(model: ModelFolder, options: InferenceOptions) -> RasterFunction:
    """Of this thread the one before, when nothing of it has changed: many small rasters load their network once."""
    wanted = (str(model.path), facts_of_model(model, ""), options.device, dict(options.arguments))
    if getattr(_last, "wanted", None) != wanted:
        _last.wanted = _last.function = None  # its memory is free before the next one needs it
        _last.function = RasterFunction.load(model, device=options.device, arguments=options.arguments)
        _last.wanted = wanted
    function: RasterFunction = _last.function
    return function


@contextmanager
def open_working_grid(imagery: Imageries, emd: Emd, cell_size: float | None) -> Iterator[Imagery]:
    """The raster at `cell_size`, or at the model's training cell size where its units can be compared."""
    path = mosaicked(imagery)
    with open_imagery(path, straighten=True) as image:
        own = image.cell
        cell = (cell_size, cell_size) if cell_size else training_cell(emd, image.crs, own)
        if cell is None:
            yield image
            return
    with open_imagery(path, cell_size=cell, straighten=True) as image:
        yield image


def training_cell(emd: Emd, crs: CRS | None, own: tuple[float, float]) -> tuple[float, float] | None:
    """The cell size the model knows, in units of `crs`; None when `own` is one of those, or nothing can be compared.

    A model has seen MinCellSize to MaxCellSize; a raster outside is brought to the nearer end, because networks know
    objects by their size in pixels. Metres are not compared with degrees, nor units that nobody told.
    """
    ends = [cell for key in ("MinCellSize", "MaxCellSize") if (cell := _in_units(emd.document.get(key), crs))]
    if not ends:
        return None
    low, high = ends[0], ends[-1]
    if own[0] < low[0] * (1 - SAME_CELL):
        return low
    return high if own[0] > high[0] * (1 + SAME_CELL) else None


def _in_units(cell: Any, crs: CRS | None) -> tuple[float, float] | None:
    wkid = (cell.get("spatialReference") or {}).get("wkid") if isinstance(cell, Mapping) else None
    if wkid is None or crs is None:
        return None
    try:
        trained = CRS.from_user_input(wkid)
    except CRSError:
        return None  # an Esri code that PROJ does not know
    if trained.is_geographic != crs.is_geographic or not float(cell["x"]) > 0:
        return None
    factor = trained.units_factor[1] / crs.units_factor[1]
    return float(cell["x"]) * factor, float(cell["y"]) * factor


def band_indexes(image: Imagery, configuration: Configuration) -> tuple[int, ...] | None:
    """The bands that the function asks for, as indexes from 0. Raises ImageryError when the raster has them not."""
    wanted = configuration.extract_bands
    if wanted is None:
        return None
    names = [name.lower() for name in image.band_names]
    found = [(names.index(b.lower()) if b.lower() in names else -1) if isinstance(b, str) else b for b in wanted]
    if missing := [b for b, i in zip(wanted, found, strict=True) if not 0 <= i < image.bands]:
        have = f"the raster has {image.bands} ({', '.join(image.band_names)})"
        what = f"lacks bands of the model, which reads {len(wanted)}: no {', '.join(map(str, missing))}, counted from 0"
        raise ImageryError(f"{what}; {have}", where=image.path, do="use imagery with the bands of the training imagery")
    return tuple(found)


def run_facts(
    tool: str, model: ModelFolder, source: ModelSource, images: Iterable[Imagery], options: InferenceOptions
) -> dict[str, object]:
    """What makes a run the same run, when it is started again: its tool, model, imagery, grid and options."""
    grids = [(i.dataset.name, i.width, i.height, tuple(i.transform), facts_of_files(i.dataset.files)) for i in images]
    told = options.model_dump(mode="json", exclude=set(NO_MATTER))
    model_facts = facts_of_model(model, source.sha256)
    return {"tool": tool, "model": model_facts, "source": source.tags(), "imagery": grids, "options": told}


def place_of(image: Readable) -> Place:
    """Where it lies, as functions are told."""
    epsg = image.crs.to_epsg() if image.crs else None
    return Place(tuple(image.transform[:6]), (image.width, image.height), epsg or 0, image.nodata)


def blocks(
    image: Readable, configuration: Configuration, bands: tuple[int, ...] | None, windows: Iterable[Window]
) -> Generator[tuple[int, int, Block], None, None]:
    """Every block with its padding: column and row of its unpadded corner, and its pixels.

    Outside the raster nothing is valid. A thread of its own reads the next ones meanwhile: close the generator before
    the raster, or that thread reads what is no more.
    """
    waiting: deque[tuple[int, int, Future[Block]]] = deque()
    padding = configuration.padding
    with ThreadPoolExecutor(1, "reader") as reader:
        try:
            for w in windows:
                padded = (w.col - padding, w.row - padding, w.width + 2 * padding, w.height + 2 * padding)
                waiting.append((w.col, w.row, reader.submit(_read, image, padded, bands)))
                if len(waiting) > AHEAD:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            reader.shutdown(cancel_futures=True)


def _read(image: Readable, window: tuple[int, int, int, int], bands: tuple[int, ...] | None) -> Block:
    with gdal_settings():  # GDAL's settings are those of a thread
        return image.read(*window, bands)


def _next(waiting: deque[tuple[int, int, Future[Block]]]) -> tuple[int, int, Block]:
    col, row, block = waiting.popleft()
    return col, row, block.result()
