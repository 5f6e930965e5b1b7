"""Chips of one's own making as a finished export: grey, side by side, 0.5 m a pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tasks.formats
from registry import plugins
from registry.emd import Emd
from tasks.chips import DEFINITION, Chip, ChipFolder, Grid
from tasks.rasters import write_raster

Box = tuple[int, int, int, int]


def chip(picture: Any, boxes: Sequence[Box] = (), **labels: Any) -> Chip:
    """Of a picture (rows, cols) uint8; every box is of the first class unless `labels` are given."""
    ones = np.ones(len(boxes), np.int64)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    known = {"boxes": corners, "labels": ones, **labels}
    return Chip("", picture[None], np.ones(picture.shape, bool), **known)


def write_chips(
    folder: Path,
    chips: Sequence[Chip],
    classes: Sequence[Mapping[str, Any]],
    metadata_format: str = "PASCAL_VOC_rectangles",
) -> ChipFolder:
    module = plugins.load(tasks.formats, metadata_format)
    labels = Emd({"Classes": list(classes)}).classes
    for i, bare in enumerate(chips):
        rows, cols = bare.valid.shape
        grid = Grid("EPSG:32633", (0.5, 0, 500000 + i * cols / 2, 0, -0.5, 4600000))
        named = replace(bare, name=f"{i:09d}", grid=grid)
        for place, image in (("images", named.image), ("images2", named.image2)):
            if image is not None:
                (folder / place).mkdir(parents=True, exist_ok=True)
                write_raster(folder / place / f"{named.name}.tif", image, grid)
        module.write(named, labels, folder, ".tif")
    statistics = [{"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}] * len(bare.image)
    document = {"ImageHeight": rows, "ImageWidth": cols, "Classes": [dict(c) for c in classes]}
    document |= {"MetaDataMode": metadata_format, "AllTilesStats": statistics, "ModelFile": "e.g. trained.pth"}
    Emd(document).write(folder / DEFINITION)
    return ChipFolder.open(folder)
