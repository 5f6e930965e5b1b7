"""A small scene for end-to-end tests: bright roofs on dark ground, a raster and its labels."""

from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine

CELL, SIDE, STEP = 1.0, 16, 48  # metres; pixels of a roof's side; pixels between roofs
CORNER = (500_000.0, 5_500_000.0)  # upper left, EPSG:32633


def roofs(folder: Path, *, columns: int = 8, rows: int = 4) -> tuple[Path, Path]:
    """`town.tif` (3 bands uint8) with one roof in each 48 x 48 pixel field, and `roofs.gpkg` with their outlines."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(7).integers(20, 60, (3, rows * STEP, columns * STEP), dtype=np.uint8)
    corners = [(STEP * row + 14, STEP * column + 14) for row in range(rows) for column in range(columns)]
    for top, left in corners:
        pixels[0, top : top + SIDE, left : left + SIDE] = 220
    west, north = CORNER
    profile = {"driver": "GTiff", "width": columns * STEP, "height": rows * STEP, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        folder / "town.tif", "w", **profile, crs="EPSG:32633", transform=Affine(CELL, 0, west, 0, -CELL, north)
    ) as raster:
        raster.write(pixels)
    outlines = [shapely.box(west + x, north - y - SIDE, west + x + SIDE, north - y) for y, x in corners]
    table = geopandas.GeoDataFrame({"Classvalue": [1] * len(outlines)}, geometry=outlines, crs="EPSG:32633")
    table["Classname"] = "roof"
    table.to_file(folder / "roofs.gpkg", driver="GPKG")
    return folder / "town.tif", folder / "roofs.gpkg"
