"""What the inference tools share: the working grid, bands, the walk over blocks (ArcGIS formats E.12)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import ImageryError, OptionsError
from tasks.host import Configuration
from tasks.imagery import SAME_CELL, Block, Imagery, open_imagery, starts
from tasks.inference_options import TOOLS


def check_tool(model: ModelFolder, tool: str) -> None:
    """Raises OptionsError when the model is of a type for another tool, and names it."""
    try:
        right = TOOLS.get(model.emd.model_type)
    except ValueError:  # unknown or missing
        right = None
    if right != tool:
        kind = model.emd.document.get("ModelType")
        do = f"use dlpk {right}" if right else "run it in ArcGIS"
        raise OptionsError(f"is a model for another tool than {tool}", where=model.name, got=kind, do=do)


@contextmanager
def open_working_grid(path: Path, emd: Emd, cell_size: float | None) -> Iterator[Imagery]:
    """The raster at `cell_size`, or at the model's training cell size where its units can be compared."""
    with open_imagery(path) as image:
        transform = image.transform
        own = (abs(transform.a), abs(transform.e))
        cell = (cell_size, cell_size) if cell_size else training_cell(emd, image.crs, own)
        if cell is None:
            yield image
            return
    with open_imagery(path, cell_size=cell) as image:
        yield image


def training_cell(emd: Emd, crs: CRS | None, own: tuple[float, float]) -> tuple[float, float] | None:
    """The cell size the model knows, in units of `crs`; None when `own` is one of those, or nothing can be compared.

    A model has seen MinCellSize to MaxCellSize; a raster outside is brought to the nearer end, because networks know
    objects by their size in pixels. Metres are not compared with degrees, nor units that nobody told.
    """
    ends = [cell for key in ("MinCellSize", "MaxCellSize") if (cell := _in_units(emd.document.get(key), crs))]
    if not ends:
        return None
    low, high = ends[0], ends[-1]
    if own[0] < low[0] * (1 - SAME_CELL):
        return low
    return high if own[0] > high[0] * (1 + SAME_CELL) else None


def _in_units(cell: Any, crs: CRS | None) -> tuple[float, float] | None:
    wkid = (cell.get("spatialReference") or {}).get("wkid") if isinstance(cell, Mapping) else None
    if wkid is None or crs is None:
        return None
    try:
        trained = CRS.from_user_input(wkid)
    except CRSError:
        return None  # an Esri code that PROJ does not know
    if trained.is_geographic != crs.is_geographic or not float(cell["x"]) > 0:
        return None
    factor = trained.units_factor[1] / crs.units_factor[1]
    return float(cell["x"]) * factor, float(cell["y"]) * factor


def band_indexes(image: Imagery, configuration: Configuration) -> tuple[int, ...] | None:
    """The bands that the function asks for, as indexes from 0. Raises ImageryError when the raster has them not."""
    wanted = configuration.extract_bands
    if wanted is None:
        return None
    names = [name.lower() for name in image.band_names]
    found = [(names.index(b.lower()) if b.lower() in names else -1) if isinstance(b, str) else b for b in wanted]
    if missing := [b for b, i in zip(wanted, found, strict=True) if not 0 <= i < image.bands]:
        have = f"the raster has {image.bands} ({', '.join(image.band_names)})"
        what = f"lacks bands of the model, which reads {len(wanted)}: no {', '.join(map(str, missing))}, counted from 0"
        raise ImageryError(f"{what}; {have}", where=image.path, do="use imagery with the bands of the training imagery")
    return tuple(found)


def count_blocks(image: Imagery, configuration: Configuration) -> int:
    return len(starts(image.width, configuration.tx)) * len(starts(image.height, configuration.ty))


def blocks(image: Imagery, configuration: Configuration) -> Iterator[tuple[int, int, Block]]:
    """Every block with its padding, row by row: column and row of its unpadded corner, and its pixels.

    Blocks are whole even at the right and lower edge, whatever fixedTileSize says; outside the raster nothing is valid.
    """
    bands, padding = band_indexes(image, configuration), configuration.padding
    wide, high = configuration.tx + 2 * padding, configuration.ty + 2 * padding
    for row in starts(image.height, configuration.ty):
        for col in starts(image.width, configuration.tx):
            yield col, row, image.read(col - padding, row - padding, wide, high, bands)
