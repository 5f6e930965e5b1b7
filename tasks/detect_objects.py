"""Detect Objects Using Deep Learning: a model and imagery in, features out (ArcGIS formats F.4).

The raster function of the model finds objects block by block; here they get map coordinates, the copies that two blocks
found are merged, and the layer is written with the name, version and digest of the model that made it.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from registry.files import write_text
from tasks.band_choice import band_indexes
from tasks.detections import Layer, chosen, joined, layer
from tasks.found_objects import Tick, find_objects, found_in
from tasks.inference import AnyFunction, check_tool, load_function, run_facts
from tasks.inference_options import DetectOptions, ModelSource
from tasks.parts import wanted_part
from tasks.placement import placement_of
from tasks.progress import OnProgress, Progress, ignore
from tasks.projecting import system
from tasks.replacing import check_out
from tasks.results import beside, driver_of, settle, write_features
from tasks.run_folder import RunFolder, Share, facts_of_files, run_folder
from tasks.sources import Imageries, files_read
from tasks.working_grid import items_of, open_working_grid

ADDED = ".added"  # of a run: how OUT looks with what was added to it, so that a killed run does not add it again


def detect_objects(
    model: ModelFolder,
    imagery: Imageries,
    out: Path,
    options: DetectOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
    share: Share | None = None,
) -> Path:
    """Find the objects of a model in a raster, or in the mosaic of several; write them to `out`.

    Polygons with Class, Value, Confidence (0-100) and the model, in the raster's CRS or the one asked for. An existing
    `out` is replaced, or with `append` added to, and only by a whole result; a run that was killed goes on at the
    blocks that were done. With a `share` only that part of the work is done, see `tasks.run_folder`. Raises
    ImageryError for a raster without CRS or without the model's bands, OptionsError for a model or an argument that
    does not fit, RasterFunctionError when the model fails.
    """
    check_tool(model, "detect-objects")
    if options.append:
        driver_of(out)
    else:
        check_out(out, options.mask)
    if options.output_coordinate_system:
        system(options.output_coordinate_system)  # raises before the work
    _check_interest(model, options)
    function = load_function(model, options)
    source, tick = source or ModelSource.of(model), _ticking(on_progress)
    with ExitStack() as kept:  # what an item gave, until the whole result is
        items, runs = _named(imagery, out, options), list[RunFolder]()

        def begin(name: str, facts: dict[str, Any]) -> RunFolder:
            runs.append(kept.enter_context(run_folder(out.with_name(name), facts, share)))
            return runs[-1]

        layers = [
            _layer(function, model, item, partial(begin, name), options, source, tick, share) for name, item in items
        ]
        if share:
            return out
        settle(out)
        added = runs[0].file(ADDED)
        if options.append and added.is_file() and added.read_text(encoding="utf-8") == _looks(out):
            return out
        shapes, columns, crs = joined(layers)
        columns |= beside(columns, source.columns(len(shapes)), driver_of(out))
        note = (lambda made: write_text(added, _looks(made))) if options.append else ignore
        return write_features(out, shapes, columns, crs, source.tags(), append=options.append, on_made=note)


def _looks(file: Path) -> str:
    """By which a file is known again, also under another name."""
    return json.dumps([told[1:] for told in facts_of_files([str(file)])])


def _check_interest(model: ModelFolder, options: DetectOptions) -> None:
    known = [label.name for label in model.emd.classes] if options.in_objects_of_interest else []
    if known and (unknown := [name for name in options.in_objects_of_interest if name not in known]):
        do = f"its classes are {', '.join(known)}"
        raise OptionsError("in_objects_of_interest: is no class of the model", where=model.name, got=unknown, do=do)


def _named(imagery: Imageries, out: Path, options: DetectOptions) -> list[tuple[str, Imageries]]:
    """What is worked on by itself, and the name of its run."""
    items = items_of(imagery, options.processing_mode)
    return [(out.name if len(items) == 1 else f"{out.name}.{number}", item) for number, item in enumerate(items)]


def _layer(
    function: AnyFunction,
    model: ModelFolder,
    imagery: Imageries,
    begin: Callable[[dict[str, Any]], RunFolder],
    options: DetectOptions,
    source: ModelSource,
    tick: Tick,
    share: Share | None,
) -> Layer:
    """The objects of one raster, or of the mosaic of several."""
    with open_working_grid(imagery, model.emd, options) as whole:
        place = placement_of(whole)
        image = wanted_part(whole, options)
        run = begin(run_facts("detect-objects", model, source, [whole], options, files_read(imagery)))
        find_objects(function, image, band_indexes(image, function.configuration), run, tick, share)
        found, polygons = ([], np.zeros(0, object)) if share else found_in(run, image.transform)
        stays = chosen(found, polygons, image, options)
        kept = [one for one, wanted in zip(found, stays, strict=True) if wanted]
        return layer(kept, polygons[stays], place, function.fields, options.output_coordinate_system)


def _ticking(on_progress: OnProgress) -> Tick:
    return lambda done, total, found: on_progress(Progress("detect objects", done, total, "tiles", f"{found} found"))
