"""Where the plan of an export meets the split: the part of each window, and more windows for rare classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.exporting.chip_split import PARTS, assign, extra_windows
from tasks.exporting.plan import Found, Job, Unit, units_of
from tasks.exporting.scene import Scenes
from tasks.exporting.scene_labels import Objects
from tasks.exporting.units import desk

# Bounds in pixels (n, 4), class indexes (n,) and scenes (n,) of what a rare class is found in
Things = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]
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
    """Windows around features of rare classes, or around chips that hold one, away from what is validated on."""
    scenes, options = desk.open(job), job.options
    kept = {f.index: f for f in found if not f.reason}
    trained = [f for f in kept.values() if not parts or parts[f.index] == PARTS[0]]
    counts = [sum(i in f.classes for f in trained) for i in range(1, len(scenes.classes) + 1)]
    held_out = {i: f for i, f in kept.items() if parts and parts[i] in PARTS[1:]}
    others = [bounds for _, bounds in _places(scenes, units, held_out).values()]
    features, labels, rasters = _features(scenes) if _of_objects(scenes) else _ground(units, trained)
    windows = extra_windows(
        features,
        labels,
        rasters,
        counts,
        size=(options.tile_size_x, options.tile_size_y),
        areas=[scenes[i].area for i in range(len(scenes))],
        place=scenes.ground,
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
        index: (unit.scene, scenes.ground(unit.scene, window))
        for unit in units
        for window, index in zip(unit.windows, unit.indexes, strict=True)
        if index in kept
    }


def _of_objects(scenes: Scenes) -> bool:
    return isinstance(scenes[0].labels, Objects)


def _ground(units: Sequence[Unit], trained: Sequence[Found]) -> Things:
    """The same of chips, once for each class in them, where a raster tells the classes."""
    place_of = {i: (w[:4], unit.scene) for unit in units for w, i in zip(unit.windows, unit.indexes, strict=True)}
    held = [(*place_of[f.index], label) for f in trained for label in f.classes]
    windows, rasters, labels = zip(*held, strict=True) if held else ((), (), ())
    return np.array(windows, np.float64).reshape(-1, 4), np.array(labels, np.int64), np.array(rasters, np.int64)


def _features(scenes: Scenes) -> Things:
    """Bounds in pixels, class index and scene of all features, from the scenes that are not turned."""
    bounds, labels, rasters = [], [], []
    for i in range(0, len(scenes), len(scenes.angles)):
        objects = scenes[i].labels
        assert isinstance(objects, Objects)
        bounds.append(objects.features.bounds)
        labels.append(objects.features.labels)
        rasters.append(np.full(len(objects.features.labels), i))
    return np.concatenate(bounds), np.concatenate(labels), np.concatenate(rasters)
