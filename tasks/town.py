"""An invented town for tests and first tries: 96 x 96 pixels, four bands, three roofs, one pond, all known by heart.

    rows, columns   what            Red  Green  Blue  NearInfrared
    everywhere      meadow           40     60    20           120
    10-26, 10-26    roof            200     80    60            90
    10-22, 58-74    roof            200     80    60            90
    58-74, 30-42    roof            200     80    60            90
    60-84, 60-90    pond             20     40   120            10

Cells are 0.5 m in EPSG:32633, the upper left corner lies at 500000, 4600000; with `noise` every pixel moves a little.
"""

from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray

SIDE, CELL, WEST, NORTH, EPSG = 96, 0.5, 500_000.0, 4_600_000.0, 32633
MEADOW, ROOF, POND = (40, 60, 20, 120), (200, 80, 60, 90), (20, 40, 120, 10)
ROOFS = ((10, 10, 26, 26), (58, 10, 74, 22), (30, 58, 42, 74))  # xmin ymin xmax ymax, pixels, half open
POND_BOX = (60, 60, 90, 84)
BANDS = ("Red", "Green", "Blue", "NearInfrared")
TRANSFORM = Affine(CELL, 0, WEST, 0, -CELL, NORTH)


def pixels(repeat: int = 1, noise: int = 0) -> NDArray[np.uint8]:
    """(4, 96 * repeat, 96 * repeat): the town, again and again."""
    image = np.empty((4, SIDE, SIDE), np.int16)
    image[:] = np.array(MEADOW)[:, None, None]
    for box, colour in [*((roof, ROOF) for roof in ROOFS), (POND_BOX, POND)]:
        xmin, ymin, xmax, ymax = box
        image[:, ymin:ymax, xmin:xmax] = np.array(colour)[:, None, None]
    image = np.tile(image, (1, repeat, repeat))
    image += np.random.default_rng(7).integers(-noise, noise + 1, image.shape, dtype=np.int16)
    return image.clip(1, 255).astype(np.uint8)


def outline(box: tuple[int, int, int, int], column: int = 0, row: int = 0) -> shapely.Polygon:
    """A box of pixels in map coordinates."""
    xmin, ymin, xmax, ymax = (n + d for n, d in zip(box, (column, row, column, row), strict=True))
    return shapely.box(WEST + xmin * CELL, NORTH - ymax * CELL, WEST + xmax * CELL, NORTH - ymin * CELL)


def write(folder: Path, *, repeat: int = 1, noise: int = 0, dtype: str = "uint8") -> tuple[Path, Path]:
    """`town.tif` and `town.gpkg` (fields Classname, Classvalue: roof 1, pond 2)."""
    folder.mkdir(parents=True, exist_ok=True)
    image = pixels(repeat, noise).astype(dtype)
    profile = {"driver": "GTiff", "count": 4, "dtype": dtype, "width": image.shape[2], "height": image.shape[1]}
    with rasterio.open(folder / "town.tif", "w", **profile, crs=f"EPSG:{EPSG}", transform=TRANSFORM) as raster:
        raster.write(image)
        raster.descriptions = BANDS
    shifts = [(SIDE * i, SIDE * j) for j in range(repeat) for i in range(repeat)]
    things = [(box, "roof", 1) for box in ROOFS] + [(POND_BOX, "pond", 2)]
    rows = [(outline(box, *shift), name, value) for shift in shifts for box, name, value in things]
    frame = geopandas.GeoDataFrame(
        {"Classname": [r[1] for r in rows], "Classvalue": [r[2] for r in rows]},
        geometry=[r[0] for r in rows],
        crs=f"EPSG:{EPSG}",
    )
    frame.to_file(folder / "town.gpkg", driver="GPKG")
    return folder / "town.tif", folder / "town.gpkg"
