"""What became brighter in an invented town between two dates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from registry.errors import ImageryError, OptionsError
from tasks.detect_change import detect_change
from tasks.host import RasterFunction
from tasks.inference_options import ChangeOptions, tool_of

GREY = {"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}
CHANGE: dict[str, Any] = {
    "ExtractBands": [0, 1],
    "Classes": [
        {"Value": 0, "Name": "NoChange", "Color": [0, 0, 0]},
        {"Value": 255, "Name": "Change", "Color": [255, 255, 255]},
    ],
    "AllTilesStats": [GREY] * 2,
}
GROUND = 10


def before(rows: int = 150, cols: int = 170) -> Any:
    return np.full((rows, cols), GROUND, np.uint8)


def after(rows: int = 150, cols: int = 170) -> Any:
    pixels = before(rows, cols)
    pixels[40:60, 90:130] = 200
    return pixels


def moved(columns: float, rows: float, cell: float = 0.5) -> Affine:
    return Affine(cell, 0, 500000 + columns * 0.5, 0, -cell, 4600000 - rows * 0.5)


def test_change_is_found_where_it_is_and_told_in_the_classes_of_the_model(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, ticks = make_model("brighter", **CHANGE), list[Any]()
    one, two = make_raster(before(), "one.tif"), make_raster(after(), "two.tif")
    out = detect_change(model, one, two, tmp_path / "change.tif", ChangeOptions(), on_progress=ticks.append)
    with rasterio.open(out) as raster:
        assert np.array_equal((after() != before()) * 255, raster.read(1))
        assert ("uint8", 254, "town") == (raster.dtypes[0], raster.nodata, raster.tags()["MODEL_NAME"])
        assert (255, 255, 255, 255) == raster.colormap(1)[255]
    assert ticks[-1].done == ticks[-1].total


@pytest.mark.parametrize(("share", "expected"), [((0.8, 0.9), 1), ((0.1, 0.2), 0), ((0.4, 0.6), 1)])  # max, min, mean
def test_views_that_are_merged_change_what_is_as_likely_as_the_threshold(
    make_model: Any, share: tuple[float, float], expected: int
) -> None:
    function = RasterFunction.load(make_model("brighter", **CHANGE))._function
    function._looked = lambda _: torch.tensor(share).reshape(1, 2, 1, 1)
    assert [[[expected]]] == function._indexes(None).tolist()


def test_a_second_date_on_a_grid_of_whole_pixels_is_shifted_not_resampled(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    one = make_raster(before(), "one.tif")
    two = make_raster(after()[30:, 20:], "two.tif", transform=moved(20, 30))
    with rasterio.open(
        detect_change(make_model("brighter", **CHANGE), one, two, tmp_path / "c.tif", ChangeOptions())
    ) as raster:
        expected = np.where(after() != before(), 255, 0)
        expected[:30], expected[:, :20] = 254, 254  # the second date does not reach there
        assert np.array_equal(expected, raster.read(1))


def test_a_second_date_on_another_grid_is_warped_onto_the_first(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    one = make_raster(before(), "one.tif")
    finer = make_raster(np.kron(after(), np.ones((2, 2), np.uint8)), "two.tif", transform=moved(0, 0, cell=0.25))
    out = detect_change(make_model("brighter", **CHANGE), one, finer, tmp_path / "c.tif", ChangeOptions())
    with rasterio.open(out) as raster, rasterio.open(one) as grid:
        assert (grid.shape, grid.transform) == (raster.shape, raster.transform)
        found = raster.read(1) == 255
    assert found[41:59, 91:129].all()
    assert not found[:39].any()
    assert 20 * 40 == pytest.approx(found.sum(), abs=130)  # the rim may go either way


def test_each_date_gives_the_bands_that_the_model_was_trained_on(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    """The model knows dates of two bands and reads the second of each; these rasters have three."""
    noise = np.random.default_rng(3).integers(0, 255, (2, 150, 170), dtype=np.uint8)
    rasters = [
        make_raster(np.stack([noise[i], pixels, noise[1 - i]]), f"{i}.tif")
        for i, pixels in enumerate((before(), after()))
    ]
    model = make_model("brighter", **CHANGE | {"ExtractBands": [1, 3], "AllTilesStats": [GREY] * 4})
    first, second = rasters
    with rasterio.open(detect_change(model, first, second, tmp_path / "c.tif", ChangeOptions())) as raster:
        assert np.array_equal((after() != before()) * 255, raster.read(1))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_without_a_place_are_compared_pixel_on_pixel(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    plain: dict[str, Any] = {"crs": None, "transform": None}
    one, two = make_raster(before(), "one.tif", **plain), make_raster(after(), "two.tif", **plain)
    out = detect_change(make_model("brighter", **CHANGE), one, two, tmp_path / "c.tif", ChangeOptions())
    with rasterio.open(out) as raster:
        assert 20 * 40 == (raster.read(1) == 255).sum()


def test_two_rasters_that_cannot_be_compared_are_refused(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, out = make_model("brighter", **CHANGE), tmp_path / "c.tif"
    one = make_raster(before(), "one.tif")
    unplaced = make_raster(after(), "flat.tif", crs=None, transform=moved(0, 0, cell=0.3))
    for message, two in (
        ("away.tif: does not overlap one.tif", make_raster(after(), "away.tif", transform=moved(9000, 0))),
        ("deep.tif: expected uint8 as in one.tif", make_raster(after().astype(np.uint16), "deep.tif")),
        ("flat.tif: has no coordinate system, the other raster has", unplaced),
    ):
        with pytest.raises(ImageryError, match=message):
            detect_change(model, one, two, out, ChangeOptions())
    with pytest.raises(OptionsError, match="is imagery that is read, and would be replaced"):
        detect_change(model, one, one, one, ChangeOptions(cell_size=1.0))
    with pytest.raises(OptionsError, match="use dlpk classify-pixels"):
        detect_change(make_model("levels", name="lakes"), one, one, out, ChangeOptions())
    assert not out.exists()


@pytest.mark.parametrize(
    ("keys", "tool"),
    [
        ({}, "classify-pixels"),
        ({"ModelName": "ChangeDetector"}, "detect-change"),
        ({"ModelConfiguration": {"Name": "change_detection"}}, "detect-change"),
        ({"Classes": CHANGE["Classes"]}, "detect-change"),
        ({"ModelType": "ObjectClassification"}, "classify-objects"),
        ({"ModelType": "SuperResolution"}, None),
        ({"ModelType": "Poetry"}, None),
    ],
)
def test_a_model_of_two_dates_is_known_by_a_name_or_by_its_classes(
    make_model: Any, keys: dict[str, Any], tool: str | None
) -> None:
    assert tool == tool_of(make_model("levels").emd.replace(**keys))
