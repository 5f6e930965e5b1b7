"""Export: imagery and labels in, a folder of labelled chips out, on a worker or on a cluster of them (prefect.yaml).

The same tool as `dlpk export`. Started again after a kill it goes on where it was; a finished export of the same input
is found and not done again. The run's page shows counts, warnings and where preview and report lie.
"""

from prefect import flow

from flows import steps
from flows.recipe import ClassEntry, Imagery
from flows.steps import Cut
from tasks.exporting.options import ExportOptions


@flow(name="export")
def export(
    imagery: Imagery = "imagery.tif",
    labels: str | None = "labels.gpkg",
    out: str = "chips",
    options: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    classes: tuple[ClassEntry, ...] = (),
    workers: int | None = None,
    dask_scheduler: str | None = None,
) -> str:
    """Cut imagery into labelled chips (Export Training Data For Deep Learning); returns their folder.

    Args:
        imagery: raster, folder, STAC item or a list of rasters; local, s3:// or https://
        labels: features (GeoPackage, GeoJSON, Shapefile) or a classified raster, also s3:// or https://; none for
            Export_Tiles and CycleGAN
        out: folder for the chips, new or empty, or an unfinished export of the same input
        options: how chips are cut, under the names of the ArcGIS tool
        classes: the classes; none given: those found in the labels
        workers: processes on this machine; none: one for each CPU
        dask_scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers do it instead
    """
    cut = Cut(imagery, labels, out, options, classes, workers, dask_scheduler)
    steps.report_chips(steps.cut(cut))
    return out
