"""Ponds of an invented town, classified alike whatever the tiles."""

import ctypes
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from registry.emd import ClassLabel
from registry.errors import DlpkError, OptionsError, StoreError
from tasks.classify_pixels import classify_pixels
from tasks.imagery import bounds_of
from tasks.inference_options import ClassifyOptions, ModelSource
from tasks.results import pixel_type


def picture(rows: int, cols: int) -> Any:
    """Blotches of 0 to 250, so that neighbouring pixels often fall into different classes."""
    y, x = np.mgrid[:rows, :cols]
    return (125 + 125 * np.sin(x / 3) * np.cos(y / 4)).astype(np.uint8)


def by_hand(pixels: Any, level: float = 100) -> Any:
    """What the network of the fixture gives for the whole raster at once: the mean of 5 x 5, in steps of `level`."""
    framed = np.pad(pixels.astype(float), 2)
    rows, cols = pixels.shape
    mean = np.mean([framed[r : r + rows, c : c + cols] for r in range(5) for c in range(5)], axis=0)
    return np.abs(mean[None] - level * np.arange(3)[:, None, None]).argmin(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ["padding 2; batch_size 1", "padding 16; batch_size 4", "padding 7; batch_size 2"]
)
@pytest.mark.parametrize("shape", [(128, 128), (131, 97), (40, 30), (1, 1)])
def test_a_class_does_not_depend_on_the_tiles(
    make_model: Any, make_raster: Any, tmp_path: Path, arguments: str, shape: tuple[int, int]
) -> None:
    pixels, image = picture(*shape), make_raster(picture(*shape))
    options = ClassifyOptions.model_validate({"arguments": arguments})
    for name, looks in (("town", {}), ("near", {"ReceptiveField": 5, "OutputStride": 16})):
        model = make_model("levels", name, **looks)
        with rasterio.open(classify_pixels(model, image, tmp_path / f"{name}_classes.tif", options)) as raster:
            assert by_hand(pixels).tolist() == raster.read(1).tolist()


