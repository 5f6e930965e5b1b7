from pathlib import Path

import pytest

from flows.places import is_stream, pairs_of, result_paths, scenes_of
from registry.errors import NotFound, OptionsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.tif", "a.TIF", "a.tif.aux.xml", ".c.tif", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def days(tmp_path: Path) -> Path:
    for day in ("2025", "2026"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "t.1.tif").touch()
    return tmp_path


def test_a_folder_gives_its_rasters_sorted_and_nothing_else(folder: Path) -> None:
    assert [folder / "a.TIF", folder / "b.tif"] == scenes_of(str(folder))
    (folder / "c.jpeg").touch()  # read as imagery everywhere else
    assert folder / "c.jpeg" in scenes_of(str(folder))


def test_a_pattern_gives_what_it_meets(folder: Path) -> None:
    assert [folder / "b.tif"] == scenes_of(f"{folder}/b*.tif")


def test_no_imagery_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no imagery; give a raster, a folder"):
        scenes_of(str(tmp_path / "nothing"))


def test_the_result_of_a_single_raster_has_the_name_asked_for(folder: Path) -> None:
    out = folder / "found.gpkg"
    assert [out] == result_paths("detect-objects", [folder / "b.tif"], str(folder / "b.tif"), out)


def test_one_of_several_rasters_in_a_file_is_a_raster(folder: Path) -> None:
    (folder / "town.nc").touch()
    name, out = f'NETCDF:"{folder / "town.nc"}":Band1', folder / "found.gpkg"
    assert [Path(name)] == scenes_of(name)
    assert [out] == result_paths("detect-objects", [Path(name)], name, out)
    assert not is_stream(f'HDF5:"{folder / "town.nc"}"://Band1')
    assert [Path('ZARR:"/vsizip/town.zip":/town')] == scenes_of('ZARR:"/vsizip/town.zip":/town')
    assert is_stream(f"https://host/search?ids={'a' * 300}")


def test_results_of_several_are_named_like_their_rasters(folder: Path) -> None:
    scenes, out = [folder / "a.TIF", folder / "b.tif"], folder / "out"
    assert [out / "a.gpkg", out / "b.gpkg"] == result_paths("detect-objects", scenes, str(folder), out)
    assert [out / "a.tif", out / "b.tif"] == result_paths("classify-pixels", scenes, f"{folder}/*", out)
    assert [out / "b.tif"] == result_paths("classify-pixels", scenes[1:], str(scenes[1]), out)


def test_results_of_rasters_in_several_folders_lie_in_such_folders(days: Path) -> None:
    pattern, out = f"{days}/2*/t.1.tif", days / "out"
    expected = [out / "2025" / "t.1.gpkg", out / "2026" / "t.1.gpkg"]
    assert expected == result_paths("detect-objects", scenes_of(pattern), pattern, out)


def test_two_rasters_of_one_name_are_refused(days: Path) -> None:
    (days / "2025" / "t.1.jpg").touch()
    pattern = f"{days}/**/*.*"
    with pytest.raises(OptionsError, match="two rasters have one name, got .*t.1.jpg"):
        result_paths("detect-objects", scenes_of(pattern), pattern, days / "out")


def test_two_dates_of_several_folders_are_paired_by_folder_and_name(days: Path) -> None:
    for day in ("2025", "2026"):
        (days / "later" / day).mkdir(parents=True)
        (days / "later" / day / "t.1.tif").touch()
    pairs = pairs_of(f"{days}/2*/t.1.tif", f"{days}/later/2*/t.1.tif")
    assert [(days / day / "t.1.tif", days / "later" / day / "t.1.tif") for day in ("2025", "2026")] == pairs


def test_two_dates_are_paired_by_the_names_of_their_rasters(folder: Path) -> None:
    later = folder / "later"
    later.mkdir()
    for name in ("b.tif", "a.tif"):
        (later / name).touch()
    assert [(folder / n, later / m) for n, m in (("a.TIF", "a.tif"), ("b.tif", "b.tif"))] == pairs_of(
        str(folder), str(later)
    )
    assert [(folder / "b.tif", later / "a.tif")] == pairs_of(str(folder / "b.tif"), str(later / "a.tif"))
    (later / "a.tif").unlink()
    (later / "c.tif").touch()
    with pytest.raises(OptionsError, match=r"without a partner of the other date, got \['a', 'c'\]"):
        pairs_of(str(folder), str(later))


def test_assets_named_behind_an_item_on_the_web_are_one_raster(tmp_path: Path) -> None:
    item = "https://host/2026/item.json#red,nir"
    assert not is_stream(item)
    assert is_stream("https://host/2026/item.json")  # may be an API
    [scene] = scenes_of(item)
    assert [tmp_path / "item.tif"] == result_paths("classify-pixels", [scene], item, tmp_path)
    assert [tmp_path / "a.tif"] == result_paths("classify-pixels", [scene], item, tmp_path / "a.tif")
