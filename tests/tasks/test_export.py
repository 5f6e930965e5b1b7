"""Export Training Data: the town in, a folder of chips out."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from registry.emd import ClassLabel
from registry.errors import Conflict, DlpkError, ImageryError, LabelError, OptionsError
from registry.files import part_of
from tasks import receipt, town
from tasks.chips import DEFINITION, ChipFolder
from tasks.export import ExportOptions, export_training_data, split_extent
from tasks.exporting.plan import Job

WHOLE = {"tile_size": 96, "stride": 96}
TILES = {"metadata_format": "Classified_Tiles"}


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return town.write(tmp_path / "town")


def export(scene: tuple[Path, Path], out: Path, **options: Any) -> ChipFolder:
    return export_training_data(*scene, out, ExportOptions(**(WHOLE | options)))


def content(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".receipt.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_every_roof_and_the_pond_lie_where_they_were_drawn(scene: tuple[Path, Path], tmp_path: Path) -> None:
    chip = export(scene, tmp_path / "chips").read("000000000")
    assert [*map(list, town.ROOFS), list(town.POND_BOX)] == chip.boxes.tolist()
    assert [1, 1, 1, 2] == chip.labels.tolist()
    assert np.array_equal(town.pixels(), chip.image)


def test_tiles_hold_the_class_of_each_pixel(scene: tuple[Path, Path], tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "chips", **TILES)
    mask = folder.read("000000000").mask
    assert mask is not None
    assert [0, 1, 1, 1, 2] == [int(mask[y, x]) for x, y in ((0, 0), (10, 10), (60, 12), (41, 73), (89, 83))]
    assert 16 * 16 + 16 * 12 + 12 * 16 == int((mask == 1).sum())


def test_the_folder_has_what_arcgis_looks_for(scene: tuple[Path, Path], tmp_path: Path) -> None:
    export(scene, tmp_path / "chips")
    files = content(tmp_path / "chips")
    assert {"images/000000000.tif", "images/000000000.tfw", "labels/000000000.xml"} <= set(files)
    assert b"images\\000000000.tif  labels\\000000000.xml \r\n" == files["map.txt"]
    assert b"<name>2</name>" in files["labels/000000000.xml"]
    assert (
        b"0.5000000000\n0.0000000000\n0.0000000000\n-0.5000000000\n500000.2500000000\n4599999.7500000000\n"
        == files["images/000000000.tfw"]
    )
    assert files["stats.txt"].startswith(b"images = 1 *4*96*96\nfeatures = 4\n")


def test_the_definition_tells_the_true_bands_classes_and_cells(scene: tuple[Path, Path], tmp_path: Path) -> None:
    document = export(scene, tmp_path / "chips").definition.document
    cell = {"x": 0.5, "y": 0.5, "spatialReference": {"wkid": 32633, "latestWkid": 32633}}
    assert ["Red", "Green", "Blue", "NearInfrared"] == document["InputRastersProps"]["BandNames"]
    assert ("PASCAL_VOC_rectangles", 96, cell) == tuple(
        document[key] for key in ("MetaDataMode", "ImageHeight", "MinCellSize")
    )
    assert [(1, "roof"), (2, "pond")] == [(c["Value"], c["Name"]) for c in document["Classes"]]
    red = document["AllTilesStats"][0]
    assert (20, 200) == (red["Min"], red["Max"])
    assert np.mean(town.pixels()[0]) == pytest.approx(red["Mean"])
    assert np.std(town.pixels()[0]) == pytest.approx(red["StdDev"])


def test_plain_colours_are_named_as_readers_without_gdal_know_them(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "town")
    with (
        rasterio.open(imagery) as source,
        rasterio.open(tmp_path / "rgb.tif", "w", **source.profile | {"count": 3}) as rgb,
    ):
        rgb.write(source.read([1, 2, 3]))
        rgb.colorinterp = source.colorinterp[:3]
    document = export((tmp_path / "rgb.tif", labels), tmp_path / "chips").definition.document
    assert ["red", "green", "blue"] == document["InputRastersProps"]["BandNames"]


def test_statistics_over_many_chips_are_those_of_all_pixels(tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town", repeat=3, noise=9)
    statistics = export(scene, tmp_path / "chips", tile_size=32, stride=32, output_nofeature_tiles=True).band_statistics
    image = town.pixels(3, 9).astype(float)
    assert image.mean(axis=(1, 2)) == pytest.approx([s.mean for s in statistics])
    assert image.std(axis=(1, 2)) == pytest.approx([s.std for s in statistics])


def test_accumulated_statistics_count_objects_and_their_areas(scene: tuple[Path, Path], tmp_path: Path) -> None:
    export(scene, tmp_path / "chips")
    stats = json.loads((tmp_path / "chips/esri_accumulated_stats.json").read_text())["FeatureStats"]
    assert ([3, 1], [1, 1]) == (stats["NumFeaturesPerClass"], stats["NumImagesPerClass"])
    assert {"Min": 48, "Max": 64, "Mean": 160 / 3, "Sum": 160, "Count": 3} == stats["FeatureAreaPerClass"][0]


def test_the_same_input_gives_the_same_bytes(scene: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (export(scene, tmp_path / name / "chips", tile_size=32, stride=16) for name in ("one", "two"))
    assert content(one.path) == content(two.path)
    assert one.digest == two.digest


@pytest.mark.parametrize("crs", [4326, 3857, 32634])
def test_labels_may_be_in_any_coordinate_system(scene: tuple[Path, Path], tmp_path: Path, crs: int) -> None:
    labels = tmp_path / "other.geojson" if crs == 4326 else tmp_path / "other.gpkg"
    geopandas.read_file(scene[1]).to_crs(crs).to_file(labels)
    boxes = export((scene[0], labels), tmp_path / "chips").read("000000000").boxes
    assert [*map(list, town.ROOFS), list(town.POND_BOX)] == np.round(boxes, 1).tolist()


def test_a_class_keeps_its_value_whatever_the_order_of_features(scene: tuple[Path, Path], tmp_path: Path) -> None:
    frame = geopandas.read_file(scene[1])[::-1]
    frame.drop(columns="Classvalue").to_file(tmp_path / "names.gpkg")
    options = {"class_value_field": "Classname"}
    folder = export((scene[0], tmp_path / "names.gpkg"), tmp_path / "chips", **options)
    assert [(1, "pond"), (2, "roof")] == [(c.value, c.name) for c in folder.classes]  # in alphabetical order
    assert [1, 2, 2, 2] == folder.read("000000000").labels.tolist()


def test_given_classes_say_value_and_colour_of_each_name(scene: tuple[Path, Path], tmp_path: Path) -> None:
    classes = (ClassLabel(7, "pond", (0, 0, 255)), ClassLabel(3, "roof", (255, 0, 0)))
    options = ExportOptions(**WHOLE, class_value_field="Classname", **TILES)
    folder = export_training_data(*scene, tmp_path / "chips", options, classes=classes)
    with rasterio.open(tmp_path / "chips/labels/000000000.tif") as label:
        assert [0, 3, 7] == np.unique(label.read(1)).tolist()
    assert (classes[1], classes[0]) == folder.classes


def test_a_class_raster_of_another_grid_is_laid_on_the_imagery(scene: tuple[Path, Path], tmp_path: Path) -> None:
    values = np.zeros((48, 48), np.uint8)
    values[5:13, 5:13] = 9  # the first roof in cells of 1 m
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": 48, "height": 48, "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "classes.tif", "w", **profile, transform=town.TRANSFORM @ Affine.scale(2)) as raster:
        raster.write(values, 1)
    folder = export((scene[0], tmp_path / "classes.tif"), tmp_path / "chips", **TILES)
    mask = folder.read("000000000").mask
    assert mask is not None
    assert ((9,), 256) == (tuple(c.value for c in folder.classes), int(mask.sum()))
    assert mask[10:26, 10:26].all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_pixels_keep_their_type_and_value(tmp_path: Path, dtype: str) -> None:
    folder = export(town.write(tmp_path / "town", dtype=dtype), tmp_path / "chips")
    image = folder.read("000000000").image
    assert (dtype, 200) == (str(image.dtype), image[0, 12, 12])


def test_nothing_of_the_held_out_side_is_seen_in_the_other(scene: tuple[Path, Path], tmp_path: Path) -> None:
    west, east = split_extent(scene[0], "east", 0.25)
    seen = export(scene, tmp_path / "west", extent=west, max_nodata_share=0.9).read("000000000")
    rest = export(scene, tmp_path / "east", extent=east, max_nodata_share=0.9).read("000000000")
    assert (72, 24) == (int(seen.valid[0].sum()), int(rest.valid[0].sum()))
    assert 72 == seen.boxes[:, 2].max()
    assert [[0, 10, 2, 22], [0, 60, 18, 84]] == rest.boxes.tolist()


def test_the_one_raster_of_a_list_is_divided_and_several_are_not(scene: tuple[Path, Path], tmp_path: Path) -> None:
    lines = f"{scene[0]}\n"
    (tmp_path / "one.txt").write_text(lines)
    (tmp_path / "two.txt").write_text(2 * lines)
    assert split_extent(scene[0], "east", 0.25) == split_extent(tmp_path / "one.txt", "east", 0.25)
    with pytest.raises(OptionsError, match=r"two.txt: hold_out divides a single raster, got 2; give an eval"):
        split_extent(tmp_path / "two.txt", "east", 0.25)


def test_a_coarser_cell_size_averages_pixels(scene: tuple[Path, Path], tmp_path: Path) -> None:
    chip = export(scene, tmp_path / "chips", tile_size=48, stride=48, cell_size=1.0).read("000000000")
    assert (4, 48, 48) == chip.image.shape
    assert [5, 5, 13, 13] == chip.boxes[0].tolist()
    assert town.ROOF == tuple(chip.image[:, 8, 8])


def test_nodata_is_left_out_of_pixels_statistics_and_chips(tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town")
    with rasterio.open(scene[0], "r+") as raster:
        image = raster.read()
        image[:, :, :60] = 0
        raster.write(image)
        raster.nodata = 0
    folder = export(scene, tmp_path / "chips", tile_size=32, stride=32, output_nofeature_tiles=True)
    assert 3 == len(folder.names)  # of three columns the left is all nodata, the middle one for seven eighths
    assert 20 == folder.band_statistics[0].min


def test_a_raster_smaller_than_a_chip_is_filled_with_nodata(scene: tuple[Path, Path], tmp_path: Path) -> None:
    chip = export(scene, tmp_path / "chips", tile_size=128, stride=128).read("000000000")
    assert (96 * 96, 0) == (int(chip.valid.sum()), int(chip.image[:, ~chip.valid].max()))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("shown", [[0], [0, 32767, 1], range(256)])
def test_black_pixels_do_not_turn_the_filled_edge_into_ground(
    scene: tuple[Path, Path], tmp_path: Path, dtype: str, shown: Sequence[int]
) -> None:
    with rasterio.open(scene[0]) as source:
        kept = {"crs": source.crs, "transform": source.transform, "driver": "GTiff"}
    pixels = np.resize(np.array(shown).astype(dtype), (1, 96, 96))
    with rasterio.open(tmp_path / "a.tif", "w", width=96, height=96, count=1, dtype=dtype, **kept) as raster:
        raster.write(pixels)
    chip = export((tmp_path / "a.tif", scene[1]), tmp_path / "chips", tile_size=128, stride=128).read("000000000")
    assert (96 * 96, 0) == (int(chip.valid[:96, :96].sum()), int(chip.valid[96:].sum() + chip.valid[:, 96:].sum()))
    changed = 1 if dtype == "uint8" and len(shown) == 256 else 0  # no value is left to tell nodata by
    assert changed == np.abs(chip.image[:, :96, :96].astype(float) - pixels).max()
    assert 0 == chip.image[:, ~chip.valid].max()


def test_chips_without_a_feature_are_written_only_when_asked(scene: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"tile_size": 32, "stride": 32, "min_polygon_overlap_ratio": 0.9}  # the first roof alone is whole in one
    some = export(scene, tmp_path / "some", **options)
    every = export(scene, tmp_path / "every", **options, output_nofeature_tiles=True)
    assert (1, 9) == (len(some.names), len(every.names))


def test_a_feature_of_which_too_little_is_inside_is_left_out(scene: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"tile_size": 64, "stride": 64, "min_polygon_overlap_ratio": 0.5}
    first = export(scene, tmp_path / "chips", **options).read("000000000")
    assert [[10, 10, 26, 26], [30, 58, 42, 64]] != first.boxes.tolist()
    assert [[10, 10, 26, 26]] == first.boxes.tolist()


def test_several_scenes_make_one_export(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "a")
    other, _ = town.write(tmp_path / "b", noise=3)
    folder = export_training_data([imagery, other], labels, tmp_path / "chips", ExportOptions(**WHOLE))
    assert ("000000000", "000000001") == folder.names
    assert 2 == folder.definition.document["InputRastersProps"]["RasterCount"]


def test_a_finished_export_is_not_done_again(scene: tuple[Path, Path], tmp_path: Path) -> None:
    first = export(scene, tmp_path / "chips")
    before = (first.path / DEFINITION).stat().st_mtime_ns
    export(scene, tmp_path / "chips")
    assert before == (first.path / DEFINITION).stat().st_mtime_ns
    with pytest.raises(Conflict, match="another export"):
        export(scene, tmp_path / "chips", stride=48)


@pytest.mark.parametrize("option", ["in_mask_polygons", "in_instance_data", "in_raster2"])
def test_an_export_whose_other_data_has_changed_is_another_one(
    scene: tuple[Path, Path], tmp_path: Path, option: str
) -> None:
    other = tmp_path / "other.tif"
    other.write_bytes(b"before")
    job = Job((str(scene[0]),), scene[1], tmp_path / "chips", ExportOptions.model_validate({option: str(other)}))
    before = job.facts
    assert before == replace(job).facts
    other.write_bytes(b"after")
    assert before != replace(job).facts


def test_a_list_of_second_rasters_is_as_new_as_they_are(scene: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "later.txt").write_text("later.tif\n")
    (tmp_path / "later.tif").write_bytes(b"before")
    options = ExportOptions(in_raster2=str(tmp_path / "later.txt"))
    job = Job((str(scene[0]),), scene[1], tmp_path / "chips", options)
    before = job.facts
    (tmp_path / "later.tif").write_bytes(b"after")
    assert before != replace(job).facts


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        *(("roofs.shp", "roofs.dbf"), ("ROOFS.SHP", "ROOFS.PRJ"), ("roofs.gpkg", "roofs.gpkg-wal")),
        *(("town.jpg", "town.jgw"), ("town.tif", "town.tif.msk")),
        *(("town.img", "town.hdr"), ("town.tif", "town.tif.aux.xml"), ("roofs.tab", "roofs.dat")),
    ],
)
def test_data_change_with_the_files_beside_them(tmp_path: Path, name: str, beside: str) -> None:
    (tmp_path / name).write_bytes(b"features")
    (tmp_path / beside).touch()
    before = receipt.stamp(tmp_path / name)
    assert before == receipt.stamp(tmp_path / name)
    (tmp_path / beside).write_bytes(b"edited")
    assert before != receipt.stamp(tmp_path / name)


def test_a_vrt_changes_with_the_rasters_that_it_is_made_of(tmp_path: Path) -> None:
    imagery, _ = town.write(tmp_path / "town")
    band = f"<SimpleSource><SourceFilename>{imagery}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    band = f"<VRTRasterBand dataType='Byte' band='1'>{band}</VRTRasterBand>"
    (tmp_path / "town.vrt").write_text(f"<VRTDataset rasterXSize='8' rasterYSize='8'>{band}</VRTDataset>")
    before = receipt.stamp(tmp_path / "town.vrt")
    os.utime(imagery, (1, 1))
    assert before != receipt.stamp(tmp_path / "town.vrt")


def test_a_folder_in_which_a_receipt_is_being_written_is_nobodys(tmp_path: Path) -> None:
    part = part_of(tmp_path / receipt.NAME)  # of a killed step, or of another process of the same one
    part.touch()
    receipt.claim(tmp_path, "train", {"options": 1})
    assert [{"options": 1}] == receipt.read(tmp_path, "train")
    with pytest.raises(Conflict, match="holds the result of another train"):
        receipt.claim(tmp_path, "train", {"options": 2})
    part.rename(tmp_path / "notes.txt")
    (tmp_path / receipt.NAME).unlink()
    with pytest.raises(Conflict, match="is not empty"):
        receipt.claim(tmp_path, "train", {"options": 1})


@pytest.mark.slow
def test_an_export_killed_in_the_middle_is_never_taken_for_whole(tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town", repeat=4)
    options = {"tile_size": 32, "stride": 16}
    code = (
        "from pathlib import Path; from tasks.export import *;"
        f"export_training_data(Path({str(scene[0])!r}), Path({str(scene[1])!r}), Path({str(tmp_path / 'chips')!r}),"
        f" ExportOptions(**{options!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "chips/labels/000000020.xml").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(LabelError, match="no finished export"):
        ChipFolder.open(tmp_path / "chips")
    again = export(scene, tmp_path / "chips", **options)
    assert content(again.path) == content(export(scene, tmp_path / "fresh/chips", **options).path)


def _without_crs(scene: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    with (
        rasterio.open(scene[0]) as source,
        rasterio.open(folder / "plain.tif", "w", **{**source.profile, "crs": None}) as out,
    ):
        out.write(source.read())
    return folder / "plain.tif", scene[1]


def _elsewhere(scene: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    frame = geopandas.read_file(scene[1])
    frame.geometry = frame.translate(50_000, 0)
    frame.to_file(folder / "elsewhere.gpkg")
    return scene[0], folder / "elsewhere.gpkg"


def _points(scene: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    frame = geopandas.read_file(scene[1])
    frame.geometry = frame.centroid
    frame.to_file(folder / "points.gpkg")
    return scene[0], folder / "points.gpkg"


def _torn(scene: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    (folder / "torn.tif").write_bytes(scene[0].read_bytes()[:200])
    return folder / "torn.tif", scene[1]


BAD = [
    (_without_crs, {}, LabelError, "has no coordinate system.*gdal_edit"),
    (_elsewhere, {}, LabelError, "does not overlap town.tif .*coordinate systems"),
    (_points, {}, LabelError, "expected polygons, got .*Point.*buffer"),
    (_torn, {}, ImageryError, "torn.tif"),
    (lambda s, f: (f / "none.tif", s[1]), {}, ImageryError, "does not exist; check the path"),
    (lambda s, f: (s[0], f / "none.gpkg"), {}, LabelError, "does not exist; check the path"),
    (lambda s, f: s, {"class_value_field": "kind"}, LabelError, "no field 'kind'; choose one of Classname, Classvalue"),
    (lambda s, f: s, {"extent": (0, 0, 1, 1)}, OptionsError, "extent lies outside"),
    (lambda s, f: s, {"image_chip_format": "JPEG"}, OptionsError, "1 or 3 bands of uint8, got '4 bands of uint8'"),
    (lambda s, f: (s[0], s[0]), {}, LabelError, "has no objects"),
]


@pytest.mark.parametrize(("spoil", "options", "kind", "told"), BAD)
def test_bad_input_is_told_and_leaves_nothing(
    scene: tuple[Path, Path], tmp_path: Path, spoil: Any, options: dict[str, Any], kind: type[DlpkError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        export(spoil(scene, tmp_path), tmp_path / "chips", **options)
    assert {} == (content(tmp_path / "chips") if (tmp_path / "chips").exists() else {})


def test_no_chip_left_is_an_error_with_the_reasons_counted(scene: tuple[Path, Path], tmp_path: Path) -> None:
    frame = geopandas.read_file(scene[1])
    frame.geometry = [shapely.box(499_990, 4_599_940, 500_000.2, 4_600_010)] * len(frame)  # a sliver at the edge
    frame.to_file(tmp_path / "sliver.gpkg")
    with pytest.raises(LabelError, match=r"no chip is left: 9 left out for no feature"):
        export((scene[0], tmp_path / "sliver.gpkg"), tmp_path / "chips", tile_size=32, stride=32)


def test_broken_outlines_are_repaired(scene: tuple[Path, Path], tmp_path: Path) -> None:
    frame = geopandas.read_file(scene[1])[:1]
    x, y = town.WEST + 5, town.NORTH - 5
    frame.geometry = [shapely.Polygon([(x, y), (x + 8, y - 8), (x + 8, y), (x, y - 8)])]  # a bow tie
    frame.to_file(tmp_path / "bow.gpkg")
    assert [[10, 10, 26, 26]] == export((scene[0], tmp_path / "bow.gpkg"), tmp_path / "chips").read(
        "000000000"
    ).boxes.tolist()


@pytest.mark.shared
def test_odd_rasters_are_opened_or_refused_with_a_remedy(shared_data: Path) -> None:
    from tasks.imagery import open_imagery

    for path in sorted((shared_data / "extras/odd_rasters").glob("*.*tif")):
        told = ""
        try:
            with open_imagery(path) as imagery:
                block = imagery.read(-8, -8, 64, 64)
            assert (imagery.bands, 64, 64) == block.pixels.shape
        except ImageryError as error:
            told = str(error)
        assert not told or re.search(r"; .*(gdal|convert|repair)", told), told


def test_the_first_line_of_the_map_has_a_picture_that_arcgis_learn_can_open(
    scene: tuple[Path, Path], tmp_path: Path
) -> None:
    """It ends the name at a blank, and the pictures lie in folders of the classes."""
    x, y = town.WEST, town.NORTH
    boxes = [shapely.box(x + 4 + k, y - 14, x + 14 + k, y - 4) for k in (0, 12)]
    fields = {"Classvalue": [1, 2], "Classname": ["ash tree", "roof"]}
    geopandas.GeoDataFrame(fields, geometry=boxes, crs=f"EPSG:{town.EPSG}").to_file(tmp_path / "two.gpkg")
    chips = export(
        (scene[0], tmp_path / "two.gpkg"), tmp_path / "chips", metadata_format="Imagenet", crop_mode="BOUNDING_BOX"
    )
    lines = (chips.path / "map.txt").read_text().splitlines()
    assert ["images\\roof\\000000001.tif ", "images\\ash tree\\000000000.tif "] == [x for x in lines if x]
