"""Evaluate: the champion scored again on fresh labels, monthly or on demand (prefect.yaml).

A model does not change, the world does: the event dlpk.model.drifted tells of one that scores surely less than when it
was published. Figures go to MLflow and the run's page, pictures to a folder of the worker.
"""

from prefect import flow

from flows import rescoring, steps
from flows.recipe import Imagery, LabelledScene
from tasks.exporting.options import ExportOptions


@flow(name="evaluate")
def evaluate(
    model: str = "trees@champion",
    imagery: Imagery = "imagery.tif",
    labels: str = "labels.gpkg",
    in_raster2: str = "",
    export: ExportOptions | None = None,
) -> str:
    """Score a version on labels that it has never seen; returns the verdict in a sentence.

    Args:
        model: registry reference such as trees@champion or trees@3
        imagery: raster of the fresh labels, or a list of them
        labels: features or a class raster, newer than the training
        in_raster2: the later date, for a model that detects change
        export: how chips are cut; none: as the recipe of the version cut them
    """
    known = steps.fetch(model)
    made = rescoring.plan(known, LabelledScene(imagery=imagery, labels=labels, in_raster2=in_raster2), export)
    chips = steps.cut(made.cut)
    scores = rescoring.score(made, chips)
    verdict = rescoring.judge(made, chips, scores)
    rescoring.report(made, scores, verdict)
    return verdict.why
