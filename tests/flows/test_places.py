from pathlib import Path

import pytest

from flows.places import pairs_of, result_path, scenes_of
from registry.errors import NotFound, OptionsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.tif", "a.TIF", "a.tif.aux.xml", ".c.tif", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_its_rasters_sorted_and_nothing_else(folder: Path) -> None:
    assert [folder / "a.TIF", folder / "b.tif"] == scenes_of(str(folder))


def test_a_pattern_gives_what_it_meets(folder: Path) -> None:
    assert [folder / "b.tif"] == scenes_of(f"{folder}/b*.tif")


def test_no_imagery_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no imagery; give a raster, a folder"):
        scenes_of(str(tmp_path / "nothing"))


def test_the_result_of_a_single_raster_has_the_name_asked_for(folder: Path) -> None:
    out = folder / "found.gpkg"
    assert out == result_path("detect-objects", folder / "b.tif", str(folder / "b.tif"), out)


def test_results_of_several_are_named_like_their_rasters(folder: Path) -> None:
    assert folder / "out" / "b.gpkg" == result_path("detect-objects", folder / "b.tif", str(folder), folder / "out")
    assert folder / "out" / "b.tif" == result_path("classify-pixels", folder / "b.tif", str(folder), folder / "out")


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
