"""Labels of every kind: classes that keep their value, features, rasters, tables."""

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import ImageryError, LabelError, OptionsError
from tasks import feature_files, receipt, town
from tasks.chips import Chip
from tasks.exporting.label_sources import Labels
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene import open_scenes
from tasks.labels import read_features

Town = tuple[Path, Path]


@pytest.fixture
def scene(tmp_path: Path) -> Town:
    return town.write(tmp_path / "town")


def cut(imagery: Any, labels: Path | None, classes: tuple[ClassLabel, ...] = (), **options: Any) -> list[Chip]:
    sizes: dict[str, Any] = {"tile_size_x": 96, "tile_size_y": 96, "stride_x": 96, "stride_y": 96}
    with open_scenes(imagery, labels, ExportOptions(**(sizes | options)), classes) as scenes:
        return [s.cut(w) for s in scenes for w in s.windows() if s.survey(w).reason is None]


def write_features(path: Path, shapes: list[Any], **fields: Any) -> Path:
    geopandas.GeoDataFrame(fields, geometry=shapes, crs=f"EPSG:{town.EPSG}").to_file(path)
    return path


def write_classes(path: Path, values: NDArray[Any], transform: Affine = town.TRANSFORM, **profile: Any) -> Path:
    shape = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype}
    place = {"crs": f"EPSG:{town.EPSG}", "transform": transform, "driver": "GTiff"}
    with rasterio.open(path, "w", **(place | shape | profile)) as file:
        file.write(values, 1)
    return path


def roof_values(value: int = 3, dtype: str = "uint8") -> NDArray[Any]:
    values = np.zeros((96, 96), dtype)
    for xmin, ymin, xmax, ymax in town.ROOFS:
        values[ymin:ymax, xmin:xmax] = value
    return values


# Class values


ROOF, POND = town.outline(town.ROOFS[0]), town.outline(town.POND_BOX)


@pytest.mark.parametrize("fields", [{"Classvalue": [5, 2]}, {"kind": ["roof", "pond"]}, {"kind": ["5", "2"]}])
def test_the_order_of_features_changes_nothing(tmp_path: Path, fields: dict[str, list[Any]]) -> None:
    field = next(iter(fields))
    one = read_features(write_features(tmp_path / "one.gpkg", [ROOF, POND], **fields), field)
    back = {field: fields[field][::-1]}
    two = read_features(write_features(tmp_path / "two.gpkg", [POND, ROOF], **back), field)
    assert one.classes == two.classes
    assert list(one.values) == list(two.values)[::-1]


def test_a_shapefile_cuts_the_name_of_the_field_and_keeps_the_classes(tmp_path: Path) -> None:
    read = read_features(write_features(tmp_path / "cut.shp", [ROOF, POND], class_valu=[7, 4], class_name=["a", "b"]))
    assert [7, 4] == list(read.values)
    assert ["b", "a"] == [c.name for c in read.classes]


@pytest.mark.parametrize("file", ["many.gdb", "many.gpkg"])
def test_a_query_takes_each_feature_once(tmp_path: Path, file: str) -> None:
    shapes = shapely.box(np.arange(6000), 0, np.arange(6000) + 1, 1)
    table = geopandas.GeoDataFrame({"k": np.arange(6000, dtype=np.int32)}, geometry=shapes, crs=32633)
    table.to_file(tmp_path / file, driver="OpenFileGDB" if file.endswith("gdb") else "GPKG")
    read = read_features(tmp_path / file, query="k >= 2500")
    assert list(range(2500, 6000)) == sorted(read.geometries.bounds[:, 0].astype(int).tolist())


def test_a_geodatabase_holds_features(scene: Town, tmp_path: Path) -> None:
    table = geopandas.read_file(scene[1]).astype({"Classvalue": "int32"})
    table.to_file(tmp_path / "town.gdb", driver="OpenFileGDB")
    assert cut(scene[0], scene[1])[0].boxes.tolist() == cut(scene[0], tmp_path / "town.gdb")[0].boxes.tolist()
    before = receipt.stamp(tmp_path / "town.gdb")
    (tmp_path / "town.gdb" / "_gdb.HOST.1.2.sr.lock").touch()
    assert before == receipt.stamp(tmp_path / "town.gdb")


