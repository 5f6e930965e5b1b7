"""A result to look at without the result: a few simplified features in degrees, and pictures of a few hundred pixels.

preview.geojson   at most 2,000 features and 1 MB, WGS84: Class, Value, Confidence; the surest, or largest, first
thumbnail.png     the scene, at most 512 pixels a side, with what was found in the colours of the classes
overlay.png       of a class raster: its colours in plate carree over just the bbox, nodata and 0 transparent
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio._err import CPLE_BaseError  # what transform_geom lets through
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from shapely.errors import GEOSException

from registry.emd import ClassLabel
from registry.files import atomic, write_text
from tasks.imagery import gdal_settings

DEGREES = "EPSG:4326"
SIDE, OVERLAY = 512, 1024  # pixels
MOST, LARGEST = 2000, 1_000_000  # features, bytes
PALETTE = ((230, 60, 60), (60, 130, 230), (240, 190, 40), (70, 180, 90), (170, 90, 200), (60, 190, 190))
Colors = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Preview:
    """Where a result lies, in degrees, and the files that show it; without a coordinate system only pictures."""

    geometry: dict[str, Any] | None
    bbox: list[float] | None
    colors: Colors
    files: tuple[Path, ...]


def make_preview(scene: Path, result: Path, classes: Sequence[ClassLabel], folder: Path) -> Preview:
    """Draw `result`, features or a class raster made from `scene`, into `folder`."""
    colors = {c.name: c.color if min(c.color) >= 0 else PALETTE[i % len(PALETTE)] for i, c in enumerate(classes)}
    with gdal_settings():
        geometry, bbox = _footprint(scene)
        if result.suffix.lower() in {".tif", ".tiff"}:
            files = _show_raster(scene, result, {c.value: c.name for c in classes}, colors, bbox, folder)
        else:
            files = _show_features(scene, result, colors, bbox, folder)
    return Preview(geometry, bbox, colors, tuple(files))


def _footprint(scene: Path) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Nothing of a system that has no place on the earth, or corners that have none: those of a satellite's disk."""
    with rasterio.open(scene) as raster:
        if raster.crs is None:
            return None, None
        box = shapely.segmentize(shapely.box(*raster.bounds), max(raster.width, raster.height) * raster.res[0] / 8)
        try:
            outline = rasterio.warp.transform_geom(raster.crs, DEGREES, shapely.geometry.mapping(box))
            bent = shapely.geometry.shape(outline).simplify(1e-6)  # a straight side keeps its two ends
            shape = shapely.set_precision(bent, 1e-7)
        except (CPLE_BaseError, GEOSException, SystemError):  # the last one: GDAL has failed and told nothing
            return None, None
    return json.loads(shapely.to_geojson(shape)), [round(side, 7) for side in shape.bounds]


# -- features ----------------------------------------------------------------------------------------------------------
def _show_features(scene: Path, result: Path, colors: Colors, bbox: list[float] | None, folder: Path) -> list[Path]:
    table = _read(result)
    picture, factor, inverse = _picture(scene)
    if not isinstance(table, geopandas.GeoDataFrame):  # objects without a place
        return [_save(picture, folder / "thumbnail.png")]
    drawing = ImageDraw.Draw(picture)
    placed = table[shapely.get_num_coordinates(table.geometry.to_numpy()) > 0]
    names = placed["Class"] if "Class" in placed else [""] * len(placed)
    for polygon, name in zip(placed.geometry, names, strict=True):
        for part in getattr(polygon, "geoms", [polygon]):
            corners = [inverse @ corner[:2] for corner in getattr(part, "exterior", part).coords]
            points = [(x * factor, y * factor) for x, y in corners]
            drawing.line(points, fill=colors.get(name, PALETTE[0]), width=2)
    files = [_save(picture, folder / "thumbnail.png")]
    return files if table.crs is None or bbox is None else [*files, _write_preview(table, folder)]


def _read(result: Path) -> Any:
    if result.suffix.lower() != ".parquet":
        return geopandas.read_file(result)
    try:
        return geopandas.read_parquet(result)
    except ValueError:  # a table without geometry
        import pandas

        return pandas.read_parquet(result)


def _write_preview(table: geopandas.GeoDataFrame, folder: Path, order: str = "Confidence") -> Path:
    shown = table.sort_values(order, ascending=False) if order in table else table
    shown = shown[[name for name in ("Class", "Value", "Confidence", "geometry") if name in shown]]
    shown = shown.head(MOST).to_crs(DEGREES)
    west, south, east, north = shown.total_bounds if len(shown) else (0, 0, 0, 0)
    shown = shown.set_geometry(shown.simplify(max(east - west, north - south) / 2048))
    while True:
        text = shown.to_json(drop_id=True)
        rounded = json.dumps(_rounded(json.loads(text)), separators=(",", ":"))
        if len(rounded) <= LARGEST:
            return write_text(folder / "preview.geojson", rounded)
        shown = shown.head(len(shown) // 2)


def _rounded(value: Any) -> Any:
    """Seven digits of a degree are a centimetre."""
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items() if key != "crs"}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


