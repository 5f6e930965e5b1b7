"""An export on several machines: the units of `dlpk export`, mapped over a Dask cluster by Prefect.

Every worker needs this program and the same paths: imagery, labels and the folder of chips on a disk or a store that
all of them see. Who does a unit changes no byte, and a killed run goes on with the units that are missing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_dask.task_runners import DaskTaskRunner

from registry.emd import ClassLabel
from tasks.chips import ChipFolder
from tasks.export import export_with
from tasks.exporting.crew import Result, Unit
from tasks.exporting.options import ExportOptions
from tasks.exporting.plan import Job
from tasks.progress import OnProgress, ignore
from tasks.sources import Imageries, find_rasters

UNITS_A_TASK = 16  # about a thousand chips: Prefect's word with its server is short beside it


def export_on_dask(
    imagery: Imageries,
    labels: Path | None,
    out: Path,
    options: ExportOptions,
    *,
    classes: Sequence[ClassLabel] = (),
    scheduler: str | None = None,
    on_progress: OnProgress = ignore,
    **cluster: Any,
) -> ChipFolder:
    """`export_training_data` on the workers of a Dask scheduler, such as tcp://host:8786.

    Without one a cluster on this machine is started for the while; `cluster`: what DaskTaskRunner's cluster_class gets.
    """
    job = Job(find_rasters(imagery), labels, out, options, tuple(classes))
    runner: Any = DaskTaskRunner(address=scheduler) if scheduler else DaskTaskRunner(cluster_kwargs=cluster)
    _export.with_options(task_runner=runner)(job, on_progress)
    return ChipFolder.open(out)


@flow(name="export on Dask", validate_parameters=False)
def _export(job: Job, on_progress: OnProgress) -> None:
    export_with(lambda _pixels: nullcontext(_Cluster()), job, on_progress)


@dataclass
class _Cluster:
    """A crew (tasks/exporting/crew.py) of machines."""

    size: int = 1  # unknown: workers come and go

    def __call__(self, do: Callable[[Unit], Result], units: Sequence[Unit], /) -> Iterator[Result]:
        starts = range(0, len(units), UNITS_A_TASK)
        some = [_units.submit(do, units[i : i + UNITS_A_TASK]) for i in starts]
        for future in some:
            yield from future.result()


@task(name="units", cache_policy=NO_CACHE)
def _units(do: Callable[[Any], Any], units: Sequence[Any]) -> list[Any]:
    return [do(unit) for unit in units]