def test_of_several_layers_that_of_the_name_of_the_file_counts(tmp_path: Path) -> None:
    pandas.DataFrame({"style": ["red"]}).pipe(pyogrio.write_dataframe, tmp_path / "all.gpkg", layer="layer_styles")
    for layer, shape in (("ponds", POND), ("roofs", ROOF)):
        geopandas.GeoDataFrame({"Value": [1]}, geometry=[shape], crs=32633).to_file(tmp_path / "all.gpkg", layer=layer)
        (tmp_path / f"{layer}.gpkg").write_bytes((tmp_path / "all.gpkg").read_bytes())
    assert [POND.area] == read_features(tmp_path / "ponds.gpkg").geometries.areas.tolist()
    assert [ROOF.area] == read_features(tmp_path / "roofs.gpkg").geometries.areas.tolist()
    several = r"holds several layers of features, got \['ponds', 'roofs'\]; name one: .*all.gpkg/LAYER"
    with pytest.raises(LabelError, match=several):
        read_features(tmp_path / "all.gpkg")


@pytest.mark.parametrize("file", ["plan.gpkg", "plan.gdb"])
def test_a_layer_is_named_behind_its_file(scene: Town, tmp_path: Path, file: str) -> None:
    path, driver = tmp_path / file, {"plan.gpkg": "GPKG", "plan.gdb": "OpenFileGDB"}[file]
    for layer, shape in (("ponds", POND), ("roofs", ROOF)):
        table = geopandas.GeoDataFrame({"Value": np.array([1], np.int32)}, geometry=[shape], crs=f"EPSG:{town.EPSG}")
        pyogrio.write_dataframe(table, path, layer=layer, driver=driver, append=path.exists())
    areas = {name: read_features(path / name).geometries.areas.tolist() for name in ("ponds", "roofs")}
    assert {"ponds": pytest.approx([POND.area]), "roofs": pytest.approx([ROOF.area])} == areas
    for name in ("main.roofs", "Roofs", "town/roofs"):
        assert areas["roofs"] == read_features(path / name).geometries.areas.tolist()
    assert 1 == len(cut(scene[0], path / "roofs")[0].boxes)
    with pytest.raises(LabelError, match=r"barns: there is no such layer, got \['ponds', 'roofs'\]; name one of these"):
        cut(scene[0], path / "barns")
    assert {**receipt.stamp(path), "layer": "ponds"} == receipt.stamp(path / "ponds")


@pytest.mark.parametrize("top", ["", "2026/town plan/"])
@pytest.mark.parametrize("file", ["town.gdb", "town.gpkg", "town.shp", "town.kml"])
def test_features_are_read_as_they_are_packed(scene: Town, tmp_path: Path, file: str, top: str) -> None:
    table = geopandas.read_file(scene[1]).astype({"Classvalue": "int32"})
    whole, driver = tmp_path / "whole", {"town.gdb": "OpenFileGDB"}.get(file)
    whole.mkdir()
    (table.to_crs(4326) if file == "town.kml" else table).to_file(whole / file, driver=driver)
    packed = tmp_path / ("town.kmz" if file == "town.kml" else "town.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(whole.rglob("*")):
            archive.write(path, f"{top}{path.relative_to(whole)}")
        archive.writestr(f"__MACOSX/{top}._{file}", b"")
    assert cut(scene[0], scene[1])[0].boxes.tolist() == cut(scene[0], packed)[0].boxes.tolist()
    assert len(table) == len(feature_files.read_features(packed / "town"))


def test_of_packed_shapefiles_each_is_a_layer(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "plan.zip", "w") as archive:
        for name, shape in (("ponds", POND), ("roofs", ROOF)):
            write_features(tmp_path / f"{name}.shp", [shape])
            for path in tmp_path.glob(f"{name}.*"):
                archive.write(path, path.name)
    assert [ROOF.area] == read_features(tmp_path / "plan.zip" / "roofs").geometries.areas.tolist()
    with pytest.raises(LabelError, match=r"holds several layers of features, got \['ponds', 'roofs'\]"):
        read_features(tmp_path / "plan.zip")


def test_what_is_packed_badly_is_told(tmp_path: Path) -> None:
    (tmp_path / "torn.zip").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for name in ("torn.zip", "none.zip"):
        with pytest.raises(LabelError, match="cannot be opened as features"):
            read_features(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.gpkg", "b.gpkg"):
            archive.write(write_features(tmp_path / name, [ROOF]), name)
    with pytest.raises(LabelError, match=r"holds several files of features, got \['a.gpkg', 'b.gpkg'\]; unpack it"):
        read_features(tmp_path / "two.zip")


def test_numbers_kept_as_text_are_values(tmp_path: Path) -> None:
    path = write_features(tmp_path / "text.gpkg", [ROOF, POND], code=["12", "7"])
    assert [12, 7] == list(read_features(path, "code").values)


def test_a_file_with_a_text_field_of_classes_alone_has_these_classes(tmp_path: Path) -> None:
    read = read_features(write_features(tmp_path / "c.gpkg", [ROOF, POND], **{"class": ["roof", "pond"]}))
    assert [(1, "pond"), (2, "roof")] == [(c.value, c.name) for c in read.classes]
    assert [2, 1] == list(read.values)


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_a_field_of_classes_that_is_not_filled_is_no_field_of_classes(tmp_path: Path, nothing: str | None) -> None:
    path = write_features(tmp_path / "c.gpkg", [ROOF, POND], **{"class": ["roof", nothing]})
    assert [1, 1] == list(read_features(path).values)
    with pytest.raises(LabelError, match="1 features have no class; fill or delete them"):
        read_features(path, "class")


def test_names_and_colours_come_with_the_values(tmp_path: Path) -> None:
    rgb = {"Red": [250, 1], "Green": [20, 2], "Blue": [30, 3]}
    path = write_features(tmp_path / "c.gpkg", [ROOF, POND], Classname=["roof", "pond"], Classvalue=[9, 4], **rgb)
    assert (ClassLabel(4, "pond", (1, 2, 3)), ClassLabel(9, "roof", (250, 20, 30))) == read_features(path).classes


def test_what_a_feature_is_called_names_no_class_where_a_field_does(tmp_path: Path) -> None:
    names = {"name": ["Town hall", "Mill pond"], "Classname": ["roof", "pond"]}
    read = read_features(write_features(tmp_path / "c.gpkg", [ROOF, POND], Value=[1, 2], **names))
    assert ["roof", "pond"] == [c.name for c in read.classes]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1.5, 2.0], r"field Classvalue has values that are no class, got \[1.5\]; class values are whole numbers"),
        ([-1, 2], r"got \[-1.0\]"),
        ([0, 2], r"got \[0.0\].*0 is background"),
        ([70_000, 2], r"got \[70000.0\].*1 to 65535"),
        ([None, 2], "1 features have no Classvalue; fill or delete them"),
    ],
)
def test_values_that_are_no_class_are_refused(tmp_path: Path, values: list[Any], told: str) -> None:
    with pytest.raises(LabelError, match=told):
        read_features(write_features(tmp_path / "bad.gpkg", [ROOF, POND], Classvalue=values))


