"""Infer: a model of the registry over imagery, nightly or on demand (prefect.yaml).

The model's type decides the verb: features in a GeoPackage, or a raster of classes or changes. Every result names the
model, the version and the sha256 that made it.
"""

from pathlib import Path

from prefect import flow

from flows import steps
from flows.places import pairs_of, result_path, scenes_of
from registry.errors import OptionsError
from tasks.inference_options import ChangeOptions, ClassifyObjectsOptions, ClassifyOptions, DetectOptions


@flow(name="infer")
def infer(
    model: str = "trees@champion",
    imagery: str = "imagery",
    out: str = "results",
    later_imagery: str = "",
    detect: DetectOptions = DetectOptions(),  # noqa: B008  (frozen)
    classify: ClassifyOptions = ClassifyOptions(),  # noqa: B008
    classify_objects: ClassifyObjectsOptions = ClassifyObjectsOptions(),  # noqa: B008
    change: ChangeOptions = ChangeOptions(),  # noqa: B008
) -> str:
    """Find objects or changes, classify pixels or objects; returns the path of the result, or the folder of several.

    Args:
        model: registry reference such as trees@champion or trees@3, or a .dlpk file
        imagery: a raster, a folder of rasters, or a pattern such as scenes/*.tif
        out: the file to write when imagery is a single raster; else a folder, with a result for each raster
        later_imagery: the second date for a model that detects change: a raster, or rasters of the same names
        detect: used when the model detects objects
        classify: used when the model classifies pixels
        classify_objects: used when the model classifies objects
        change: used when the model detects change
    """
    known = steps.fetch(model)
    scenes = _scenes(known, imagery, later_imagery)
    options = {
        "detect-objects": detect,
        "classify-pixels": classify,
        "classify-objects": classify_objects,
        "detect-change": change,
    }[known.tool]
    places = [result_path(known.tool, scene[0], imagery, Path(out)) for scene in scenes]
    results = [steps.infer(known, scene, place, options) for scene, place in zip(scenes, places, strict=True)]
    steps.report_results(known, results)
    return str(places[0]) if Path(imagery).is_file() else out


def _scenes(known: steps.Known, imagery: str, later: str) -> list[tuple[Path, ...]]:
    """What each run of the tool reads: one raster, or two of one place. Raises OptionsError."""
    if known.tool != "detect-change":
        return [(scene,) for scene in scenes_of(imagery)]
    if not later:
        do = "give the second date as later_imagery"
        raise OptionsError("compares two dates", where=known.source.name, do=do)
    return [*pairs_of(imagery, later)]
