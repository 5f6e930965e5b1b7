"""Results in another coordinate system: ArcGIS's environment outputCoordinateSystem (ArcGIS formats F.4).

Models look at pixels as the sensor gave them; only what they found is moved.
"""

from collections import Counter
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, reproject

from registry.errors import ImageryError, OptionsError
from tasks.class_units import Tally, statistics
from tasks.geometries import brought_to, turn_of
from tasks.placement import Located, placement_of
from tasks.results import COG

DRAFT: dict[str, Any] = {"driver": "GTiff", "tiled": True, "compress": "deflate", "bigtiff": "if_safer"}


def system(text: str) -> CRS:
    """Raises OptionsError when nothing is known by that text."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        do = "give e.g. EPSG:32633"
        raise OptionsError("output_coordinate_system: is not known", got=text, do=do) from error


def projected(shapes: NDArray[np.object_], crs: CRS, to: str | None) -> tuple[NDArray[Any], CRS]:
    """n geometries and their coordinate system; as they are where `to` is None."""
    wanted = crs if to is None else system(to)
    return projected_between(shapes, crs, wanted), wanted


def projected_between(shapes: NDArray[np.object_], crs: CRS, wanted: CRS) -> NDArray[Any]:
    return shapes if wanted == crs else brought_to(shapes, crs.to_wkt(), wanted.to_wkt())


def refuse_across(image: Located, to: str) -> None:
    """Raises OptionsError for a raster that lies where x begins anew: GDAL would stretch it around the world."""
    place, wanted = placement_of(image), system(to)
    outline = shapely.transform(shapely.box(0, 0, image.width, image.height), place.to_map)
    west, _, east, _ = shapely.bounds(projected_between(np.array([outline]), place.crs, wanted)[0])
    if west < turn_of(wanted.to_wkt()) / 2 < east:
        what = "lies across 180 degrees, where output_coordinate_system begins anew"
        raise OptionsError(what, where=image.path, got=to, do="choose one of that place, such as its UTM zone")


def warp_result(path: Path, to: str) -> Counter[int]:
    """Bring a raster in a `workshop` to another coordinate system, each pixel the nearest one of before.

    Returns how often each value occurs in the first band then, of whole numbers; nothing where all stays as it is.
    """
    counts, tally = Counter[int](), Tally()

    def carry(draft: rasterio.io.DatasetWriter) -> None:
        draft.update_tags(**source.tags())
        for _, window in draft.block_windows(1):
            here, known = statistics(draft.read(1, window=window), draft.nodata)
            counts.update({int(value): count for value, count in here.items()})
            tally.add(known)
        draft.update_tags(1, **tally.tags)

    wanted = system(to)
    with rasterio.open(path) as source:
        points, crs = source.gcps
        if source.crs == wanted:
            return counts
        if source.crs is None and not points and not source.rpcs:
            do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
            raise ImageryError("has no coordinate system, so it cannot be brought to another", where=path, do=do)
        if source.crs is None and not points:
            _rewrite(path, partial(_by_rpcs, source, wanted), carry)
            return counts
        with WarpedVRT(source, src_crs=source.crs or crs, crs=wanted, resampling=Resampling.nearest) as warped:
            _rewrite(path, partial(_copied, warped), carry)
    return counts


def _by_rpcs(source: rasterio.DatasetReader, wanted: CRS, draft: Path) -> None:
    """As a WarpedVRT would, which takes pixels for degrees where RPCs alone place them."""
    how: dict[str, Any] = {"rpcs": source.rpcs, "RPC_HEIGHT": source.rpcs.height_off}
    known, size = CRS.from_epsg(4326), (source.width, source.height)
    transform, width, height = calculate_default_transform(known, wanted, *size, **how)
    grid = {"crs": wanted, "transform": transform, "width": width, "height": height}
    kind = {"count": source.count, "dtype": source.dtypes[0], "nodata": source.nodata}
    with rasterio.open(draft, "w", **grid, **kind, **DRAFT) as raster:
        raster.descriptions = source.descriptions
        if source.colorinterp[0] == ColorInterp.palette:
            raster.write_colormap(1, source.colormap(1))
        bands = [*source.indexes]
        to = rasterio.band(raster, bands)
        reproject(rasterio.band(source, bands), to, src_crs=known, resampling=Resampling.nearest, **how)


def _copied(source: rasterio.DatasetReader, draft: Path) -> None:
    rasterio.shutil.copy(source, draft, **DRAFT)


def place_result(path: Path, image: Located) -> None:
    """Give a raster in a `workshop` the control points or RPCs of the imagery that it was made of."""
    col, row = image.corner

    def carry(draft: rasterio.io.DatasetWriter) -> None:
        points, crs = image.dataset.gcps
        if points:
            moved = [GroundControlPoint(p.row - row, p.col - col, p.x, p.y, p.z) for p in points]
            draft.gcps = moved, crs
        else:
            rpcs = copy(image.dataset.rpcs)
            rpcs.line_off, rpcs.samp_off = rpcs.line_off - row, rpcs.samp_off - col
            draft.rpcs = rpcs

    with rasterio.open(path) as source:
        _rewrite(path, partial(_copied, source), carry)


def _rewrite(path: Path, draw: Callable[[Path], None], edit: Callable[[rasterio.io.DatasetWriter], None]) -> None:
    """A cloud optimised GeoTIFF of what `draw` makes, in place of the one at `path`."""
    with TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        draft = folder / "draft.tif"
        draw(draft)
        with rasterio.open(draft, "r+") as raster:
            edit(raster)
        rasterio.shutil.copy(draft, folder / path.name, driver="COG", **COG)
        for file in folder.glob("draft.*"):
            file.unlink()
        for file in folder.iterdir():
            file.replace(path.with_name(file.name))