def test_values_of_no_given_class_are_refused(scene: Town) -> None:
    with pytest.raises(LabelError, match=r"no class, got \[2\]; list them among the classes"):
        read_features(scene[1], classes=(ClassLabel(1, "roof"),))


BACKGROUND, BUILDING = ClassLabel(0, "background", (0, 0, 0)), ClassLabel(4, "building", (9, 9, 9))


@pytest.mark.parametrize(("metadata_format", "values"), [("Classified_Tiles", [1, 2]), ("Labeled_Tiles", [0, 1, 2])])
def test_a_given_background_is_a_class_only_of_whole_chips(
    scene: Town, metadata_format: str, values: list[int]
) -> None:
    given = (BACKGROUND, ClassLabel(1, "roof"), ClassLabel(2, "pond"))
    read = Labels.read(scene[1], ExportOptions(metadata_format=metadata_format), given)
    assert values == [label.value for label in read.classes]


def test_a_text_may_say_background(scene: Town, tmp_path: Path) -> None:
    path = write_features(
        tmp_path / "c.gpkg", [ROOF, town.outline((12, 12, 14, 14))], **{"class": ["building", "background"]}
    )
    (chip,) = cut(scene[0], path, (BACKGROUND, BUILDING), **TILES)
    assert chip.mask is not None
    assert [1, 2] == [chip.mask[13, 13], chip.mask[20, 20]]


@pytest.mark.parametrize(
    ("given", "value"), [((BACKGROUND, BUILDING), 4), ((BUILDING, ClassLabel(1, "roof")), 1), ((BACKGROUND,), 1)]
)
def test_features_without_a_field_are_of_the_only_class_or_of_class_1(
    tmp_path: Path, given: tuple[ClassLabel, ...], value: int
) -> None:
    read = read_features(write_features(tmp_path / "plain.gpkg", [ROOF, POND]), classes=given)
    assert [value, value] == list(read.values)
    assert value in [label.value for label in read.classes]


def test_features_without_a_field_are_refused_where_they_may_be_of_several_classes(tmp_path: Path) -> None:
    path = write_features(tmp_path / "plain.gpkg", [ROOF, POND])
    with pytest.raises(
        LabelError, match=r"has no field of classes, got '2 classes, none with Value 1'; name the field"
    ):
        read_features(path, classes=(BUILDING, ClassLabel(7, "pond")))


