"""What a worker does with a unit of an export, on whatever machine: look at its windows, or write its chips.

A worker gets a job and a unit, both small, opens the scenes by path and keeps them open until the next job.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio

from registry.emd import ClassLabel
from registry.errors import ImageryError, StoreError
from tasks.exporting.chip_writer import ChipWriter
from tasks.exporting.crew import alone
from tasks.exporting.plan import Found, Job, Unit
from tasks.exporting.scene import Scenes, Survey, open_scenes
from tasks.exporting.scene_labels import Held
from tasks.imagery import CACHE, gdal_env

if TYPE_CHECKING:
    from tasks.chips import Chip
    from tasks.exporting.scene import Scene
    from tasks.windows import Window

UNREADABLE = "unreadable"
LEAST_CACHE = 32 * 2**20  # bytes; less of it decodes blocks twice where rows of windows overlap


class _Desk(threading.local):
    """The scenes that lie open; each thread has its own, for GDAL's readers are not to be shared."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.scenes: Scenes | None = None
        self.stack = ExitStack()
        self.process = os.getpid()

    def open(self, job: Job) -> Scenes:
        source = replace(job, out=Path())  # where it goes to changes nothing of what is seen
        if source != self.job or self.scenes is None:
            self.close()
            self.scenes = self.stack.enter_context(open_scenes(job.imagery, job.labels, job.options, job.classes))
            self.job = source
        elif self.process != os.getpid():
            self.scenes.reopen()  # a fork reads the labels of its parent, but no file through the same handle
        self.process = os.getpid()
        return self.scenes

    def classes(self, job: Job) -> tuple[ClassLabel, ...]:
        """Those of the labels, sorted by Value."""
        return self.open(job).classes

    def close(self) -> None:
        self.stack.close()
        self.job = self.scenes = None


desk = _Desk()


def forkable(job: Job) -> bool:
    """Whether workers may be forks: nobody else is there, and no connection to a server is open that two would use."""
    return alone() and not far(job)


def far(job: Job) -> bool:
    """Whether any pixels lie elsewhere than in files of this machine: of the second date and inside a VRT, too."""
    scenes = desk.open(job)
    return any(scenes[i].far for i in range(0, len(scenes), len(scenes.angles)))


@dataclass(frozen=True)
class Surveyed:
    """What the windows of a unit are worth, and what became of the features in them."""

    unit: int
    found: tuple[Found, ...]
    surveys: tuple[Survey, ...]  # one for each reason, for all windows together


def survey_unit(job: Job, unit: Unit) -> Surveyed:
    """Raises ImageryError for windows that cannot be read, unless they may be skipped."""
    scene = desk.open(job)[unit.scene]
    found, surveys = list[Found](), list[Survey]()
    with _cache(scene, unit):
        for window, index in zip(unit.windows, unit.indexes, strict=True):
            survey = _surveyed(scene, window, skip=job.options.skip_unreadable)
            found.append(Found(index, survey.reason or "", tuple(np.unique(survey.labels).tolist())))
            surveys.append(survey)
    return Surveyed(unit.number, tuple(found), tuple(_together(surveys)))


def write_unit(job: Job, unit: Unit) -> int:
    """Write the chips of a unit, then its part. The number of its windows comes back."""
    scene = desk.open(job)[unit.scene]
    writer = ChipWriter(job.out, desk.classes(job), job.options)
    with _cache(scene, unit):
        for window, index in zip(unit.windows, unit.indexes, strict=True):
            chip = _cut(scene, window, skip=job.options.skip_unreadable)
            if chip is None:
                writer.leave_out(UNREADABLE)
            else:
                writer.add(chip, index)
    writer.finish(unit.number)
    return len(unit.windows)


def _cache(scene: "Scene", unit: Unit) -> rasterio.Env:
    """Decoded blocks of a row of windows, which the next row shares: GDAL would fill what it gets on a large raster."""
    rows, columns = scene.imagery.block_shape
    left, right = min(w[0] for w in unit.windows), max(w[2] for w in unit.windows)
    high = max(w[3] - w[1] for w in unit.windows) + 2 * rows
    wide = max(right - left + 2 * columns, columns)
    needed = wide * high * scene.imagery.bands * np.dtype(scene.imagery.dtype).itemsize
    return gdal_env(GDAL_CACHEMAX=os.environ.get("GDAL_CACHEMAX") or min(max(needed, LEAST_CACHE), CACHE))


def _surveyed(scene: "Scene", window: "Window", *, skip: bool) -> Survey:
    try:
        return scene.survey(window)
    except (ImageryError, StoreError):
        if not skip:
            raise
        return Survey(UNREADABLE, Held(np.zeros(0, np.int64)))


def _together(surveys: Iterable[Survey]) -> Iterable[Survey]:
    """One survey for each reason: of many windows only the features matter, each once."""
    by_reason: dict[str | None, list[Held]] = {}
    for survey in surveys:
        by_reason.setdefault(survey.reason, []).append(survey.held)
    for reason, helds in by_reason.items():
        whys = sorted({why for held in helds for why in held.dropped})
        dropped = {why: _once(held.dropped[why] for held in helds if why in held.dropped) for why in whys}
        yield Survey(reason, Held(np.zeros(0, np.int64), _once(held.features for held in helds), dropped))


def _once(rows: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(list(rows)))


def _cut(scene: "Scene", window: "Window", *, skip: bool) -> "Chip | None":
    try:
        return scene.cut(window)
    except (ImageryError, StoreError):
        if not skip:
            raise
        return None
