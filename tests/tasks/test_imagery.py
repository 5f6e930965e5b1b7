"""Which pixels are valid, and what resampling makes of them, whatever GDAL thinks of a band."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from tasks.classify_objects import _cut
from tasks.imagery import open_imagery
from tasks.mosaic import laid_on, shift_of

RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
NIR = ("Red", "Green", "Blue", "NIR")
PLACE = {"crs": "EPSG:32633", "transform": Affine(2, 0, 500000, 0, -2, 4600000)}


def coloured(path: Path, fourth: ColorInterp, names: tuple[str, ...] = ()) -> Path:
    """Four bands, of which the first three are red, green and blue."""
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [*RGB, fourth]
        for i, name in enumerate(names, 1):
            raster.set_band_description(i, name)
    return path


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(50, 200, shape).astype(np.uint8)


@pytest.mark.parametrize("first", [ColorInterp.red, ColorInterp.gray])
@pytest.mark.parametrize("bands", [(0, 1, 2), (3,), (0, 1, 2, 3)])
def test_water_without_infrared_is_valid(make_raster: Any, first: ColorInterp, bands: tuple[int, ...]) -> None:
    pixels = noise(4, 20, 30)
    pixels[3, :10], pixels[:, :, 25:] = 0, 0
    with rasterio.open(make_raster(pixels, nodata=0, photometric="RGB"), "r+") as raster:
        raster.colorinterp = [first, *RGB[1:], ColorInterp.undefined]
    with open_imagery(raster.name) as image:
        valid = image.read(0, 0, 30, 20, bands).valid
    assert [True] * 25 + [False] * 5 == valid.all(axis=0).tolist() == valid.any(axis=0).tolist()


@pytest.mark.parametrize("nodata", [0, 255])
def test_a_nodata_value_beside_an_alpha_band_tells_what_is_valid(make_raster: Any, nodata: int) -> None:
    pixels = noise(4, 20, 30)
    pixels[3] = 255
    pixels[:3, :, 25:], pixels[3, :, 25:] = nodata, 0
    with open_imagery(coloured(make_raster(pixels, nodata=nodata, photometric="RGB"), ColorInterp.alpha)) as image:
        assert np.array_equal(pixels[3] > 0, image.read(0, 0, 30, 20).valid)
    with open_imagery(image.path, cell_size=(1, 1)) as image:
        assert [True, False] == image.read(0, 0, 15, 10).valid[5, [5, 14]].tolist()


def test_a_measured_band_that_gdal_takes_for_alpha_weighs_nothing(make_raster: Any, tmp_path: Path) -> None:
    pixels = noise(4, 128, 128)
    pixels[:3, ::2], pixels[:3, 1::2], pixels[3, ::2] = 250, 50, 0
    turned = {"transform": Affine.translation(500000, 4600000) @ Affine.rotation(30) @ Affine.scale(2, -2)}
    for name, profile in (("straight.tif", {}), ("turned.tif", turned)):
        claimed = coloured(make_raster(pixels, name, **PLACE | profile), ColorInterp.alpha, NIR)
        plain = coloured(make_raster(pixels, f"plain-{name}", **PLACE | profile), ColorInterp.undefined, NIR)
        with open_imagery(claimed, straighten=True) as one, open_imagery(plain, straighten=True) as other:
            blocks = [image.read(0, 0, image.width, image.height) for image in (one, other)]
            assert np.array_equal(blocks[0].valid, blocks[1].valid)
            assert np.array_equal(blocks[0].pixels, blocks[1].pixels)
    with open_imagery(tmp_path / "straight.tif") as image:
        assert [150] * 3 == np.unique(_cut(image, (0, 0, 128, 128), (0, 1, 2), (32, 32)).pixels).tolist() * 3


def test_a_pixel_of_an_object_that_is_scaled_down_is_the_mean_of_what_is_valid(make_raster: Any) -> None:
    pixels = np.full((90, 90), 7, np.float32)
    pixels[:, ::2], pixels[:30, :30] = np.nan, np.nan
    with open_imagery(make_raster(pixels)) as image:
        block = _cut(image, (0, 0, 90, 90), None, (30, 30))
    valid = np.ones((30, 30), bool)
    valid[:10, :10] = False
    assert np.array_equal(valid, block.valid)
    assert [0, 7] == np.unique(block.pixels).tolist()
    hidden = np.full((2, 90, 90), 99, np.int16)  # GDAL makes a mask of an alpha band of 8 or 16 bits without sign alone
    hidden[0, ::3], hidden[1, ::3] = 9000, 0
    with rasterio.open(make_raster(hidden), "r+") as raster:
        raster.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    with open_imagery(raster.name) as image:
        assert [99] == np.unique(_cut(image, (0, 0, 90, 90), None, (30, 30)).pixels).tolist()


@pytest.mark.parametrize("profile", [{}, {"nodata": np.nan}])
def test_what_is_no_number_makes_no_holes_around_it(make_raster: Any, profile: Any) -> None:
    pixels = np.full((40, 40), 5, np.float32)
    pixels[::4, ::4] = np.nan
    file = make_raster(pixels, **PLACE | profile)
    with open_imagery(file, cell_size=(8, 8)) as image:
        block = image.read(0, 0, 10, 10)
        assert block.valid.all()
        assert [5] == np.unique(block.pixels).tolist()
    with open_imagery(file, cell_size=(1, 1)) as image:
        assert 0.9 < image.read(0, 0, 80, 80).valid.mean() < 0.97  # 15 of 16 have a number


def test_grids_are_one_where_no_pixel_lies_far_from_another(make_raster: Any) -> None:
    strip = make_raster(
        np.zeros((4000, 60), np.uint8), "strip.tif", **PLACE | {"transform": Affine(10, 0, 0, 0, -10, 0)}
    )
    with open_imagery(strip) as grid:
        for cell, moved, expected in ((10, 0, (0, 0)), (10, 30, (3, 0)), (10.003, 0, None), (10, 4, None)):
            place = PLACE | {"transform": Affine(cell, 0, moved, 0, -cell, 0)}
            with rasterio.open(make_raster(np.zeros((4000, 60), np.uint8), "other.tif", **place)) as source:
                assert expected == shift_of(grid, source)


@pytest.mark.parametrize(("rows", "cols"), [(5, 35), (50, 50)])
def test_a_small_raster_is_laid_on_another_grid_as_a_large_one_is(make_raster: Any, rows: int, cols: int) -> None:
    pixels = noise(300, 300).astype(np.int16)
    moved = PLACE["transform"] @ Affine.translation(-20, -20) @ Affine.translation(0, 0.2)
    later = make_raster(pixels, "later.tif", **PLACE | {"transform": moved, "nodata": 252})
    with (
        open_imagery(make_raster(np.zeros((rows, cols), np.int16), **PLACE)) as grid,
        laid_on(grid, str(later)) as image,
    ):
        found = image.read(0, 0, cols, rows).pixels[0]
    expected = 0.8 * pixels[20 : 20 + rows, 20 : 20 + cols] + 0.2 * pixels[19 : 19 + rows, 20 : 20 + cols]
    assert np.abs(expected - found).max() < 1