def test_of_two_fields_that_differ_in_case_the_one_named_counts(tmp_path: Path) -> None:
    fields = {"kind": [1], "Kind": [2], "KIND": [3]}
    geopandas.GeoDataFrame(fields, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(tmp_path / "a.geojson")
    for name, value in (("kind", 1), ("Kind", 2), ("KIND", 3)):
        assert [value] == [label.value for label in read_features(tmp_path / "a.geojson", name).classes]


# Features


def test_points_and_lines_are_widened_by_the_buffer_radius(scene: Town, tmp_path: Path) -> None:
    place = town.TRANSFORM
    shapes = [shapely.Point(place @ (20, 30)), shapely.LineString([place @ (40, 50), place @ (60, 50)])]
    path = write_features(tmp_path / "thin.gpkg", shapes)
    (chip,) = cut(scene[0], path, buffer_radius=2.0)
    assert [[16, 26, 24, 34], [36, 46, 64, 54]] == np.round(chip.boxes, 2).tolist()
    with pytest.raises(LabelError, match=r"expected polygons, got \['LineString', 'Point'\]; set buffer_radius"):
        cut(scene[0], path)


def test_a_buffer_in_metres_around_features_in_degrees_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thin.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.Point(13, 52), shapely.box(13, 52, 14, 53)], crs=4326).to_file(path)
    assert 2 == len(read_features(path, radius=0.5).geometries)
    with pytest.raises(LabelError, match=r"thin.geojson: buffer_radius is in degrees, .*got 4.0; give it in degrees"):
        read_features(path, radius=4.0)


def test_broken_geometry_is_repaired_and_what_has_no_area_is_lost_by_name(tmp_path: Path) -> None:
    bow = shapely.Polygon([(0, 0), (8, 8), (8, 0), (0, 8)])
    flat = shapely.Polygon([(0, 0), (8, 0), (4, 0)])
    features = read_features(write_features(tmp_path / "broken.gpkg", [bow, flat, shapely.box(0, 0, 1, 1), None]))
    assert (2, {"no geometry": 1, "geometry without an area": 1}) == (features.repaired, dict(features.lost))
    (shapes,) = features.geometries.batches()
    assert {"Polygon", "MultiPolygon"} >= {shape.geom_type for shape in shapes}


@pytest.mark.filterwarnings("ignore:Non closed ring")
def test_a_ring_that_is_not_closed_is_closed_and_no_other_feature_is_lost_for_it(tmp_path: Path) -> None:
    rings = ([[0, 0], [1, 1]], [[0, 0], [1, 0], [1, 1], [0, 1]], [[2, 0], [3, 0], [3, 1], [2, 1], [2, 0]])
    shapes = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    rows = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    features = read_features(path)
    assert [1, 1] == features.geometries.areas.tolist()
    assert 1 == features.lost.total()
    assert 3 == len(feature_files.read_features(path))


def test_shapes_of_triangles_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.csv"
    path.write_text('id,WKT\n1,"TIN (((0 0,0 1,1 1,0 0)))"\n')
    with pytest.raises(LabelError, match=r"model.csv: has no feature with a geometry"):
        read_features(path)


def test_spaces_around_the_name_of_a_class_make_no_other_class(tmp_path: Path) -> None:
    path = write_features(tmp_path / "c.gpkg", [ROOF, POND, ROOF], Classname=["roof", "pond", "roof "])
    assert ["pond", "roof"] == [label.name for label in read_features(path).classes]
    given = (ClassLabel(4, "roof ", (1, 2, 3)), ClassLabel(9, "pond", (1, 2, 3)))
    assert np.array_equal([4, 9, 4], read_features(path, classes=given).values)


def test_an_empty_name_is_none_where_another_feature_of_the_value_has_one(tmp_path: Path) -> None:
    path = write_features(tmp_path / "c.gpkg", [ROOF, ROOF, POND], Value=[1, 1, 2], Classname=["", "roof", " "])
    assert ["roof", "2"] == [label.name for label in read_features(path).classes]


def test_what_cannot_be_placed_leaves_the_other_features_as_they_are(scene: Town, tmp_path: Path) -> None:
    here = geopandas.read_file(scene[1]).to_crs(4326).geometry
    labels = tmp_path / "world.geojson"
    geopandas.GeoDataFrame(geometry=[*here, shapely.box(-180, -90, 180, 90)], crs=4326).to_file(labels)
    assert 9 == len(cut(scene[0], labels, tile_size=32, stride=32, metadata_format="Classified_Tiles"))


