"""Masks in another coordinate system than the raster's."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from tasks.imagery import open_imagery
from tasks.inference_options import ClassifyOptions
from tasks.parts import Part, wanted_part


def masked(raster: Path, area: Any, folder: Path) -> Any:
    geopandas.GeoDataFrame(geometry=[area, None], crs=4326).to_file(folder / "mask.gpkg")
    with open_imagery(raster) as image:
        part = wanted_part(image, ClassifyOptions(mask=str(folder / "mask.gpkg")))
        assert isinstance(part, Part)
        return part.wanted(0, 0, part.width, part.height)


@pytest.mark.parametrize("crs", [32633, 3857, 3035])
def test_the_whole_world_covers_every_raster(make_raster: Any, tmp_path: Path, crs: int) -> None:
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(15, 45)
    raster = make_raster(np.zeros((100, 100), np.uint8), crs=f"EPSG:{crs}", transform=Affine(10, 0, x, 0, -10, y))
    assert masked(raster, shapely.box(-180, -90, 180, 90), tmp_path).all()


def test_the_edge_of_a_mask_in_degrees_is_a_circle_of_latitude(make_raster: Any, tmp_path: Path) -> None:
    x, y = pyproj.Transformer.from_crs(4326, 32633, always_xy=True).transform(13, 45)
    raster = make_raster(np.zeros((40, 1600), np.uint8), transform=Affine(100, 0, x, 0, -100, y + 2000))
    wanted = masked(raster, shapely.box(12, 44, 16, 45), tmp_path)
    back = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    columns, rows = np.meshgrid(np.arange(1600) + 0.5, np.arange(40) + 0.5)
    east, north = back.transform(x + 100 * columns, y + 2000 - 100 * rows)
    sure = np.abs(north - 45) > 2e-4  # a fifth of a pixel
    assert np.array_equal(((north < 45) & (east < 16))[sure], wanted[sure])
