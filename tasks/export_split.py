"""Where the plan of an export meets the split: the part of each window, and more windows for rare classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from registry.errors import OptionsError
from tasks.chip_split import PARTS, assign, extra_windows
from tasks.export_plan import Found, Job, Unit, units_of
from tasks.export_units import desk
from tasks.scene import Scenes
from tasks.scene_labels import Objects

Parts = Mapping[int, str]  # train, validation, test or "" by index of the window; {} = no split


def parts_of(job: Job, units: Sequence[Unit], found: Sequence[Found]) -> Parts:
    """Raises OptionsError when there are fewer blocks than parts."""
    kept = {f.index: f for f in found if not f.reason}
    if job.options.split is None or not kept:
        return {}
    scenes = desk.open(job)
    turns = len(scenes.angles)
    places = _places(scenes, units, kept)
    indexes = sorted(places)
    rasters = [places[i][0] // turns for i in indexes]
    holds = np.array([np.isin(np.arange(1, len(scenes.classes) + 1), kept[i].classes) for i in indexes])
    parts = assign([places[i][1] for i in indexes], job.options, scenes=rasters, holds=holds)
    return dict(zip(indexes, parts, strict=True))


def rare_units(job: Job, units: Sequence[Unit], found: Sequence[Found], parts: Parts) -> list[Unit]:
    """Windows around features of rare classes, away from what is validated and tested on."""
    scenes, options = desk.open(job), job.options
    kept = {f.index: f for f in found if not f.reason}
    trained = [f for f in kept.values() if not parts or parts[f.index] == PARTS[0]]
    counts = [sum(i in f.classes for f in trained) for i in range(1, len(scenes.classes) + 1)]
    held_out = {i: f for i, f in kept.items() if parts and parts[i] in PARTS[1:]}
    others = [bounds for _, bounds in _places(scenes, units, held_out).values()]
    features, labels, rasters = _features(scenes)
    windows = extra_windows(
        features,
        labels,
        rasters,
        counts,
        size=(options.tile_size_x, options.tile_size_y),
        areas=[scenes[i].area for i in range(len(scenes))],
        place=lambda scene, window: scenes[scene].bounds(window),
        others=others,
    )
    first = 1 + max(index for unit in units for index in unit.indexes)
    more: list[Unit] = []
    for scene in sorted({scene for scene, _ in windows}):
        some = sorted(window for where, window in windows if where == scene)
        more += units_of(some, scene, first, scenes[scene].imagery.block_shape, scenes[scene].imagery.width)
        first += len(some)
    return more


def _places(
    scenes: Scenes, units: Sequence[Unit], kept: Mapping[int, Found]
) -> dict[int, tuple[int, tuple[float, float, float, float]]]:
    """Scene and bounds on the map of the windows that are kept."""
    return {
        index: (unit.scene, scenes[unit.scene].bounds(window))
        for unit in units
        for window, index in zip(unit.windows, unit.indexes, strict=True)
        if index in kept
    }


def _features(scenes: Scenes) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Bounds in pixels, class index and scene of all features, from the scenes that are not turned."""
    bounds, labels, rasters = [], [], []
    for i in range(0, len(scenes), len(scenes.angles)):
        objects = scenes[i].labels
        if not isinstance(objects, Objects):
            raise OptionsError("oversample needs features", do="give the objects as features, or leave it out")
        bounds.append(objects.features.bounds)
        labels.append(objects.features.labels)
        rasters.append(np.full(len(objects.features.labels), i))
    return np.concatenate(bounds), np.concatenate(labels), np.concatenate(rasters)