def test_a_plan_without_a_place_on_the_earth_is_told(scene: Town, tmp_path: Path) -> None:
    with rasterio.open(scene[0], "r+") as file:
        file.crs = 'LOCAL_CS["Arbitrary",UNIT["metre",1]]'
    told = "has a coordinate system from which none leads to that of town.tif; give both a true one"
    with pytest.raises(LabelError, match=f"town.gpkg: {told}"):
        cut(*scene)
    with pytest.raises(ImageryError, match=f"c.tif: {told}"):
        cut(scene[0], write_classes(tmp_path / "c.tif", roof_values()), **TILES)


def test_of_a_collection_its_polygons_are_the_object(tmp_path: Path) -> None:
    roof = town.outline(town.ROOFS[0])
    both = shapely.GeometryCollection(
        [roof, shapely.LineString([(town.WEST, town.NORTH), (town.WEST + 9, town.NORTH)])]
    )
    found = read_features(write_features(tmp_path / "both.gpkg", [both], Classvalue=[1]))
    assert [roof.bounds] == [tuple(bounds) for bounds in found.geometries.bounds.tolist()]


def test_a_feature_on_the_edge_keeps_all_its_pixels_in_masks_of_each_object(scene: Town) -> None:
    (chip,) = cut(*scene, metadata_format="RCNN_Masks")
    assert chip.masks is not None
    assert [256, 192, 192, 720] == chip.masks.sum(axis=(1, 2)).tolist()


def test_an_object_thinner_than_a_pixel_is_seen_in_masks(scene: Town, tmp_path: Path) -> None:
    x, y = town.TRANSFORM @ (20.6, 30)
    path = write_features(tmp_path / "thin.gpkg", [shapely.box(x, y - 10, x + 0.1, y)])
    (chip,) = cut(scene[0], path, metadata_format="Classified_Tiles")
    assert chip.mask is not None
    assert (20, True) == (int(chip.mask.sum()), bool(chip.mask[30:50, 20].all()))


# One label a chip


def test_each_feature_is_the_middle_of_a_chip(scene: Town) -> None:
    chips = cut(*scene, metadata_format="Labeled_Tiles", tile_size=32)
    assert [(1, [8, 8, 24, 24]), (1, [10, 8, 22, 24]), (1, [8, 10, 24, 22]), (2, [1, 4, 31, 28])] == [
        (int(c.labels[0]), c.boxes[0].tolist()) for c in chips
    ]


@pytest.mark.parametrize("angle", [0.0, 45.0])
def test_a_feature_whose_middle_lies_far_outside_has_no_chip(scene: Town, tmp_path: Path, angle: float) -> None:
    field = town.outline((-300, 10, 20, 30))
    labels = write_features(tmp_path / "fields.gpkg", [field, ROOF], Classvalue=[1, 2])
    chips = cut(scene[0], labels, metadata_format="Labeled_Tiles", tile_size=32, rotation_angle=angle)
    assert {2} == {label for chip in chips for label in chip.labels.tolist()}


def test_a_bounding_box_is_a_chip_of_its_own_size(scene: Town) -> None:
    chips = cut(*scene, metadata_format="Labeled_Tiles", crop_mode="BOUNDING_BOX")
    assert [(16, 16), (16, 12), (12, 16), (24, 30)] == [c.image.shape[1:] for c in chips]
    assert [200, 200, 200, 20] == [int(c.image[0].max()) for c in chips]


def test_around_the_feature_all_is_black(scene: Town) -> None:
    chip = cut(*scene, metadata_format="Labeled_Tiles", tile_size=32, blacken_around_feature=True)[0]
    assert (16 * 16, True) == (int((chip.image[0] > 0).sum()), bool(chip.valid.all()))


def test_two_features_of_one_window_are_two_chips(scene: Town, tmp_path: Path) -> None:
    path = write_features(tmp_path / "same.gpkg", [ROOF, ROOF], Classvalue=[1, 2])
    chips = cut(scene[0], path, metadata_format="Imagenet", crop_mode="BOUNDING_BOX")
    assert [1, 2] == [int(c.labels[0]) for c in chips]


def test_points_need_no_radius_where_a_chip_is_cut_around_each(scene: Town, tmp_path: Path) -> None:
    path = write_features(tmp_path / "point.gpkg", [shapely.Point(town.TRANSFORM @ (18, 18))], Classvalue=[4])
    (chip,) = cut(scene[0], path, metadata_format="Labeled_Tiles", tile_size=32)
    assert ([0, 0, 32, 32], 200) == (chip.boxes[0].tolist(), int(chip.image[0, 16, 16]))


