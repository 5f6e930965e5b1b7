"""Where the chips of a training lie, in degrees."""

from pathlib import Path

import pytest
import shapely

from registry.emd import Emd
from tasks.chips import DEFINITION, ChipFolder
from tasks.ground import MOST_POINTS, ground_of

CELL = {"x": 1, "y": 1, "spatialReference": {"wkid": 32645}}


def folder(path: Path, corners: list[tuple[int, int]], **keys: object) -> ChipFolder:
    """Chips of 64 pixels of a metre, placed by their world files at these upper left corners."""
    (path / "images").mkdir(parents=True)
    for i, (x, y) in enumerate(corners):
        (path / "images" / f"{i:09d}.jpg").touch()
        (path / "images" / f"{i:09d}.jgw").write_text(f"1\n0\n0\n-1\n{x + 0.5}\n{y - 0.5}\n")
    document = {"MetaDataMode": "Export_Tiles", "ImageHeight": 64, "ImageWidth": 64, "MinCellSize": CELL, "Classes": []}
    Emd({**document, **keys}).write(path / DEFINITION)
    return ChipFolder.open(path)


def test_two_chips_side_by_side_are_one_rectangle_on_the_earth(tmp_path: Path) -> None:
    found = ground_of(folder(tmp_path / "a", [(500_000, 3_000_000), (500_064, 3_000_000)]))
    assert found is not None
    assert [87.0, 27.12189, 87.00129, 27.12247] == pytest.approx(found["bbox"], abs=1e-4)
    assert "Polygon" == found["geometry"]["type"]
    assert found["bbox"] == list(shapely.geometry.shape(found["geometry"]).bounds)


def test_many_scattered_chips_become_an_outline_of_few_points(tmp_path: Path) -> None:
    found = ground_of(folder(tmp_path / "a", [(500_000 + 200 * i, 3_000_000 + 150 * (i * i % 37)) for i in range(200)]))
    assert found is not None
    assert shapely.get_num_coordinates(shapely.geometry.shape(found["geometry"])) <= MOST_POINTS


@pytest.mark.parametrize("cell", [None, {"x": 1, "y": 1}, {"x": 1, "y": 1, "spatialReference": {"wkid": 999_999}}])
def test_chips_that_lie_nowhere_have_no_ground(tmp_path: Path, cell: object) -> None:
    assert ground_of(folder(tmp_path / "a", [(0, 0)], MinCellSize=cell)) is None
