"""A small exported folder for tests of what reads one: chips of known content, no imagery, no export."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel, Emd
from tasks.chips import SPLITS, Chip, ChipFolder, Grid
from tasks.rasters import write_raster

SIZE, CELL = 64, 0.5
ROOF, POND = ClassLabel(1, "roof", (255, 0, 0)), ClassLabel(2, "pond & moat", (0, 0, 255))
ROOF_BOX, POND_BOX = (8, 8, 24, 32), (32, 40, 64, 64)  # xmin ymin xmax ymax, pixels, half open


def chip(number: int, *, bands: int = 3, dtype: str = "uint8", level: int = 40, things: Sequence[int] = (1, 2)) -> Chip:
    """An even picture with a roof (1) and a pond (2) on it, as boxes, masks of each, and one mask of both."""
    places = {1: ROOF_BOX, 2: POND_BOX}
    masks = np.zeros((len(things), SIZE, SIZE), bool)
    for mask, thing in zip(masks, things, strict=True):
        xmin, ymin, xmax, ymax = places[thing]
        mask[ymin:ymax, xmin:xmax] = True
    both = np.zeros((SIZE, SIZE), np.uint8)
    for mask, thing in zip(masks, things, strict=True):
        both[mask] = thing
    return Chip(
        f"{number:09d}",
        np.full((bands, SIZE, SIZE), level, dtype),
        np.ones((SIZE, SIZE), bool),
        boxes=np.array([places[t] for t in things], np.float32).reshape(-1, 4),
        labels=np.array(things, np.int64),
        mask=both,
        masks=masks,
        grid=Grid("EPSG:32633", (CELL, 0, 500_000 + number * SIZE * CELL, 0, -CELL, 4_600_000)),
    )


def written(
    folder: Path,
    chips: Sequence[Chip],
    metadata_format: str = "PASCAL_VOC_rectangles",
    splits: Mapping[str, Sequence[str]] | None = None,
) -> ChipFolder:
    """The chips as an export in a row from west to east."""
    module = plugins.load(tasks.formats, metadata_format)
    for each in chips:
        for name, image in (("images", each.image), ("images2", each.image2)):
            if image is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                write_raster(folder / name / f"{each.name}.tif", image, each.grid)
        module.write(each, (ROOF, POND), folder, ".tif")
    if hasattr(module, "finish"):
        module.finish(folder, [each.name for each in chips], (ROOF, POND))
    if splits:
        (folder / SPLITS).write_text(json.dumps(splits))
    bands = chips[0].image.shape[0]
    statistics = [{"BandName": f"B{i}", "Min": 0, "Max": 255, "Mean": 40.0, "StdDev": 2.0} for i in range(bands)]
    document = {
        "ImageHeight": SIZE,
        "ImageWidth": SIZE,
        "MetaDataMode": metadata_format,
        "Classes": [ROOF.document(), POND.document()],
        "AllTilesStats": statistics,
        "MinCellSize": {"x": CELL, "y": CELL, "spatialReference": {"wkid": 32633, "latestWkid": 32633}},
    }
    Emd(document).write(folder / "esri_model_definition.emd")
    return ChipFolder.open(folder)