def test_probabilities_are_a_band_a_class_and_the_likeliest_is_the_class(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    shares = tmp_path / "shares.tif"
    options = ClassifyOptions.model_validate({"arguments": "padding 7; batch_size 2", "probabilities": str(shares)})
    out = classify_pixels(make_model("levels"), make_raster(picture(131, 97)), tmp_path / "classes.tif", options)
    with rasterio.open(shares) as floats, rasterio.open(out) as classes:
        found = floats.read()
        assert (("float32",) * 3, ("Background", "Roof", "Pond")) == (floats.dtypes, floats.descriptions)
        assert found.argmax(axis=0).tolist() == classes.read(1).tolist()
    assert np.allclose(1, found.sum(axis=0), atol=1e-5)


def test_a_class_that_is_not_background_has_all_of_the_probability(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    arguments = "probabilities True; predict_background False; test_time_augmentation True"
    options = ClassifyOptions.model_validate({"arguments": arguments})
    out = classify_pixels(make_model("levels"), make_raster(picture(40, 30)), tmp_path / "shares.tif", options)
    with rasterio.open(out) as raster:
        assert 0 == raster.read(1).max()
        assert np.allclose(1, raster.read().sum(axis=0), atol=1e-5)


@pytest.mark.slow
def test_the_raster_says_what_it_shows_and_who_made_it(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    source, ticks, image = ModelSource("lakes", "3", "ab" * 32), list[Any](), make_raster(picture(700, 600))
    out = tmp_path / "new" / "classes.tif"
    classify_pixels(make_model("levels"), image, out, ClassifyOptions(), source=source, on_progress=ticks.append)
    with rasterio.open(out) as raster, rasterio.open(image) as original:
        assert (original.crs, original.transform, original.shape) == (raster.crs, raster.transform, raster.shape)
        assert ("uint8", 255, 1) == (raster.dtypes[0], raster.nodata, raster.count)
        assert ((230, 60, 40, 255), (0, 90, 200, 255)) == tuple(raster.colormap(1)[v] for v in (1, 2))
        assert source.tags().items() <= raster.tags().items()
        assert ("COG", [2]) == (raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"], raster.overviews(1))
    assert (110, 110) == (len(ticks), ticks[-1].total)
    tables = [f"classes.tif.{end}" for end in ("aux.xml", "vat.cpg", "vat.dbf")]
    assert ["classes.tif", *tables] == sorted(path.name for path in out.parent.iterdir())


def test_gdal_reads_the_attribute_table_and_the_names(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    out = classify_pixels(make_model("levels"), make_raster(picture(64, 64)), tmp_path / "c.tif", ClassifyOptions())
    libraries = list(Path(rasterio.__file__).parent.parent.glob("rasterio.libs/libgdal*"))
    if not libraries:
        pytest.skip("rasterio was not installed from a wheel")
    gdal = ctypes.CDLL(str(libraries[0]))
    for name in (
        "GDALOpen",
        "GDALGetRasterBand",
        "GDALGetDefaultRAT",
        "GDALGetRasterCategoryNames",
        "GDALRATGetValueAsString",
    ):
        getattr(gdal, name).restype = ctypes.c_void_p
    gdal.GDALAllRegister()
    band = ctypes.c_void_p(gdal.GDALGetRasterBand(ctypes.c_void_p(gdal.GDALOpen(str(out).encode(), 0)), 1))
    table = ctypes.c_void_p(gdal.GDALGetDefaultRAT(band))

    def cell(row: int, column: int) -> bytes | None:
        return ctypes.cast(gdal.GDALRATGetValueAsString(table, row, column), ctypes.c_char_p).value

    rows = [[cell(r, c) for c in range(5)] for r in range(2)]
    assert [[b"1", b"Roof", b"230", b"60", b"40"], [b"2", b"Pond", b"0", b"90", b"200"]] == rows
    names = ctypes.cast(gdal.GDALGetRasterCategoryNames(band), ctypes.POINTER(ctypes.c_char_p))
    assert [b"", b"Roof", b"Pond", None] == [names[i] for i in range(4)]


def test_background_is_a_value_and_holes_are_nodata(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    pixels = np.zeros((80, 200), np.uint8)
    pixels[10:20, 10:20] = 99
    pixels[:, 150:] = 200
    out = classify_pixels(make_model("levels"), make_raster(pixels, nodata=99), tmp_path / "c.tif", ClassifyOptions())
    with rasterio.open(out) as raster:
        assert [0, 1, 2, 255] == np.unique(raster.read(1)).tolist()
        assert 100 == (raster.read_masks(1) == 0).sum()


def test_a_pixel_of_nodata_in_the_bands_of_the_model_alone_is_valid(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    pixels = np.full((2, 40, 50), 200, np.uint8)
    pixels[0, :, :20], pixels[:, :, 40:] = 0, 0  # water in the first band, outside of the scene in both
    out = classify_pixels(make_model("levels"), make_raster(pixels, nodata=0), tmp_path / "c.tif", ClassifyOptions())
    with rasterio.open(out) as raster:
        assert [0, 2, 255] == raster.read(1)[20, [5, 30, 45]].tolist()


def test_nodata_is_the_highest_value_that_no_class_has() -> None:
    def classes(*values: int) -> list[ClassLabel]:
        return [ClassLabel(value, str(value)) for value in values]

    assert ("uint8", 255) == pixel_type("i4", classes(1, 2))
    assert ("uint8", 253) == pixel_type("u1", classes(255, 254))
    assert ("uint16", 65535) == pixel_type("u2", classes(1, 300))
    assert ("int16", 32767) == pixel_type("i2", classes(-1, 5))
    assert ("uint16", 65535) == pixel_type("u1", classes(*range(1, 256)))


def test_a_coarser_working_grid_is_that_of_the_result(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    image = make_raster(np.full((101, 80), 200, np.uint8))
    out = classify_pixels(make_model("levels"), image, tmp_path / "c.tif", ClassifyOptions(cell_size=1.0))
    with rasterio.open(out) as raster:
        assert ((50, 40), 1.0) == (raster.shape, raster.transform.a)
        assert 2 == raster.read(1)[25, 20]


def test_a_south_up_raster_is_classified_at_the_cell_size_of_the_training(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    cell = {"x": 1.0, "y": 1.0, "spatialReference": {"wkid": 32633}}
    model, pixels, found = make_model("levels", MinCellSize=cell, MaxCellSize=cell), picture(128, 96), []
    for name, rows, place in (("north", pixels, (-0.5, 4600064)), ("south", pixels[::-1], (0.5, 4600000))):
        image = make_raster(rows, f"{name}.tif", transform=Affine(0.5, 0, 500000, 0, *place))
        with rasterio.open(classify_pixels(model, image, tmp_path / f"{name}_c.tif", ClassifyOptions())) as raster:
            assert (500000, 4600000, 500048, 4600064) == bounds_of(raster.transform, 48, 64)
            found.append(raster.read(1)[:: -int(raster.transform.e)])
    assert np.array_equal(*found)


def test_imagery_without_crs_is_classified_all_the_same(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    image = make_raster(picture(64, 64), crs=None)
    with rasterio.open(classify_pixels(make_model("levels"), image, tmp_path / "c.tif", ClassifyOptions())) as raster:
        assert (None, 64) == (raster.crs, raster.width)


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    image, out = make_raster(picture(700, 600)), tmp_path / "out" / "classes.tif"
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    model = make_model("levels")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="free some space"):
            classify_pixels(model, image, out, ClassifyOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not out.parent.exists()


def test_bad_input_is_told_and_leaves_what_was_there(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    image, out = make_raster(picture(64, 64)), tmp_path / "out" / "classes.tif"
    with pytest.raises(OptionsError, match="use dlpk detect-objects"):
        classify_pixels(make_model(), image, out, ClassifyOptions())
    model = make_model("levels", "lakes")
    with pytest.raises(OptionsError, match=r"expected .tif or .tiff"):
        classify_pixels(model, image, out.with_suffix(".gpkg"), ClassifyOptions())
    classify_pixels(model, image, out, ClassifyOptions())
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    (model.path / "town.pth").write_bytes(b"no weights")
    with pytest.raises(DlpkError, match="look at the raster function and at the weights"):
        classify_pixels(model, image, out, ClassifyOptions())
    assert before == {path.name: path.read_bytes() for path in out.parent.iterdir()}
