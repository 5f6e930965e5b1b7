"""Bands in files of their own become one raster of which every window is right, without a copied pixel."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

from registry.errors import DlpkError, OptionsError
from tasks.cli import main
from tasks.composite import composite_bands
from tasks.imagery import open_imagery
from tasks.sources import files_read

CELLS = {"B02": 10, "B05": 20, "B09": 60}


def grid(cell: float, x: float = 300_000, y: float = 5_800_000) -> dict[str, Any]:
    return {"transform": Affine(cell, 0, x, 0, -cell, y)}


def noise(side: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(1, 4000, (side, side)).astype(np.uint16)


@pytest.fixture
def bands(make_raster: Any) -> list[Path]:
    """Ground of 1200 m in cells of 10, 20 and 60 m."""
    return [
        make_raster(noise(1200 // cell, cell), f"T33_{band}_{cell}m.tif", **grid(cell)) for band, cell in CELLS.items()
    ]


def names(rasters: list[Path]) -> list[str]:
    return list(map(str, rasters))


def read(path: Path) -> Any:
    with open_imagery(path) as image:
        return image.read(0, 0, image.width, image.height)


def test_the_smallest_cells_and_what_differs_in_the_names_are_taken(bands: list[Path], tmp_path: Path) -> None:
    made = composite_bands(names(bands), tmp_path / "all.vrt")
    with open_imagery(made) as image:
        assert (("B02", "B05", "B09"), (10, 10), 120, 120, "uint16") == (
            *(image.band_names, image.cell, image.width, image.height, image.dtype),
        )
        assert (rasterio.open(bands[0]).read(1) == image.read(0, 0, 120, 120).pixels[0]).all()
    assert {"all.vrt", *(path.name for path in bands)} == {Path(name).name for name in files_read(made)}


def test_coarser_bands_are_interpolated_from_centre_to_centre(make_raster: Any, tmp_path: Path) -> None:
    fine = make_raster(np.full((4, 8), 7, np.uint16), "a.tif", **grid(10))
    coarse = make_raster(np.array([[100, 200, 300, 400]] * 2, np.uint16), "b.tif", **grid(20))
    pixels = read(composite_bands(names([fine, coarse]), tmp_path / "ab.vrt")).pixels
    assert [100, 125, 175, 225, 275, 325, 375, 400] == pixels[1, 0].tolist()


@pytest.mark.parametrize("shift", [0, 7.5])
def test_a_window_shows_what_the_whole_shows(shift: float, make_raster: Any, tmp_path: Path) -> None:
    fine = make_raster(noise(240), "pan.tif", **grid(15, x=300_000 - shift, y=5_800_000 + shift))
    coarse = [make_raster(noise(120, cell), f"{cell}.tif", **grid(cell)) for cell in (30, 45)]
    made = composite_bands(names([fine, *coarse]), tmp_path / "all.vrt")
    with open_imagery(made) as image:
        whole = image.read(0, 0, image.width, image.height).pixels
        for x, y, width, height in ((0, 0, 64, 64), (37, 41, 111, 97), (101, 13, 3, 120), (image.width - 1, 0, 1, 1)):
            part = image.read(x, y, width, height).pixels
            assert (whole[:, y : y + height, x : x + width] == part).all()


def test_the_ground_that_all_cover_is_taken(make_raster: Any, tmp_path: Path) -> None:
    wide = make_raster(noise(30), "wide.tif", **grid(10))
    moved = make_raster(noise(30, 1), "moved.tif", **grid(10, x=300_050, y=5_799_900))
    made = composite_bands(names([wide, moved]), tmp_path / "both.vrt")
    with open_imagery(made) as image:
        assert [300_050, 5_799_700, 300_300, 5_799_900] == list(image.bounds)
    pixels = read(made).pixels
    assert (noise(30)[10:, 5:] == pixels[0]).all()
    assert (noise(30, 1)[:20, :25] == pixels[1]).all()


def test_a_pixel_is_valid_where_any_band_has_more_than_their_common_nodata(make_raster: Any, tmp_path: Path) -> None:
    one, two = np.ones((4, 4), np.uint16), np.ones((4, 4), np.uint16)
    one[0], two[:, 0] = 0, 0
    rasters = [make_raster(pixels, f"{i}.tif", nodata=0) for i, pixels in enumerate((one, two))]
    block = read(composite_bands(names(rasters), tmp_path / "both.vrt"))
    assert [(0, 0)] == list(zip(*np.nonzero(~block.valid), strict=True))


def test_of_different_nodata_a_pixel_is_valid_where_all_rasters_are(make_raster: Any, tmp_path: Path) -> None:
    one, two, three = (np.ones((4, 4), np.int16) for _ in range(3))
    one[0, 0], two[1, 1] = -9999, 0
    rasters = [
        *(make_raster(pixels, f"{i}.tif", nodata=no) for i, (pixels, no) in enumerate(((one, -9999), (two, 0)))),
        make_raster(three, "three.tif"),
        make_raster(np.stack([one, two]), "pair.tif", nodata=0),  # one value, but of two bands
    ]
    block = read(composite_bands(names(rasters), tmp_path / "all.vrt"))
    assert [(0, 0), (1, 1)] == list(zip(*np.nonzero(~block.valid), strict=True))
    assert 5 == len(block.pixels)
    assert not block.pixels[:, 0, 0].any()


def test_names_may_be_given_and_rasters_of_several_bands_keep_theirs(make_raster: Any, tmp_path: Path) -> None:
    colours = make_raster(np.stack([noise(8)] * 3), "visual.tif", photometric="RGB")
    rasters = names([colours, make_raster(noise(8), "nir.tif"), make_raster(np.stack([noise(8)] * 2), "two.tif")])
    for given, expected in (
        ((), ("Red", "Green", "Blue", "nir", "two_1", "two_2")),
        (("visual", "B08", "SAR"), ("Red", "Green", "Blue", "B08", "SAR_1", "SAR_2")),
    ):
        with open_imagery(composite_bands(rasters, tmp_path / "all.vrt", given)) as image:
            assert expected == image.band_names


def test_a_folder_with_all_of_it_may_move(bands: list[Path], tmp_path: Path) -> None:
    composite_bands(names(bands), tmp_path / "all.vrt")
    before = read(tmp_path / "all.vrt").pixels
    (tmp_path / "moved").mkdir()
    for path in (*bands, tmp_path / "all.vrt"):
        shutil.move(path, tmp_path / "moved")
    assert (before == read(tmp_path / "moved" / "all.vrt").pixels).all()


def test_from_a_relative_path_and_written_anew_only_when_changed(
    bands: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    made = composite_bands([path.name for path in bands], Path("elsewhere/all.vrt"))
    monkeypatch.chdir("/")
    assert 3 == len(read(tmp_path / made).pixels)
    changed = (tmp_path / made).stat().st_mtime_ns
    composite_bands(names(bands), tmp_path / made)
    assert changed == (tmp_path / made).stat().st_mtime_ns


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"crs": "EPSG:32632"}, r"b.tif: expected the coordinate system of a.tif, got 'EPSG:32632'; bring it .*-t_srs"),
        ({"crs": None}, r"b.tif: expected the coordinate system of a.tif, got 'None'"),
        (grid(10, x=900_000), "the rasters cover no ground in common; name rasters of one place"),
        ({"transform": Affine(8, 6, 300_000, 6, -8, 5_800_000)}, r"b.tif: is turned against a.tif"),
        ({"transform": Affine(10, 0, 300_000, 0, 10, 5_799_920)}, r"b.tif: is turned against a.tif"),
    ],
)
def test_rasters_that_do_not_lie_on_each_other_are_refused(
    other: dict[str, Any], told: str, make_raster: Any, tmp_path: Path
) -> None:
    rasters = [make_raster(noise(8), "a.tif", **grid(10)), make_raster(noise(8), "b.tif", **(grid(10) | other))]
    with pytest.raises(DlpkError, match=told):
        composite_bands(names(rasters), tmp_path / "both.vrt")
    assert not (tmp_path / "both.vrt").exists()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_without_a_place_go_together_by_their_size(make_raster: Any, tmp_path: Path) -> None:
    nowhere: dict[str, Any] = {"crs": None, "transform": None}
    rasters = [make_raster(noise(side), f"{name}.tif", **nowhere) for name, side in (("a", 8), ("b", 8), ("c", 9))]
    assert (2, 8, 8) == read(composite_bands(names(rasters[:2]), tmp_path / "both.vrt")).pixels.shape
    with pytest.raises(DlpkError, match=r"c.tif: expected the size of a.tif, for neither has a place .*got \(9, 9\)"):
        composite_bands(names(rasters), tmp_path / "all.vrt")


def test_options_that_do_not_fit_are_refused(bands: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"all.tif: expected a .vrt, for no pixel is copied"):
        composite_bands(names(bands), tmp_path / "all.tif")
    with pytest.raises(OptionsError, match=r"band_names: expected 3 names, one for each raster, got \('B02',\)"):
        composite_bands(names(bands), tmp_path / "all.vrt", ("B02",))
    made = composite_bands(names(bands), tmp_path / "all.vrt")
    with pytest.raises(OptionsError, match=r"all.vrt: is imagery that is read"):
        composite_bands(names([*bands, made]), made)


def test_the_command_takes_a_list_in_a_file_and_tells_what_it_made(bands: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(path.name for path in reversed(bands)))
    arguments = ["composite-bands", str(tmp_path / "list.txt"), str(tmp_path / "all.vrt"), "--band-names", "a, b,c"]
    result = CliRunner().invoke(main, arguments)
    assert (0, True) == (result.exit_code, '"a",\n    "b",\n    "c"' in result.output), result.output
