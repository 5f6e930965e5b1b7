"""Roofs of an invented town, found wherever the tiles fall."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from registry.dlpk import open_model, pack
from registry.emd import Emd
from registry.errors import DlpkError, ImageryError, OptionsError
from registry.files import sha256
from tasks.composite import composite_bands
from tasks.detect_objects import detect_objects
from tasks.inference_options import DetectOptions, ModelSource, parse_arguments
from tasks.overlap import keep_best
from tasks.working_grid import training_cell

Boxes = list[tuple[int, int, int, int]]


def in_pixels(layer: Path) -> Boxes:
    """xmin ymin xmax ymax of the features, in pixels of the raster that `make_raster` makes."""
    table = geopandas.read_file(layer)
    bounds = [g.bounds for g in table.geometry]
    return sorted(
        (round((x0 - 500000) * 2), round((4600000 - y1) * 2), round((x1 - 500000) * 2), round((4600000 - y0) * 2))
        for x0, y0, x1, y1 in bounds
    )


def rows_of_roofs(width: int, height: int, side: int, gap: int) -> Boxes:
    """Roofs whose seams with a tile grid fall differently in each row and column."""
    step = side + gap
    return sorted(
        (x, y, x + side, y + side) for x in range(0, width - side, step) for y in range(0, height - side, step)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ["padding 16; batch_size 1", "padding 16; batch_size 4", "padding 9", "padding 25"]
)
@pytest.mark.parametrize("shape", [(192, 160), (131, 97), (40, 30)])
def test_a_roof_on_the_seam_of_tiles_is_found_once_and_whole(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, arguments: str, shape: tuple[int, int]
) -> None:
    town = rows_of_roofs(shape[1], shape[0], side=11, gap=2)
    options = DetectOptions.model_validate({"arguments": arguments})
    out = detect_objects(make_model(), make_raster(roofs(*shape, town)), tmp_path / "roofs.gpkg", options)
    assert town == in_pixels(out)


@pytest.mark.slow
@pytest.mark.parametrize("side", [31, 32])  # 2 * padding is the longest object that is whole in one tile for sure
def test_an_object_of_twice_the_padding_is_found_at_every_offset(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, side: int
) -> None:
    model, out = make_model(), tmp_path / "roofs.gpkg"
    for offset in (0, 1, 15, 16, 17, 31):  # cores begin every 32 pixels
        hall = (offset, 70 - offset, offset + side, 70 - offset + side)
        detect_objects(model, make_raster(roofs(110, 110, [hall])), out, DetectOptions(arguments={"batch_size": "1"}))
        assert [hall] == in_pixels(out)


def test_copies_on_a_seam_are_merged_inside_a_block_without_the_tools_help(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    town = rows_of_roofs(64, 64, side=12, gap=3)
    options = DetectOptions(run_nms=False)
    assert town == in_pixels(
        detect_objects(make_model(), make_raster(roofs(64, 64, town)), tmp_path / "a.gpkg", options)
    )


def test_detectors_that_see_an_object_a_little_elsewhere_in_each_tile_still_find_it_once(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    town = rows_of_roofs(230, 210, side=16, gap=5)
    model = make_model(NetworkOptions={"jitter": 1.5})
    found = in_pixels(detect_objects(model, make_raster(roofs(210, 230, town)), tmp_path / "a.gpkg", DetectOptions()))
    near = [[t for t in town if max(abs(a - b) for a, b in zip(t, f, strict=True)) <= 2] for f in found]
    assert town == sorted(t for matches in near for t in matches)


def test_features_tell_class_confidence_and_the_model_that_made_them(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    pixels = roofs(70, 90, [(5, 5, 20, 20)])
    pixels[40:60, 60:80] = 250
    source = ModelSource("town", "3", "ab" * 32)
    ticks: list[Any] = []
    out = tmp_path / "town.gpkg"
    detect_objects(make_model(), make_raster(pixels), out, DetectOptions(), source=source, on_progress=ticks.append)
    table = geopandas.read_file(out)
    columns = ["Class", "Confidence", "Value", "Model", "ModelVersion", "ModelSHA256", "geometry"]
    assert columns == list(table.columns)
    found = sorted(table.drop(columns="geometry").itertuples(index=False, name=None), key=lambda row: str(row[0]))
    by_model = ("town", "3", "abababababab")
    assert [("Pond", 75.0, 2, *by_model), ("Roof", 75.0, 1, *by_model)] == found
    assert CRS.from_epsg(32633) == CRS.from_wkt(table.crs.to_wkt())
    assert source.sha256 == pyogrio.read_info(out)["layer_metadata"]["MODEL_SHA256"]
    assert (4, 4, "2 found") == (len(ticks), ticks[-1].total, ticks[-1].note)
    assert ["town.gpkg"] == [path.name for path in tmp_path.glob("*town.gpkg*")]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
@pytest.mark.parametrize("town", [[], [(5, 5, 20, 20)]])
def test_every_format_holds_the_result_and_an_empty_one(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, suffix: str, town: Boxes
) -> None:
    out = detect_objects(make_model(), make_raster(roofs(64, 64, town)), tmp_path / f"roofs{suffix}", DetectOptions())
    table = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    assert len(town) == len(table)
    assert {"Class", "Confidence", "Value", "Model"} <= set(table.columns) or (suffix == ".geojson" and not town)
    assert 32633 == table.crs.to_epsg() or not town


def test_a_package_is_told_by_its_digest(make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path) -> None:
    package = pack(make_model(), tmp_path / "town.dlpk")
    image, out = make_raster(roofs(64, 64, [(5, 5, 20, 20)])), tmp_path / "roofs.gpkg"
    detect_objects(open_model(package), image, out, DetectOptions())
    assert [(5, 5, 20, 20)] == in_pixels(out)
    assert sha256(package) == pyogrio.read_info(out)["layer_metadata"]["MODEL_SHA256"]


def test_nothing_is_found_in_holes_of_nodata(make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path) -> None:
    pixels = roofs(128, 128, [(5, 5, 20, 20), (70, 70, 90, 90)])
    pixels[64:, 64:] = 255
    out = detect_objects(make_model(), make_raster(pixels, nodata=255), tmp_path / "roofs.gpkg", DetectOptions())
    assert [(5, 5, 20, 20)] == in_pixels(out)


@pytest.mark.parametrize("angle", [0, 30, 90])
def test_a_raster_that_is_rotated_is_laid_straight(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, angle: int
) -> None:
    grid = Affine(0.5, 0, 500000, 0, -0.5, 4600000) @ Affine.rotation(angle)
    town = [(20, 20, 50, 40), (60, 70, 80, 90)]
    image = make_raster(roofs(100, 110, town), transform=grid)
    found = geopandas.read_file(detect_objects(make_model(), image, tmp_path / "roofs.gpkg", DetectOptions()))
    boxes = [shapely.box(*box).exterior.coords for box in town]
    true = [shapely.box(*shapely.Polygon([grid @ xy for xy in box]).bounds) for box in boxes]
    overlaps = [max(shapely.area(t & f) / shapely.area(t | f) for f in found.geometry) for t in true]
    assert 2 == len(found)
    assert min(overlaps) > 0.85  # the corners of a roof that is not parallel to the grid are blurred


def test_a_band_in_a_file_of_its_own_and_in_another_place_is_found_by_its_name(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    model = make_model(InputRastersProps={"BandNames": ["B08"]})
    town = rows_of_roofs(64, 64, side=11, gap=7)
    bands = [make_raster(roofs(64, 64, some), f"{name}.tif") for name, some in (("B02", []), ("B08", town))]
    made = composite_bands([str(band) for band in bands], tmp_path / "both.vrt")
    assert town == in_pixels(detect_objects(model, made, tmp_path / "roofs.gpkg", DetectOptions()))


def test_imagery_is_brought_to_the_cell_size_of_the_training(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    cell = {"x": 1.0, "y": 1.0, "spatialReference": {"wkid": 25833}}
    image = make_raster(roofs(200, 200, [(20, 20, 60, 60)]))  # 40 pixels of 0.5 m: too large for padding 16
    model = make_model(MinCellSize=cell, MaxCellSize=cell)
    assert [(20, 20, 60, 60)] == in_pixels(detect_objects(model, image, tmp_path / "roofs.gpkg", DetectOptions()))


def test_imagery_far_too_coarse_for_the_model_is_refused(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    metres = {"x": 0.02, "y": 0.02, "spatialReference": {"wkid": 32633}}
    model, image = make_model(MinCellSize=metres, MaxCellSize=metres), make_raster(np.zeros((40, 40), np.uint8))
    with pytest.raises(ImageryError, match=r"has cells 25 times as large as those .*\(0.02\), got '0.5'; .* cell_size"):
        detect_objects(model, image, tmp_path / "found.gpkg", DetectOptions())
    detect_objects(model, image, tmp_path / "found.gpkg", DetectOptions(cell_size=0.5))


def test_cell_sizes_are_compared_only_where_units_allow_it() -> None:
    def emd(low: float, high: float, wkid: int | None) -> Emd:
        cells = [{"x": v, "y": v, "spatialReference": {"wkid": wkid}} for v in (low, high)]
        return Emd({"MinCellSize": cells[0], "MaxCellSize": cells[1]})

    utm, feet, degrees = CRS.from_epsg(32633), CRS.from_epsg(2263), CRS.from_epsg(4326)
    assert (1, 1) == training_cell(emd(1, 2, 32633), utm, (0.5, 0.5))
    assert (2, 2) == training_cell(emd(1, 2, 32633), utm, (3, 3))
    assert None is training_cell(emd(1, 2, 32633), utm, (1.5, 1.5))
    assert pytest.approx((3.2808, 3.2808), abs=1e-4) == training_cell(emd(1, 1, 32633), feet, (1, 1))
    mercator = CRS.from_epsg(3857)
    assert (1, 1) == training_cell(emd(1, 1, 3857), mercator, (2, 2))
    assert [(1, 1), (2, 2)] == [training_cell(emd(1, 2, 32633), utm, own) for own in ((1, 0.5), (1, 3))]
    unknown = [(emd(1, 1, 32633), degrees), (emd(1, 1, None), utm), (emd(1, 1, 32633), None), (Emd({}), utm)]
    unknown += [(emd(1, 1, 32633), mercator), (emd(1, 1, 3857), utm)]  # a metre of Mercator is shorter on the ground
    assert [None] * 6 == [training_cell(e, crs, (9, 9)) for e, crs in unknown]


def test_arguments_are_written_as_in_arcgis() -> None:
    assert {"padding": "0", "batch_size": "16"} == parse_arguments("padding 0; batch_size 16;")
    assert {"padding": "64"} == DetectOptions.model_validate({"arguments": '{"padding": "64"}'}).arguments
    assert {"text_prompt": "a red roof"} == parse_arguments("text_prompt a red roof")
    with pytest.raises(OptionsError, match="expected NAME VALUE, got 'padding'"):
        parse_arguments("padding")


def refused(*arguments: Any) -> str:
    with pytest.raises(DlpkError) as caught:
        detect_objects(*arguments)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_bad_input_is_told_and_leaves_nothing(make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path) -> None:
    model, good, out, options = (
        make_model(),
        make_raster(roofs(64, 64, [])),
        tmp_path / "new" / "x.gpkg",
        DetectOptions(),
    )
    nowhere = make_raster(roofs(64, 64, []), "nowhere.tif", crs=None)
    assert "ImageryError" in (text := refused(model, nowhere, out, options))
    assert "gdal_edit.py -a_srs" in text
    three = make_model("squares", "three", ExtractBands=[0, 1, 2])
    assert "which reads 3: no 1, 2, counted from 0; the raster has 1" in refused(three, good, out, options)
    assert "OptionsError" in (text := refused(make_model("levels", "lakes"), good, out, options))
    assert "use dlpk classify-pixels" in text
    assert ".gpkg, .geojson" in refused(model, good, tmp_path / "x.doc", options)
    (model.path / "town.pth").write_bytes(b"no weights")
    text = refused(model, make_raster(roofs(64, 64, [])), out, options)
    assert "RasterFunctionError: town: DetectObjects.vectorize, tile at column 0, row 0" in text
    assert not out.parent.exists()


def test_the_stronger_of_two_that_overlap_too_much_stays_if_they_are_of_one_class() -> None:
    boxes = np.array([shapely.box(x, 0, x + 10, 10) for x in (0, 4, 20, 20, 40, 50)])
    confidences, classes = np.array([50, 60, 70, 70, 80, 80]), np.array(["a", "a", "a", "b", "a", "a"])
    assert [False, True, True, True, True, True] == keep_best(boxes, confidences, classes, 0.4).tolist()
    assert [True] * 6 == keep_best(boxes, confidences, classes, 0.5).tolist()  # 60 of 140 is 0.43


def test_a_box_that_lost_removes_no_other() -> None:
    chain = np.array([shapely.box(x, 0, x + 10, 10) for x in (0, 4, 8)])
    assert [True, False, True] == keep_best(chain, np.array([90, 80, 70]), np.zeros(3), 0.3).tolist()


def test_crooked_outlines_overlap_by_their_true_area() -> None:
    triangles = np.array(
        [shapely.Polygon([(0, 0), (10, 0), (0, 10)]), shapely.Polygon([(10, 10), (10, 0.5), (0.5, 10)])]
    )
    assert [True, True] == keep_best(triangles, np.array([1, 2]), np.zeros(2), 0.0).tolist()


@pytest.mark.slow
def test_a_hundred_thousand_boxes_are_merged_on_a_tree() -> None:
    x, y = np.mgrid[:250, :200] * 12.0
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    twice = np.concatenate([corners, corners + 0.5])
    boxes = shapely.box(twice[:, 0], twice[:, 1], twice[:, 0] + 10, twice[:, 1] + 10)
    kept = keep_best(boxes, np.repeat([0.9, 0.8], 50000), np.zeros(100000), 0.3)
    assert (50000, 0) == (kept[:50000].sum(), kept[50000:].sum())


@pytest.mark.parametrize("apart", [False, True])
def test_what_was_added_before_a_kill_is_not_added_again(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    model, out = make_model(), tmp_path / "roofs.gpkg"
    towns = [make_raster(roofs(64, 64, [(20, 20, 30, 30)]), f"{name}.tif") for name in ("one", "two")]
    mode = {"processing_mode": "PROCESS_ITEMS_SEPARATELY"} if apart else {}
    options = DetectOptions.model_validate({"append": True, **mode})
    detect_objects(model, towns[0], out, options)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tasks.run_folder._leave", killed)
        with pytest.raises(KeyboardInterrupt):
            detect_objects(model, [str(town) for town in towns] if apart else towns[1], out, options)
    before = len(geopandas.read_file(out))
    detect_objects(model, [str(town) for town in towns] if apart else towns[1], out, options)
    assert before == len(geopandas.read_file(out)) == (3 if apart else 2)
    detect_objects(model, towns[1], out, options)  # asked for once more
    assert before + 1 == len(geopandas.read_file(out))
