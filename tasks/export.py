"""Export Training Data For Deep Learning: imagery and labels in, a folder of labelled chips out.

    chips/  images/ labels/ map.txt stats.txt esri_accumulated_stats.json   and, last of all, esri_model_definition.emd

Chips are cut row by row from the upper left corner, in whole pixels. A chip that reaches over the edge is filled with
nodata; one with more nodata than `max_nodata_share` is left out. The same input gives the same bytes, whoever does
the work: it is planned, surveyed and written in units (tasks/exporting/plan.py); a killed export goes on with the rest.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.emd import ClassLabel
from registry.errors import OptionsError
from tasks.chips import DEFINITION, ChipFolder
from tasks.exporting.crew import crew
from tasks.exporting.options import ExportOptions as ExportOptions  # noqa: PLC0414  # where it is looked for
from tasks.exporting.options import Extent
from tasks.exporting.plan import Job
from tasks.progress import OnProgress, ignore

if TYPE_CHECKING:  # what knows rasters is imported when an export begins
    from contextlib import AbstractContextManager

    from tasks.exporting.crew import Run
    from tasks.exporting.forecast import Forecast
    from tasks.exporting.run import Hire
    from tasks.sources import Imageries

# A worker more takes as long to start as so many pixels to cut
PIXELS_PER_INTERPRETER, PIXELS_PER_FORK = 512 * 256 * 256, 32 * 256 * 256


def export_training_data(
    imagery: "Imageries",
    labels: Path | None,
    out: Path,
    options: ExportOptions,
    *,
    classes: Sequence[ClassLabel] = (),
    on_progress: OnProgress = ignore,
    workers: int | None = None,
) -> ChipFolder:
    """Cut imagery into labelled chips, as Export Training Data For Deep Learning does (ArcGIS formats D, F.1).

    `workers` is how many processes share the work, None: one for each CPU; it changes no byte. A finished export of the
    same input is returned as it is, a killed one goes on. With `start_index` above 0 chips are added to the export in
    `out`. Raises ImageryError, LabelError, OptionsError, Conflict, StoreError.
    """
    from tasks.sources import find_rasters

    job = Job(find_rasters(imagery), labels, out, options, tuple(classes))
    return export_with(hired(workers, job), job, on_progress)


def export_with(hire: "Hire", job: Job, tell: OnProgress = ignore) -> ChipFolder:
    """The same with whoever is hired: `hire(pixels)` gives a crew for so many pixels of chips."""
    import tasks.formats
    from registry import plugins
    from tasks import receipt
    from tasks.exporting import append
    from tasks.exporting.run import VERB, run_export

    if receipt.holds(job.out, VERB, job.facts) and _is_whole(job.out):
        return ChipFolder.open(job.out)
    if sides := getattr(plugins.load(tasks.formats, job.options.metadata_format), "SIDES", ()):
        _export_sides(hire, job, sides, tell)
    elif append.is_wanted(job):
        append.append(hire, job, tell)
    else:
        run_export(hire, job, tell)
    return ChipFolder.open(job.out)


def dry_run(
    imagery: "Imageries",
    labels: Path | None,
    options: ExportOptions,
    *,
    classes: Sequence[ClassLabel] = (),
    on_progress: OnProgress = ignore,
    workers: int | None = None,
) -> "Forecast":
    """What an export would give: plan and survey are done, a few chips are written elsewhere and timed.

    Raises what the export would raise before its first chip.
    """
    from tasks.exporting.forecast import forecast
    from tasks.sources import find_rasters

    job = Job(find_rasters(imagery), labels, Path(os.devnull), options, tuple(classes))
    return forecast(hired(workers, job), job, on_progress)


def hired(workers: int | None, job: Job) -> "Hire":
    """As many processes as are asked for and worth their start; None: one for each CPU that we may use."""
    if workers is not None and workers < 1:
        raise OptionsError("workers must be at least 1", got=workers)
    available = workers or len(os.sched_getaffinity(0))

    def hire(pixels: int) -> "AbstractContextManager[Run]":
        from tasks.exporting.units import forkable

        fork = available > 1 and forkable(job)
        return crew(min(available, 1 + pixels // (PIXELS_PER_FORK if fork else PIXELS_PER_INTERPRETER)), fork=fork)

    return hire


def split_extent(imagery: Path, side: str, share: float) -> tuple[Extent, Extent]:
    """Two extents of a scene, in map units: what remains, and the `share` of it held out at `side`.

    `side` is north, east, south or west. Raises OptionsError for several rasters.
    """
    from tasks.imagery import open_imagery
    from tasks.sources import find_rasters

    found = find_rasters(imagery)
    if len(found) > 1:
        do = "give an evaluation scene, or one raster"
        raise OptionsError("hold_out divides a single raster", where=imagery, got=len(found), do=do)
    with open_imagery(found[0]) as image:
        west, south, east, north = image.bounds
    x, y = (east - west) * share, (north - south) * share
    halves = {
        "west": ((west + x, south, east, north), (west, south, west + x, north)),
        "east": ((west, south, east - x, north), (east - x, south, east, north)),
        "south": ((west, south + y, east, north), (west, south, east, south + y)),
        "north": ((west, south, east, north - y), (west, north - y, east, north)),
    }
    return halves[side]


def _export_sides(hire: "Hire", job: Job, sides: Sequence[str], tell: OnProgress) -> None:
    """An export for each raster; the one whose definition says that all are there comes last."""
    from tasks import receipt
    from tasks.exporting import append
    from tasks.exporting.run import VERB, run_export
    from tasks.sources import find_rasters

    if not job.options.in_raster2:
        do = "give in_raster2"
        raise OptionsError(f"{job.options.metadata_format} needs a second raster", do=do)
    adds = job.options.start_index > 0 and (job.out / receipt.NAME).is_file()
    if not adds:
        receipt.claim(job.out, VERB, job.facts)
    sources = dict(zip(sides, (job.imagery, find_rasters(job.options.in_raster2)), strict=True))
    alone = job.options.model_copy(update={"in_raster2": None})
    for side in reversed(sides):
        part = replace(job, imagery=sources[side], out=job.out / side, options=alone)
        if receipt.holds(part.out, VERB, part.facts) and _is_whole(part.out):
            continue
        if append.is_wanted(part):
            append.append(hire, part, tell)
        else:
            run_export(hire, part, tell)
    if adds and not receipt.holds(job.out, VERB, job.facts):
        receipt.write(job.out, VERB, [*receipt.read(job.out, VERB), job.facts])


def _is_whole(out: Path) -> bool:
    return (ChipFolder(out).home / DEFINITION).is_file()