# -- class rasters -----------------------------------------------------------------------------------------------------
def _show_raster(
    scene: Path, result: Path, names: Mapping[int, str], colors: Colors, bbox: list[float] | None, folder: Path
) -> list[Path]:
    with rasterio.open(result) as raster:
        high, wide = _fitted(raster.height, raster.width, SIDE)
        values = raster.read(1, out_shape=(high, wide), resampling=Resampling.mode)
        crs, transform, nodata = raster.crs, raster.transform, raster.nodata
        grid = transform @ transform.scale(raster.width / wide, raster.height / high)
    picture, _, _ = _picture(scene)
    tint = Image.fromarray(_painted(values, names, colors, nodata, 150)).resize(picture.size, Image.Resampling.NEAREST)
    picture.paste(tint, mask=tint)
    files = [_save(picture, folder / "thumbnail.png")]
    if crs is None or bbox is None:
        return files
    return [*files, _outlines(values, grid, crs, names, folder), _overlay(result, names, colors, bbox, folder)]


def _outlines(values: NDArray[Any], grid: Any, crs: Any, names: Mapping[int, str], folder: Path) -> Path:
    """The areas of the classes; the largest are kept."""
    known = np.isin(values, [value for value in names if value])
    pairs = list(rasterio.features.shapes(values.astype(np.int32), mask=known, transform=grid))
    shapes = [shapely.geometry.shape(outline) for outline, _ in pairs]
    facts = {"Class": [names[int(value)] for _, value in pairs], "Value": [int(value) for _, value in pairs]}
    table = geopandas.GeoDataFrame(
        {**facts, "size": [shape.area for shape in shapes]}, geometry=shapes, crs=crs.to_wkt()
    )
    return _write_preview(table, folder, "size")


def _overlay(result: Path, names: Mapping[int, str], colors: Colors, bbox: list[float], folder: Path) -> Path:
    west, south, east, north = bbox
    high, wide = _fitted(int(1e6 * (north - south)) + 1, int(1e6 * (east - west)) + 1, OVERLAY)
    with rasterio.open(result) as raster:
        nodata = raster.nodata if raster.nodata is not None else 0
        values = np.full((high, wide), nodata, raster.dtypes[0])
        place = {"dst_transform": from_bounds(west, south, east, north, wide, high), "dst_crs": DEGREES}
        rasterio.warp.reproject(rasterio.band(raster, 1), values, **place, dst_nodata=nodata)
    return _save(Image.fromarray(_painted(values, names, colors, nodata, 255)), folder / "overlay.png")


def _painted(
    values: NDArray[Any], names: Mapping[int, str], colors: Colors, nodata: float | None, alpha: int
) -> NDArray[np.uint8]:
    """(rows, cols) class Values -> (rows, cols, 4) uint8 RGBA."""
    image = np.zeros((*values.shape, 4), np.uint8)
    for value, name in names.items():
        if value and value != nodata:
            image[values == value] = (*colors[name], alpha)
    return image


# -- the scene ---------------------------------------------------------------------------------------------------------
def _picture(scene: Path) -> tuple[Image.Image, float, Any]:
    """A small picture, its pixels for one of the scene, and the way from map coordinates to pixels of the scene."""
    with rasterio.open(scene) as raster:
        high, wide = _fitted(raster.height, raster.width, SIDE)
        bands = (1, 2, 3) if raster.count >= 3 else (1, 1, 1)
        pixels = raster.read(bands, out_shape=(3, high, wide), masked=True, resampling=Resampling.average)
        factor, inverse = wide / raster.width, ~raster.transform
    image = np.zeros((high, wide, 3), np.uint8)
    for i, band in enumerate(np.ma.masked_invalid(pixels)):
        known = band.compressed()
        low, top = np.percentile(known, (2, 98)) if len(known) else (0, 1)
        stretched = (band.filled(low).astype(np.float32) - low) / max(float(top - low), 1e-6)
        image[:, :, i] = (255 * stretched.clip(0, 1)).astype(np.uint8)
    return Image.fromarray(image), factor, inverse


def _fitted(high: int, wide: int, most: int) -> tuple[int, int]:
    factor = min(1.0, most / max(high, wide))
    return max(1, round(high * factor)), max(1, round(wide * factor))


def _save(picture: Image.Image, path: Path) -> Path:
    with atomic(path) as part:
        picture.save(part, format="PNG")
    return path
