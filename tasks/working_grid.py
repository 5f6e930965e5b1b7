"""The working grid of the inference tools: the raster's own, or one of the cells that the model was trained on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError

from registry.emd import Emd
from registry.errors import ImageryError, OptionsError
from tasks.imagery import SAME_CELL, Imagery, gdal_settings, open_imagery, open_in_pixels, short_name
from tasks.inference_options import InferenceOptions
from tasks.mosaic import alike, mosaic
from tasks.sources import Imageries, find_rasters

FINEST = 10.0  # times finer than the raster that a model's cells may be, before this is taken for a mistake


@contextmanager
def open_working_grid(imagery: Imageries, emd: Emd, options: InferenceOptions) -> Iterator[Imagery]:
    """The raster at `cell_size`, or at the model's training cell size where its units can be compared.

    In pixel space it is read as it is, also where it is rotated or has no grid at all.
    """
    path = mosaicked(imagery)
    if getattr(options, "use_pixelspace", False):
        if options.cell_size:
            do = "leave one of them out"
            raise OptionsError(
                "use_pixelspace and cell_size: pixels as they are have one size", where=short_name(path), do=do
            )
        with open_in_pixels(path) as image:
            yield image
        return
    with open_imagery(path, straighten=True) as image:
        cell = (asked, asked) if (asked := options.cell_size) else training_cell(emd, image.crs, image.cell)
        if cell and not asked:
            _refuse_coarse(image, cell)
        if cell is None:
            yield image
            return
    with open_imagery(path, cell_size=cell, straighten=True) as image:
        yield image


def items_of(imagery: Imageries, mode: str) -> list[Imageries]:
    """What is worked on by itself: each raster, or all of them as one mosaic (processing_mode, F.4)."""
    with gdal_settings():
        names = find_rasters(imagery)
    return list(names) if mode == "PROCESS_ITEMS_SEPARATELY" else [names]


def mosaicked(imagery: Imageries) -> str:
    """The name of a raster, or of the mosaic of several of one kind, as GDAL opens it. Raises ImageryError."""
    with gdal_settings():
        names = find_rasters(imagery)
        return names[0] if len(names) == 1 else mosaic(alike(names, warp=False, any_cell=False))


def _refuse_coarse(image: Imagery, cell: tuple[float, float]) -> None:
    """Raises ImageryError where cells would be made up out of much larger ones: many, and without a thing to see."""
    factor = image.cell[0] / cell[0]
    if factor > FINEST:
        what = f"has cells {factor:,.0f} times as large as those that the model was trained at ({cell[0]:g})"
        do = "use finer imagery, or say at which cell_size to work"
        raise ImageryError(what, where=image.path, got=f"{image.cell[0]:g}", do=do)


def training_cell(emd: Emd, crs: CRS | None, own: tuple[float, float]) -> tuple[float, float] | None:
    """The cell size the model knows, in units of `crs`; None when `own` is one of those, or nothing can be compared.

    A model has seen MinCellSize to MaxCellSize; a raster outside is brought to the nearer end, because networks know
    objects by their size in pixels. Metres are not compared with degrees, nor with those of Mercator, which are true
    on the equator only, nor units that nobody told.
    """
    ends = [cell for key in ("MinCellSize", "MaxCellSize") if (cell := _in_units(emd.document.get(key), crs))]
    if not ends:
        return None
    low, high = ends[0], ends[-1]
    if any(have < least * (1 - SAME_CELL) for have, least in zip(own, low, strict=True)):
        return low
    return high if any(have > most * (1 + SAME_CELL) for have, most in zip(own, high, strict=True)) else None


def _in_units(cell: Any, crs: CRS | None) -> tuple[float, float] | None:
    wkid = (cell.get("spatialReference") or {}).get("wkid") if isinstance(cell, Mapping) else None
    if wkid is None or crs is None:
        return None
    try:
        trained = CRS.from_user_input(wkid)
    except CRSError:
        return None  # an Esri code that PROJ does not know
    if trained.is_geographic != crs.is_geographic or _is_mercator(trained) != _is_mercator(crs):
        return None
    if not float(cell["x"]) > 0:
        return None
    factor = trained.units_factor[1] / crs.units_factor[1]
    return float(cell["x"]) * factor, float(cell["y"]) * factor


def _is_mercator(crs: CRS) -> bool:
    return bool(crs.to_dict().get("proj") == "merc")
