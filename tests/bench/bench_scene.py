"""A synthetic scene to measure on: a tiled, deflated RGB raster of any side and as many building-like rectangles.

The same arguments give the same files, so figures of different days can be compared. Memory follows a strip of blocks.
"""

from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.windows import Window

CELL, WEST, NORTH, EPSG = 0.3, 500_000.0, 5_400_000.0, 32631
BLOCK = 512
GROUND = np.array([92, 104, 80])
WALLS = np.array([[205, 95, 75], [190, 195, 215]])  # of class 1 and 2
COARSE = 64  # pixels between the supports of the slow change of the ground


def write(folder: Path, side: int = 8192, polygons: int = 5000) -> tuple[Path, Path]:
    """`rgb_<side>.tif` with `polygons` rectangles drawn into it and `labels_<side>_<polygons>.gpkg`, once."""
    imagery, labels = folder / f"rgb_{side}_{polygons}.tif", folder / f"labels_{side}_{polygons}.gpkg"
    if imagery.exists() and labels.exists():
        return imagery, labels
    folder.mkdir(parents=True, exist_ok=True)
    corners, classes = _rectangles(side, polygons)
    _write_imagery(imagery, side, corners, classes)
    frame = geopandas.GeoDataFrame({"Classvalue": classes, "Classname": [f"kind {c}" for c in classes]})
    places = corners * [CELL, -CELL] + [WEST, NORTH]
    frame.set_geometry(shapely.polygons(places)).set_crs(EPSG).to_file(labels, driver="GPKG")
    return imagery, labels


def _rectangles(side: int, number: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(number, 4, 2) corners in pixels, turned at random, one in each field of a grid so that none overlap."""
    random = np.random.default_rng(7)
    fields = int(np.ceil(np.sqrt(number)))
    step = side / fields
    row, col = np.divmod(random.permutation(fields * fields)[:number], fields)
    size = random.uniform(0.1, 0.38, (number, 2)) * min(step, 115)
    middle = np.stack([col + 0.5, row + 0.5], 1) * step + random.uniform(-0.2, 0.2, (number, 2)) * step
    turn = random.uniform(0, np.pi, number)
    axes = np.stack([np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([-np.sin(turn), np.cos(turn)], 1)], 1)
    around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return (around * size[:, None]) @ axes + middle[:, None], random.integers(1, 3, number)


def _write_imagery(path: Path, side: int, corners: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
    random = np.random.default_rng(8)
    coarse = random.standard_normal((side // COARSE + 2, side // COARSE + 2)) * 22
    shapes, tree = shapely.polygons(corners), shapely.STRtree(shapely.polygons(corners))
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": EPSG}
    tiles = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "predictor": 2}
    with rasterio.open(
        path,
        "w",
        **profile,
        **tiles,
        transform=Affine(CELL, 0, WEST, 0, -CELL, NORTH),
        num_threads=2,
        bigtiff="IF_SAFER",
    ) as raster:
        for top in range(0, side, BLOCK):
            rows = min(BLOCK, side - top)
            seen = np.sort(tree.query(shapely.box(0, top, side, top + rows)))
            burnt = zip(shapes[seen], classes[seen].tolist(), strict=True)
            kinds = rasterize(burnt, (rows, side), transform=Affine.translation(0, top)) if len(seen) else 0
            grain = random.standard_normal((3, rows, side), np.float32) * 4
            raster.write(_coloured(kinds, grain, _ground(coarse, top, rows, side)), window=Window(0, top, side, rows))


def _ground(coarse: NDArray[np.float64], top: int, rows: int, side: int) -> NDArray[np.float64]:
    """The slow change, linear between its supports."""
    y, x = np.arange(top, top + rows) / COARSE, np.arange(side) / COARSE
    upper, left = y.astype(int), x.astype(int)
    down, right = (y - upper)[:, None], x - left
    lines = coarse[upper] * (1 - down) + coarse[upper + 1] * down
    ground: NDArray[np.float64] = lines[:, left] * (1 - right) + lines[:, left + 1] * right
    return ground


def _coloured(
    kinds: NDArray[np.uint8] | int, grain: NDArray[np.float32], ground: NDArray[np.float64]
) -> NDArray[np.uint8]:
    picture = GROUND[:, None, None] + ground + grain
    for kind, colour in enumerate(WALLS, start=1):
        picture = np.where(kinds == kind, colour[:, None, None] + grain, picture)
    return picture.clip(1, 255).astype(np.uint8)


def split(folder: Path, imagery: Path, parts: int) -> Path:
    """A folder with the raster in `parts` x `parts` files, made once."""
    if folder.exists():
        return folder
    draft = folder.with_name(f"{folder.name}.part")
    draft.mkdir(parents=True, exist_ok=True)
    with rasterio.open(imagery) as source:
        width, height = source.width // parts, source.height // parts
        for row in range(parts):
            for col in range(parts):
                window = Window(col * width, row * height, width, height)
                profile = source.profile | {"width": width, "height": height}
                profile["transform"] = source.window_transform(window)
                with rasterio.open(draft / f"{row}_{col}.tif", "w", **profile) as file:
                    file.write(source.read(window=window))
    return draft.rename(folder)


def sparse(folder: Path, imagery: Path, side: int) -> Path:
    """A virtual raster of side x side pixels whose upper left corner is the raster; elsewhere there is nothing."""
    path = folder / f"sparse_{side}.vrt"
    if path.exists():  # a new time would begin a killed run anew
        return path
    with rasterio.open(imagery) as source:
        crs, grid = source.crs.to_wkt().replace('"', "&quot;"), ", ".join(map(str, source.transform.to_gdal()))
        width, height = source.width, source.height
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue><ComplexSource>'
        f'<SourceFilename relativeToVRT="0">{imagery.resolve()}</SourceFilename><SourceBand>{band}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/><NODATA>0</NODATA>'
        f"</ComplexSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    text = f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{crs}</SRS><GeoTransform>{grid}</GeoTransform>'
    path.write_text(f"{text}{bands}</VRTDataset>")
    return path
