"""Infer: a model of the registry over imagery, nightly or on demand (prefect.yaml).

A raster, a pattern or two dates: the result is a file for each. A folder, an S3 prefix or a STAC API is a place where
scenes come in: each that this model has not seen is done once, and the results are a STAC collection (docs/flows.md).
The model's type decides the verb. Every result names the model, the version and the sha256 that made it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows import steps
from flows.listening import about
from flows.new_scenes import work_off
from flows.places import is_raster, is_stream, pairs_of, result_paths, scenes_of
from flows.scene_options import NewScenes
from registry.errors import OptionsError
from registry.ledger import Claim, Ledger
from registry.settings import settings
from registry.stores import open_store
from tasks.inference_options import (
    ChangeOptions,
    ClassifyObjectsOptions,
    ClassifyOptions,
    DetectOptions,
    InferenceOptions,
)


@flow(name="infer")
def infer(
    model: str = "trees@champion",
    imagery: str = "imagery",
    out: str = "",
    later_imagery: str = "",
    scenes: NewScenes = NewScenes(),  # noqa: B008  (frozen)
    detect: DetectOptions = DetectOptions(),  # noqa: B008  (frozen)
    classify: ClassifyOptions = ClassifyOptions(),  # noqa: B008
    classify_objects: ClassifyObjectsOptions = ClassifyObjectsOptions(),  # noqa: B008
    change: ChangeOptions = ChangeOptions(),  # noqa: B008
) -> str:
    """Find objects or changes, classify pixels or objects; returns where the results are.

    Args:
        model: registry reference such as trees@champion or trees@3, or a .dlpk file
        imagery: a raster or a pattern such as scenes/*.tif; or where scenes come in, of which each new one is done
            once: a folder, s3://bucket/prefix or the address of a STAC API
        out: the file to write when imagery is a single raster, a folder for the results of several; for those of new
            scenes a folder or s3://bucket/prefix, empty: DLPK_RESULTS
        later_imagery: the second date for a model that detects change: a raster, or rasters of the same names
        scenes: which scenes are new, and how they are shared out
        detect: used when the model detects objects
        classify: used when the model classifies pixels
        classify_objects: used when the model classifies objects
        change: used when the model detects change
    """
    known = steps.fetch(model)
    options = {
        "detect-objects": detect,
        "classify-pixels": classify,
        "classify-objects": classify_objects,
        "detect-change": change,
    }[known.tool]
    with about(model=known.ref):
        if is_stream(imagery) and not later_imagery and known.tool != "detect-change":
            return _new(known, imagery, out, scenes, options)
        return _each(known, imagery, later_imagery, out, options)


def _each(known: steps.Known, imagery: str, later: str, out: str, options: InferenceOptions) -> str:
    """Every raster; the result, or the folder of the results."""
    found, results = _scenes(known, imagery, later), []
    if not out or "://" in out:
        do = "name a folder of the worker, or give the place of new scenes, whose results go to a store"
        raise OptionsError("expected a file or a folder", where="out", got=out, do=do)
    target = Path(out)
    places = result_paths(known.tool, [scene[0] for scene in found], imagery, target)
    for scene, place in zip(found, places, strict=True):
        with about(scene=scene[0].name):
            results.append(steps.infer(known, scene, place, options))
    steps.report_results(known, results)
    return str(places[0]) if is_raster(imagery) else str(target)


def _new(known: steps.Known, place: str, out: str, dials: NewScenes, options: InferenceOptions) -> str:
    """Each scene of the place that is new; the URI of the results."""
    store = open_store(out or settings().results)

    def batch(ledger: Ledger, claims: Sequence[Claim]) -> dict[str, Any]:
        return steps.run_scenes(known, ledger, claims, options)

    summary = work_off(known, store, place, dials, batch)
    steps.report_scenes(known, store.uri, summary)
    return store.uri


def _scenes(known: steps.Known, imagery: str, later: str) -> list[tuple[Path, ...]]:
    """What each run of the tool reads: one raster, or two of one place. Raises OptionsError."""
    if known.tool != "detect-change":
        return [(scene,) for scene in scenes_of(imagery)]
    if not later:
        do = "give the second date as later_imagery"
        raise OptionsError("compares two dates", where=known.source.name, do=do)
    return [*pairs_of(imagery, later)]
