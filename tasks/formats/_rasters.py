"""Rasters of labels: class Values of pixels, or numbered objects of a class. Always TIFF: a JPEG would blur them.

    labels/000000000.tif                one band of class Values, 0 = background or unlabelled
    labels/<ClassName>/000000000.tif    objects of the class, numbered 1..k in each band, 0 = background

Objects that overlap go to further bands, so that none hides another (ArcGIS formats D.6).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import PICTURES, Chip, class_index, indexes_of
from tasks.formats._labels import SPELLINGS, folder_names, found, no_room, stems
from tasks.rasters import read_raster, write_raster

Pixels = NDArray[np.generic]


def write_labels(path: Path, pixels: Pixels, chip: Chip) -> Path:
    """(bands, rows, cols) on the grid of the chip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_raster(path, pixels, chip.grid)
    except (OSError, RasterioError) as error:
        raise no_room(path, error) from error
    return path


def read_labels(path: Path, chip: Chip) -> NDArray[np.int64]:
    """(bands, rows, cols), 0 where nodata. LabelError when its size is not that of the chip, or for fractions."""
    raster = read_raster(found(path))
    if raster.valid.shape != chip.valid.shape:
        what = f"expected {chip.valid.shape} rows and columns as in the picture"
        raise LabelError(what, where=path, got=raster.valid.shape, do="export the chips again")
    numbers = raster.pixels.astype(np.int64)
    if raster.pixels.dtype.kind == "f" and (numbers != raster.pixels).any():
        raise LabelError(
            "expected whole numbers", where=path, got=str(raster.pixels.dtype), do="export again as integers"
        )
    return numbers * raster.valid


def label_path(folder: Path, name: str) -> Path:
    """The raster of a chip in a folder; ArcGIS may write it as .png or .mrf too."""
    usual = folder / f"{name}.tif"
    others = (folder / f"{name}{suffix}" for suffix in SPELLINGS)
    return usual if usual.is_file() else next((path for path in others if path.is_file()), usual)


def write_classes(path: Path, chip: Chip, classes: Sequence[ClassLabel]) -> Path:
    """The mask as class Values, in the smallest type that holds them."""
    values = np.array([0, *(c.value for c in classes)])
    small = np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max()))
    return write_labels(path, values.astype(small)[_mask(chip)][None], chip)


def read_classes(path: Path, chip: Chip, classes: Sequence[ClassLabel]) -> NDArray[Any]:
    """(rows, cols) class indexes. LabelError for Values that no class has: they would turn into background silently."""
    values = read_labels(path, chip)[0]
    mask, strange = indexes_of(values, class_index(classes))
    if strange.any():
        got = np.unique(values[strange]).tolist()[:10]
        do = "add them to Classes of the definition, or export the chips again"
        raise LabelError("has values of no class in the definition", where=path, got=got, do=do)
    return mask


def write_objects(folder: Path, chip: Chip, classes: Sequence[ClassLabel]) -> tuple[Path, ...]:
    """A raster in the folder of each class that has an object in the chip."""
    masks = _masks(chip)
    written = []
    for i, name in enumerate(folder_names(classes), 1):
        bands = _numbered(masks[chip.labels == i])
        if len(bands):
            written.append(write_labels(folder / name / f"{chip.name}.tif", bands, chip))
    return tuple(written)


def read_objects(
    folder: Path, chip: Chip, classes: Sequence[ClassLabel]
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]:
    """(n, rows, cols) masks, (n, 4) boxes around them, (n,) class indexes, class by class."""
    _only_classes(folder, classes)
    masks, labels = [np.zeros((0, *chip.valid.shape), bool)], []
    for i, label in enumerate(classes, 1):
        path = label_path(folder / label.name, chip.name)
        for band in read_labels(path, chip) if path.is_file() else ():
            numbers = np.unique(band[band != 0])
            masks.append(band == numbers[:, None, None])
            labels += [i] * len(numbers)
    every = np.concatenate(masks)
    return every, around(every), np.array(labels, np.int64)


def chips_with_objects(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    """Names of the chips that have a raster in the folder of some class. Raises LabelError for folders of no class."""
    _only_classes(folder, classes)
    return {name for label in classes for name in stems(folder / label.name, *PICTURES)}


def around(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 4) xmin ymin xmax ymax around each mask, half open."""
    rows, cols = np.asarray(masks.any(axis=2)), np.asarray(masks.any(axis=1))
    low = np.stack([cols.argmax(axis=1), rows.argmax(axis=1)], axis=1)
    high = [cols.shape[1] - cols[:, ::-1].argmax(axis=1), rows.shape[1] - rows[:, ::-1].argmax(axis=1)]
    return np.hstack([low, np.stack(high, axis=1)]).astype(np.float32)


def _numbered(masks: NDArray[np.bool_]) -> Pixels:
    """(bands, rows, cols): each object in the first band where it hides nothing; an object without pixels is none."""
    bands: list[NDArray[np.uint32]] = []
    for i in np.flatnonzero(masks.any(axis=(1, 2))).tolist():
        free = next((band for band in bands if not band[masks[i]].any()), None)
        if free is None:
            bands.append(free := np.zeros(masks.shape[1:], np.uint32))
        free[masks[i]] = free.max() + 1
    stacked = np.array(bands, np.uint32)
    return stacked.astype(np.min_scalar_type(stacked.max())) if bands else stacked


def _only_classes(folder: Path, classes: Sequence[ClassLabel]) -> None:
    """A folder named by Value, or after a class that was renamed, would be missed without a word."""
    there = (
        {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} if folder.is_dir() else set()
    )
    if unknown := sorted(there - {c.name for c in classes}):
        do = "name each folder by the Name of its class in the definition"
        raise LabelError("has folders of no class in the definition", where=folder, got=unknown, do=do)


def _mask(chip: Chip) -> NDArray[Any]:
    if chip.mask is None:
        raise LabelError("the chip has no mask", where=chip.name)
    return chip.mask


def _masks(chip: Chip) -> NDArray[np.bool_]:
    if chip.masks is None:
        raise LabelError("the chip has no masks of its objects", where=chip.name)
    return chip.masks