def test_a_chip_may_have_several_classes(scene: Town) -> None:
    chips = cut(*scene, metadata_format="MultiLabeled_Tiles", tile_size=48, stride=48)
    assert [[1], [1], [1], [2]] == [c.labels.tolist() for c in chips]
    assert [[1, 2]] == [c.labels.tolist() for c in cut(*scene, metadata_format="MultiLabeled_Tiles")]


def test_pictures_alone_need_no_labels(scene: Town) -> None:
    (chip,) = cut(scene[0], None, metadata_format="Export_Tiles")
    assert (0, None) == (len(chip.boxes), chip.mask)


# Classified rasters


TILES: dict[str, Any] = {"metadata_format": "Classified_Tiles"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_a_classified_raster_keeps_its_values(scene: Town, tmp_path: Path, dtype: str) -> None:
    (chip,) = cut(scene[0], write_classes(tmp_path / "c.tif", roof_values(200, dtype)), **TILES)
    assert chip.mask is not None
    assert np.array_equal(roof_values(1), chip.mask)


def test_what_is_no_number_in_a_classified_raster_is_background(scene: Town, tmp_path: Path) -> None:
    values = roof_values(7, "float32")
    values[values == 0] = np.nan
    (chip,) = cut(scene[0], write_classes(tmp_path / "c.tif", values), **TILES)
    assert chip.mask is not None
    assert np.array_equal(roof_values(1), chip.mask)


@pytest.mark.parametrize("nodata", [-9999, 2**40])
def test_nodata_of_64_bits_is_no_class_on_another_grid(scene: Town, tmp_path: Path, nodata: int) -> None:
    values = np.kron(roof_values(dtype="int64"), np.ones((2, 2), np.int64))
    values[:20] = nodata
    path = write_classes(tmp_path / "c.tif", values, town.TRANSFORM @ Affine.scale(0.5), nodata=nodata)
    (chip,) = cut(scene[0], path, **TILES)
    expected = roof_values()
    expected[:10] = 0
    assert chip.mask is not None
    assert np.array_equal(expected > 0, chip.mask)


def test_a_classified_raster_on_a_shifted_grid_is_read_where_it_lies(scene: Town, tmp_path: Path) -> None:
    part = write_classes(tmp_path / "c.tif", roof_values()[5:, 7:90], town.TRANSFORM @ Affine.translation(7, 5))
    (chip,) = cut(scene[0], part, **TILES)
    assert chip.mask is not None
    assert np.array_equal(roof_values(1), chip.mask)


def test_a_palette_names_the_colours_of_the_classes(scene: Town, tmp_path: Path) -> None:
    path = write_classes(tmp_path / "c.tif", roof_values())
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {3: (12, 34, 56, 255)})
    with open_scenes(scene[0], path, ExportOptions(**TILES)) as scenes:
        assert (ClassLabel(3, "3", (12, 34, 56)),) == scenes.classes


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (roof_values(1, "int16") * -2, r"classified raster has values that are no class, got \[-2.0\]"),
        (roof_values(1, "float32") * 0.5, r"got \[0.5\]"),
        (np.arange(9216, dtype=np.int32).reshape(96, 96), "more than 1000 different values"),
    ],
)
def test_a_raster_of_measurements_is_no_classification(
    scene: Town, tmp_path: Path, values: NDArray[Any], told: str
) -> None:
    with pytest.raises(LabelError, match=told):
        cut(scene[0], write_classes(tmp_path / "c.tif", values), **TILES)


def test_a_folder_of_classified_rasters_is_paired_by_name(tmp_path: Path) -> None:
    one, _ = town.write(tmp_path / "one")
    (tmp_path / "images").mkdir()
    (tmp_path / "classes").mkdir()
    for name, value in (("a", 3), ("b", 8)):
        (tmp_path / f"images/{name}.tif").write_bytes(one.read_bytes())
        write_classes(tmp_path / f"classes/{name}.tif", roof_values(value))
    first, second = cut(tmp_path / "images", tmp_path / "classes", **TILES)
    assert first.mask is not None
    assert second.mask is not None
    assert (1, 2) == (first.mask.max(), second.mask.max())


