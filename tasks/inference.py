"""What the inference tools share: the working grid, bands, the walk over blocks (ArcGIS formats E.12)."""

import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from registry.signing import demand
from tasks.guarded import GuardedFunction
from tasks.host import Configuration, Place, RasterFunction
from tasks.imagery import Block, Imagery, as_here, gdal_settings
from tasks.inference_options import InferenceOptions, ModelSource, tool_of
from tasks.likeness import Likeness
from tasks.parts import Readable
from tasks.receipt import stamp
from tasks.run_folder import facts_of_files, facts_of_model
from tasks.tiling import Window
from tasks.trust import is_trusted, refuse_stranger

AnyFunction = RasterFunction | GuardedFunction
NO_MATTER = {"memory_limit", "tile_seconds", "trust", "processor_type", "gpu_id"}  # options that change no result
AFTERWARDS = {  # options of what is made of a finished raster
    *("output_coordinate_system", "polygons", "simplify", "minimum_area", "out_featureclass", "overwrite_attachments"),
    "probabilities",
}
_last = threading.local()  # wanted, function
AHEAD = 2  # blocks that are read while the function is at work


def check_tool(model: ModelFolder, tool: str) -> None:
    """Raises OptionsError when the model is of a type for another tool, and names it."""
    right = tool_of(model.emd)
    if right != tool:
        kind = model.emd.document.get("ModelType")
        do = f"use dlpk {right}" if right else "run it in ArcGIS"
        raise OptionsError(f"is a model for another tool than {tool}", where=model.name, got=kind, do=do)


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


def run_facts(
    tool: str,
    model: ModelFolder,
    source: ModelSource,
    images: Iterable[Imagery],
    options: InferenceOptions,
    read: Iterable[str],
) -> dict[str, object]:
    """What makes a run the same run, when it is started again: its tool, model, imagery, grid and options.

    `read`: the files of the imagery; a mosaic or a resampled raster does not tell them.
    """
    grids = [(i.dataset.name, i.width, i.height, tuple(i.transform)) for i in images]
    told = options.model_dump(mode="json", exclude=NO_MATTER | AFTERWARDS)
    told["mask"] = [stamp(Path(options.mask))] if options.mask else []
    model_facts = facts_of_model(model, source.sha256)
    imagery = {"imagery": grids, "files": facts_of_files(read)}
    return {"tool": tool, "model": model_facts, "source": source.tags(), **imagery, "options": told}


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
    padding, settings, likeness = configuration.padding, as_here(), Likeness(image.path, configuration.trained)
    with ThreadPoolExecutor(1, "reader") as reader:
        try:
            for w in windows:
                padded = (w.col - padding, w.row - padding, w.width + 2 * padding, w.height + 2 * padding)
                waiting.append((w.col, w.row, reader.submit(_read, image, padded, bands, settings)))
                if len(waiting) > AHEAD:
                    yield _next(waiting, likeness)
            while waiting:
                block = _next(waiting, likeness)
                if not waiting:
                    likeness.judge()
                yield block
        finally:
            reader.shutdown(cancel_futures=True)


def _read(
    image: Readable, window: tuple[int, int, int, int], bands: tuple[int, ...] | None, settings: dict[str, str | int]
) -> Block:
    with gdal_settings(**settings):
        return image.read(*window, bands)


def _next(waiting: deque[tuple[int, int, Future[Block]]], likeness: Likeness) -> tuple[int, int, Block]:
    col, row, future = waiting.popleft()
    block = future.result()
    likeness.see(block)
    return col, row, block
