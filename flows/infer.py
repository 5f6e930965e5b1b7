"""Infer: a model of the registry over imagery, nightly or on demand (prefect.yaml).

The model's type decides the verb: features in a GeoPackage, or a raster of classes. Every result names the model, the
version and the sha256 that made it.
"""

from pathlib import Path

from prefect import flow

from flows import steps
from flows.places import result_path, scenes_of
from tasks.inference_options import ClassifyOptions, DetectOptions


@flow(name="infer")
def infer(
    model: str = "trees@champion",
    imagery: str = "imagery",
    out: str = "results",
    detect: DetectOptions = DetectOptions(),  # noqa: B008  (frozen)
    classify: ClassifyOptions = ClassifyOptions(),  # noqa: B008
) -> str:
    """Find objects or classify pixels; returns the path of the result, or the folder of several.

    Args:
        model: registry reference such as trees@champion or trees@3, or a .dlpk file
        imagery: a raster, a folder of rasters, or a pattern such as scenes/*.tif
        out: the file to write when imagery is a single raster; else a folder, with a result for each raster
        detect: used when the model detects objects
        classify: used when the model classifies pixels
    """
    scenes = scenes_of(imagery)
    known = steps.fetch(model)
    options = {"detect-objects": detect, "classify-pixels": classify}[known.tool]
    places = [result_path(known.tool, scene, imagery, Path(out)) for scene in scenes]
    results = [steps.infer(known, scene, place, options) for scene, place in zip(scenes, places, strict=True)]
    steps.report_results(known, results)
    return str(places[0]) if Path(imagery).is_file() else out