@pytest.mark.parametrize("value", [3, 300])
def test_a_folder_of_other_names_is_paired_by_place(scene: Town, tmp_path: Path, value: int) -> None:
    (tmp_path / "classes").mkdir()
    left, right = roof_values(3)[:, :54], roof_values(value, "int64")[:, 50:]  # a seam of four pixels
    with rasterio.open(write_classes(tmp_path / "classes/left.tif", left), "r+") as file:
        file.write_colormap(1, {3: (250, 0, 0, 255)})
    write_classes(tmp_path / "classes/right.tif", right, town.TRANSFORM @ Affine.translation(50, 0))
    (chip,) = cut(scene[0], tmp_path / "classes", **TILES)
    assert chip.mask is not None
    expected = roof_values(1)
    expected[:, 54:] *= 1 if value == 3 else 2
    assert np.array_equal(expected, chip.mask)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({}, r"has no raster for town.tif \(.*one.tif: lies on two.tif\); name one of the rasters town.tif"),
        ({"transform": Affine.identity(), "crs": None}, r"has no raster for town.tif \(.*one.tif: has no place"),
    ],
)
def test_class_rasters_of_other_names_that_lie_on_each_other_are_refused(
    scene: Town, tmp_path: Path, place: dict[str, Any], told: str
) -> None:
    (tmp_path / "classes").mkdir()
    for name, value in (("one", 3), ("two", 8)):
        write_classes(tmp_path / f"classes/{name}.tif", roof_values(value), **({"transform": town.TRANSFORM} | place))
    with pytest.raises(LabelError, match=told):
        cut(scene[0], tmp_path / "classes", **TILES)


def test_class_rasters_of_other_names_have_one_coordinate_system(scene: Town, tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    for name, epsg in (("one", town.EPSG), ("two", 32632)):
        write_classes(tmp_path / f"classes/{name}.tif", roof_values(), crs=f"EPSG:{epsg}")
    with pytest.raises(LabelError, match=r"has no raster for .*two.tif: has another coordinate system than one.tif"):
        cut(scene[0], tmp_path / "classes", **TILES)


def test_the_commonest_class_labels_a_tile_of_a_classified_raster(scene: Town, tmp_path: Path) -> None:
    values = roof_values(3)
    values[60:84, 60:90] = 5
    chips = cut(scene[0], write_classes(tmp_path / "c.tif", values), metadata_format="Labeled_Tiles")
    assert [[2]] == [c.labels.tolist() for c in chips]


def test_a_tile_without_a_class_is_none_where_each_has_one(scene: Town, tmp_path: Path) -> None:
    labels = write_classes(tmp_path / "classes.tif", roof_values())
    tiles: dict[str, Any] = {"tile_size": 32, "stride": 32, "metadata_format": "Labeled_Tiles"}
    assert 7 == len(cut(scene[0], labels, **tiles)) == len(cut(scene[0], labels, **tiles, output_nofeature_tiles=True))


def test_ground_and_objects_make_a_panoptic_chip(scene: Town, tmp_path: Path) -> None:
    ground = write_classes(tmp_path / "c.tif", np.full((96, 96), 7, np.uint8))
    options: dict[str, Any] = {"metadata_format": "Panoptic_Segmentation"}
    (chip,) = cut(scene[0], ground, **options, in_instance_data=str(scene[1]))
    assert chip.mask is not None
    assert chip.masks is not None
    assert (3, [1, 1, 1, 2], 4) == (int(chip.mask[0, 0]), chip.labels.tolist(), len(chip.masks))
    with pytest.raises(OptionsError, match="needs in_instance_data"):
        cut(scene[0], ground, **options)


def test_one_value_has_one_name_among_pixels_and_objects(scene: Town, tmp_path: Path) -> None:
    ground = write_features(
        tmp_path / "ground.gpkg", [town.outline((0, 0, 96, 96))], Classvalue=[1], Classname=["grass"]
    )
    with pytest.raises(LabelError, match="class 1 is 'grass' of the pixels, 'roof' of the objects"):
        cut(scene[0], ground, metadata_format="Panoptic_Segmentation", in_instance_data=str(scene[1]))


# Tables


def test_a_table_labels_whole_pictures(tmp_path: Path) -> None:
    town.write(tmp_path / "one")
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"images/{name}.tif").write_bytes((tmp_path / "one/town.tif").read_bytes())
    table = tmp_path / "labels.csv"
    table.write_text("image,class\nb.tif,oak\na.tif,pine\n", encoding="utf-8")
    options: dict[str, Any] = {"metadata_format": "Labeled_Tiles", "class_value_field": "class"}
    assert [[2], [1]] == [c.labels.tolist() for c in cut(tmp_path / "images", table, **options)]
    table.write_text('image,class\nb.tif,"oak,pine"\na.tif,pine\n', encoding="utf-8")
    several = cut(tmp_path / "images", table, **(options | {"metadata_format": "MultiLabeled_Tiles"}))
    assert [[2], [1, 2]] == [c.labels.tolist() for c in several]


