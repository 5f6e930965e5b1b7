"""Areas of one class: the same wherever the frames between blocks fall, without gaps, in the memory of what is open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from registry.emd import ClassLabel
from tasks.areas import areas
from tasks.class_products import write_polygons
from tasks.inference_options import ModelSource, PixelOptions
from tasks.results import driver_of

NODATA = 255
TURNED = Affine.translation(500_000, 4_600_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)


@pytest.fixture(params=[NORTH_UP, TURNED], ids=["north up", "turned"])
def raster(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Five values from 0 with outlines of any shape, a hole of nodata and two areas that touch in a corner."""
    random = np.random.default_rng(3)
    fields = [gaussian_filter(random.standard_normal((150, 190)), 4) for _ in range(5)]
    values = np.argmax(fields, axis=0).astype(np.uint8)
    values[40:60, :30] = NODATA
    values[62:66, 62:66] = [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 1, 1], [2, 2, 1, 1]]  # a corner on a frame at 64
    return write(tmp_path / "classes.tif", values, request.param)


def write(path: Path, values: NDArray[Any], transform: Affine = NORTH_UP) -> Path:
    height, width = values.shape
    grid = {"width": width, "height": height, "count": 1, "crs": "EPSG:32633", "transform": transform}
    with rasterio.open(path, "w", "GTiff", dtype=values.dtype, nodata=NODATA, **grid) as file:
        file.write(values, 1)
    return path


def found(path: Path, wanted: Sequence[int] = (1, 2, 3, 4), **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    with rasterio.open(path) as file:
        pieces = [(shape, value) for shapes, value in areas(file, wanted, **options) for shape in shapes]
    return np.array([shape for shape, _ in pieces], object), np.array([value for _, value in pieces])


@pytest.mark.parametrize("block", [32, 37, 64, 2048])
def test_the_areas_are_those_of_the_raster_in_one_piece(raster: Path, block: int) -> None:
    with rasterio.open(raster) as file:
        whole = [
            (shapely.geometry.shape(outline), int(value))
            for outline, value in rasterio.features.shapes(rasterio.band(file, 1), transform=file.transform)
        ]
    shapes, values = found(raster, block=block)
    assert shapely.is_valid(shapes).all()
    assert {"Polygon"} == {shape.geom_type for shape in shapes}
    for wanted in (1, 2, 3, 4):
        expected = [shape for shape, value in whole if value == wanted]
        got = shapes[values == wanted]
        assert sorted(shapely.area(expected)) == pytest.approx(sorted(shapely.area(got)))
        assert 1e-3 > shapely.area(shapely.union_all(expected).symmetric_difference(shapely.union_all(got)))
        assert shapely.get_num_coordinates(expected).sum() == pytest.approx(
            shapely.get_num_coordinates(got).sum(), 0.01
        )


@pytest.mark.parametrize("block", [32, 37, 64, 2048])
def test_simplified_neighbours_share_their_lines_and_nothing_opens_between_them(raster: Path, block: int) -> None:
    with rasterio.open(raster, "r+") as file:  # neither background nor nodata: the areas cover the raster
        values = file.read(1)
        values[(values == 0) | (values == NODATA)] = 4
        file.write(values, 1)
    plain, _ = found(raster, block=block)
    shapes, _ = found(raster, block=block, simplify=1.0)
    assert shapely.is_valid(shapes).all()
    assert len(plain) == len(shapes)
    assert shapely.get_num_coordinates(shapes).sum() < shapely.get_num_coordinates(plain).sum() / 2
    assert shapely.area(shapes).sum() == pytest.approx(0.25 * values.size)
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(0.25 * values.size)
    lines = [shapely.union_all(shapely.boundary(outlines)) for outlines in (plain, shapes)]
    assert 2 > shapely.hausdorff_distance(*lines)


def test_an_area_over_many_blocks_is_one_with_its_holes(tmp_path: Path) -> None:
    values = np.ones((100, 100), np.uint8)
    values[10:20, 10:90] = 2  # over frames
    values[31:33, 31:33] = 0  # on a corner of four blocks
    shapes, found_values = found(write(tmp_path / "c.tif", values), wanted=(1, 2), block=32)
    assert [1, 2] == sorted(found_values)
    ground = shapes[found_values == 1][0]
    assert (2, 0.25 * (10_000 - 800 - 4)) == (len(ground.interiors), ground.area)
    assert 5 == len(ground.exterior.coords)  # no corners where the frames were


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_every_format_takes_them_as_they_come(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.feature_streams.BATCH", 3)
    values = np.zeros((40, 40), np.uint8)
    values[::4, ::4] = 1
    values[:, 39] = 2
    classes = [ClassLabel(1, "Roof", (1, 2, 3)), ClassLabel(2, "Road", (4, 5, 6))]
    out = tmp_path / f"areas{suffix}"
    write_polygons(write(tmp_path / "c.tif", values), out, classes, PixelOptions(), ModelSource("town", "3", "ab" * 32))
    read = geopandas.read_parquet if driver_of(out) == "Parquet" else geopandas.read_file
    table = read(out)
    assert ({"Roof": 100, "Road": 1}, 32633) == (table["Class"].value_counts().to_dict(), table.crs.to_epsg())
    assert 25 + 10 == table.area.sum() == table["Area"].sum()
    assert {"town"} == set(table["Model"])


def test_nothing_but_background_is_an_empty_layer(tmp_path: Path) -> None:
    classes = [ClassLabel(0, "Background", (0, 0, 0)), ClassLabel(1, "Roof", (1, 2, 3))]
    out = tmp_path / "areas.gpkg"
    write_polygons(
        write(tmp_path / "c.tif", np.zeros((9, 9), np.uint8)), out, classes, PixelOptions(), ModelSource("town")
    )
    table = geopandas.read_file(out)
    assert (0, "Class" in table.columns) == (len(table), True)
