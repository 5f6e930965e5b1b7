"""Two rasters of one place as one: the bands of the first date, then those of the second (ArcGIS formats E.9)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from registry.emd import Emd
from registry.errors import ImageryError
from tasks.imagery import Block, Imagery, open_raster, short_name
from tasks.inference_options import InferenceOptions
from tasks.mosaic import laid_on, shift_of
from tasks.parts import Through
from tasks.sources import Imageries
from tasks.working_grid import mosaicked, open_working_grid


@dataclass(frozen=True)
class Pair(Through):
    """Read like a raster, on the grid of the first date."""

    first: Imagery
    second: Imagery

    @property
    def shown(self) -> Imagery:
        return self.first

    @property
    def bands(self) -> int:
        return self.first.bands + self.second.bands

    @property
    def band_names(self) -> tuple[str, ...]:
        return self.first.band_names + self.second.band_names

    def wanted(self, col: int, row: int, width: int, height: int) -> NDArray[np.bool_] | None:
        """Where a result is wanted: everywhere (see `tasks.parts`)."""

    def read(self, col: int, row: int, width: int, height: int, bands: tuple[int, ...] | None = None) -> Block:
        """One window; valid is what both dates have."""
        bands, before = tuple(range(self.bands)) if bands is None else bands, self.first.bands
        window = (col, row, width, height)
        one = self.first.read(*window, tuple(b for b in bands if b < before))
        two = self.second.read(*window, tuple(b - before for b in bands if b >= before))
        valid = one.valid & two.valid
        pixels = np.concatenate([one.pixels, two.pixels])
        if not valid.all():
            np.copyto(pixels, 0, where=~valid)
        return Block(pixels, valid)


@contextmanager
def open_pair(before: Imageries, after: Imageries, emd: Emd, options: InferenceOptions) -> Iterator[Pair]:
    """The first date on its working grid, the second laid upon it, warped where the grids differ.

    Raises ImageryError when they do not overlap, or are of different data types.
    """
    with open_working_grid(before, emd, options) as first:
        name = mosaicked(after)
        _refuse_elsewhere(first, name)
        with laid_on(first, name) as second:
            if first.dtype != second.dtype:
                what = f"expected {first.dtype} as in {first.path.name}: values of two types do not compare"
                do = "bring one to the scale and type of the other, e.g. gdal_translate -ot"
                raise ImageryError(what, where=second.path, got=second.dtype, do=do)
            yield Pair(first, second)


def _refuse_elsewhere(first: Imagery, name: str) -> None:
    """Raises ImageryError when the raster shows nothing of what the first shows."""
    with open_raster(name) as source:
        if source.crs is None or first.crs is None:
            together = shift_of(first, source)
            if together == (0, 0):
                return
            bounds = tuple(source.bounds)
        else:
            try:
                bounds = transform_bounds(source.crs, first.crs, *source.bounds)
            except RasterioError:
                bounds = (np.inf,) * 4
    west, south, east, north = bounds
    xmin, ymin, xmax, ymax = first.bounds
    if not (west < xmax and east > xmin and min(south, north) < ymax and max(south, north) > ymin):
        do = "give two rasters of one place"
        raise ImageryError(f"does not overlap {first.path.name}", where=short_name(name), do=do)