def pictures(folder: Path, *names: str) -> list[Path]:
    """Black squares without a place."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(folder / name, "w", driver="PNG", count=1, width=32, height=32, dtype="uint8") as file:
            file.write(np.zeros((1, 32, 32), np.uint8))
    return [folder / name for name in names]


def told(folder: Path, table: str, *names: str) -> list[list[str]]:
    """The classes of each picture that the table names."""
    (folder / "labels.csv").write_text(table, encoding="utf-8")
    options = ExportOptions(metadata_format="MultiLabeled_Tiles", tile_size=32, reference_system="PIXEL_SPACE")
    with open_scenes(pictures(folder, *names), folder / "labels.csv", options) as scenes:
        return [[scenes.classes[i - 1].name for i in scene.survey((0, 0, 32, 32)).labels] for scene in scenes]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_table_tells_pictures_of_one_name_by_their_folders(tmp_path: Path) -> None:
    rows = "image,class\na/1.png,pine\nB\\1.PNG,oak\n"
    assert [["pine"], ["oak"]] == told(tmp_path, rows, "a/1.png", "b/1.png")
    assert [["pine"], []] == told(tmp_path, rows, "a/1.png", "c/1.png")
    assert [["pine"]] == told(tmp_path, "image,class\nC:\\photos\\1.jpg,pine\n", "a/1.png")
    for unclear in ("1.png,oak", "x/1.png,oak", "x/1.png,oak\ny/1.png,oak"):
        with pytest.raises(LabelError, match=r"labels.csv: several pictures or rows are 1, got .*a/1.png.*folders"):
            told(tmp_path, f"image,class\n{unclear}\n", "a/1.png", "b/1.png")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_names_of_digits_and_dots_are_names(tmp_path: Path) -> None:
    names = ("007.png", "100.png", "S2A.2020.png", "S2A.2021.png")
    rows = "image,class\n007,pine\n100,oak\nS2A.2020,oak\nS2A.2021.tif,pine\n"
    assert [["pine"], ["oak"], ["oak"], ["pine"]] == told(tmp_path, rows, *names)


def test_a_warped_picture_keeps_its_label(scene: Town, tmp_path: Path) -> None:
    coarse = write_classes(tmp_path / "b.tif", roof_values()[::2, ::2], town.TRANSFORM @ Affine.scale(2))
    fine = write_classes(tmp_path / "a.tif", roof_values())
    (tmp_path / "labels.csv").write_text("image,class\na.tif,pine\nb.tif,oak\n", encoding="utf-8")
    chips = cut([fine, coarse], tmp_path / "labels.csv", metadata_format="Labeled_Tiles", warp=True)
    assert [[2], [1]] == [chip.labels.tolist() for chip in chips]


def test_a_table_of_coordinates_is_points(scene: Town, tmp_path: Path) -> None:
    x, y = town.TRANSFORM @ (18, 18)
    table = tmp_path / "points.csv"
    table.write_text(f"x;y;Classvalue\n{x};{y};6\n", encoding="utf-8")
    (chip,) = cut(scene[0], table, buffer_radius=4.0)
    assert [[10, 10, 26, 26]] == np.round(chip.boxes, 2).tolist()


def test_a_geopackage_without_geometry_is_a_table(scene: Town, tmp_path: Path) -> None:
    table = pandas.DataFrame({"filename": ["town.tif"], "Classvalue": [3]})
    pyogrio.write_dataframe(table, tmp_path / "t.gpkg", layer="t")
    chips = cut(scene[0], tmp_path / "t.gpkg", metadata_format="Imagenet")
    assert [[1]] == [c.labels.tolist() for c in chips]


def test_a_table_beside_features_counts_where_it_is_named(scene: Town, tmp_path: Path) -> None:
    both = tmp_path / "both.gpkg"
    pyogrio.write_dataframe(pandas.DataFrame({"filename": ["town.tif"], "Classvalue": [3]}), both, layer="pictures")
    geopandas.read_file(scene[1]).to_file(both, layer="roofs")
    assert [[1]] == [c.labels.tolist() for c in cut(scene[0], both / "pictures", metadata_format="Imagenet")]
    assert cut(*scene)[0].boxes.tolist() == cut(scene[0], both)[0].boxes.tolist()


def test_a_table_that_names_neither_pictures_nor_places_is_refused(scene: Town, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("colour,weight\nred,3\n", encoding="utf-8")
    with pytest.raises(LabelError, match=r"expected a column image, .* or columns x and y, got \['colour', 'weight'\]"):
        cut(scene[0], tmp_path / "t.csv", metadata_format="Labeled_Tiles")
