"""Every way of exporting goes through the engine from end to end, and what is read back is the town."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import Conflict, OptionsError
from tasks import receipt, town
from tasks.chips import INSTANCE_CLASSES, ChipFolder, Grid
from tasks.export import ExportOptions, export_training_data
from tasks.rasters import read_raster, write_raster

CHIP = {"tile_size": 48, "stride": 48}
Scene = tuple[Path, Path]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return town.write(tmp_path / "town", repeat=2)


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The town in another light, one band less."""
    return negative(tmp_path / "later.tif", 3)


def negative(path: Path, bands: int) -> Path:
    with rasterio.open(path, "w", **_profile(bands)) as raster:
        raster.write(255 - town.pixels(2)[:bands])
        raster.descriptions = [f"band {i}" for i in raster.indexes]  # or a fourth one would be alpha
    return path


def export(imagery: Path, labels: Path | None, out: Path, **options: Any) -> ChipFolder:
    return export_training_data(imagery, labels, out, ExportOptions(**(CHIP | options)), workers=1)


def class_raster(path: Path, values: Mapping[tuple[int, int, int, int], int]) -> Path:
    """(192, 192) uint8 of 0, and boxes (xmin ymin xmax ymax, pixels) of a Value."""
    pixels = np.zeros((1, 192, 192), np.uint8)
    for (xmin, ymin, xmax, ymax), value in values.items():
        pixels[0, ymin:ymax, xmin:xmax] = value
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": 192, "height": 192, "crs": town.EPSG}
    with rasterio.open(path, "w", **profile, transform=town.TRANSFORM) as raster:
        raster.write(pixels)
    return path


def laid_out(chips: ChipFolder, what: str = "image") -> np.ndarray:
    """(bands, 192, 192): the pictures of all chips where they lie."""
    parts = {name: getattr(chips.read(name), what) for name in chips.names}
    whole = np.zeros((next(iter(parts.values())).shape[0], 192, 192), np.uint8)
    for name, pixels in parts.items():
        west, _, _, north = chips.bounds(name)
        x, y = round((west - town.WEST) / town.CELL), round((town.NORTH - north) / town.CELL)
        whole[:, y : y + 48, x : x + 48] = pixels
    return whole


@pytest.mark.slow
def test_two_sides_are_two_exports_of_two_rasters(scene: Scene, later: Path, tmp_path: Path) -> None:
    chips = export(scene[0], None, tmp_path / "chips", metadata_format="CycleGAN", in_raster2=str(later))
    assert 16 == len(chips.names)
    assert np.array_equal(town.pixels(2), laid_out(ChipFolder(chips.path / "A")))
    assert np.array_equal(255 - town.pixels(2)[:3], laid_out(ChipFolder(chips.path / "B")))


@pytest.mark.slow
def test_chips_are_added_to_both_sides(scene: Scene, later: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"metadata_format": "CycleGAN", "in_raster2": str(later)}
    export(scene[0], None, tmp_path / "chips", **options)
    for _ in range(2):  # the second time there is nothing left to do
        both = export(scene[0], None, tmp_path / "chips", start_index=16, stride=24, **options)
        assert 16 + 49 == len(both.names) == len(ChipFolder(both.path / "B").names)
    export(scene[0], None, tmp_path / "chips", **options)
    with pytest.raises(Conflict, match="numbers that are taken"):
        export(scene[0], None, tmp_path / "chips", start_index=3, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("metadata_format", "bands"), [("Classified_Tiles", 4), ("Export_Tiles", 3)])
def test_a_second_raster_lies_beside_the_first(scene: Scene, tmp_path: Path, metadata_format: str, bands: int) -> None:
    later = negative(tmp_path / "later.tif", bands)
    options: dict[str, Any] = {"metadata_format": metadata_format, "in_raster2": str(later)}
    labels = scene[1] if metadata_format == "Classified_Tiles" else None
    chips = export(scene[0], labels, tmp_path / "chips", output_nofeature_tiles=True, **options)
    assert np.array_equal(town.pixels(2), laid_out(chips))
    assert np.array_equal(255 - town.pixels(2)[:bands], laid_out(chips, "image2"))
    assert bands == len(chips.definition.document["AllTilesStats2"])


def test_a_second_raster_that_the_chip_format_cannot_hold_is_refused(scene: Scene, tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "first.tif", "w", **_profile(3)) as first:
        first.write(town.pixels(2)[:3])
    options: dict[str, Any] = {"metadata_format": "Export_Tiles", "image_chip_format": "PNG"}
    with pytest.raises(OptionsError, match=r"town.tif: image_chip_format PNG holds 1 or 3 .*, got '4 bands of uint8'"):
        export(tmp_path / "first.tif", None, tmp_path / "chips", in_raster2=str(scene[0]), **options)


def _profile(bands: int) -> dict[str, Any]:
    shape = {"driver": "GTiff", "count": bands, "dtype": "uint8", "width": 192, "height": 192}
    return {**shape, "crs": town.EPSG, "transform": town.TRANSFORM}


@pytest.mark.slow
@pytest.mark.parametrize("metadata_format", ["PASCAL_VOC_rectangles", "Classified_Tiles", "Export_Tiles"])
def test_chips_are_added_where_background_was_given(scene: Scene, tmp_path: Path, metadata_format: str) -> None:
    classes = (
        ClassLabel(0, "background", (0, 0, 0)),
        ClassLabel(1, "roof", (9, 0, 0)),
        ClassLabel(2, "pond", (0, 0, 9)),
    )
    for start_index in (0, 100):
        options = ExportOptions(metadata_format=metadata_format, start_index=start_index, **CHIP)
        export_training_data(*scene, tmp_path / "chips", options, classes=classes, workers=1)
    assert classes[1:] == ChipFolder.open(tmp_path / "chips").definition.classes


@pytest.mark.slow
def test_added_pairs_keep_the_statistics_of_the_first_second_raster(scene: Scene, later: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"metadata_format": "Export_Tiles", "in_raster2": str(later)}
    first = export(scene[0], None, tmp_path / "chips", **options)
    with rasterio.open(later, "r+") as raster:
        raster.write(np.full((3, 192, 192), 255, np.uint8))
    both = export(scene[0], None, tmp_path / "chips", start_index=16, **options)
    assert first.definition.document["AllTilesStats2"] == both.definition.document["AllTilesStats2"]
    with pytest.raises(Conflict, match="have pictures in each chip 2, got 1"):
        export(scene[0], None, tmp_path / "chips", start_index=32, metadata_format="Export_Tiles")


@pytest.mark.slow
def test_classes_of_added_objects_are_among_those_of_a_panoptic_export(scene: Scene, tmp_path: Path) -> None:
    ground = class_raster(tmp_path / "ground.tif", {(0, 0, 192, 192): 5})
    features = geopandas.read_file(scene[1])
    classes = (ClassLabel(1, "roof", (9, 0, 0)), ClassLabel(2, "pond", (0, 0, 9)), ClassLabel(5, "meadow", (0, 9, 0)))
    for number, (name, start_index) in enumerate((("roof", 0), ("pond", 100))):
        labels = tmp_path / f"{name}.gpkg"
        features[features["Classname"] == name].to_file(labels)
        options = ExportOptions(
            metadata_format="Panoptic_Segmentation", in_instance_data=str(labels), start_index=start_index, **CHIP
        )
        export_training_data(scene[0], ground, tmp_path / "chips", options, classes=classes, workers=1)
        listed = ChipFolder.open(tmp_path / "chips").definition.document[INSTANCE_CLASSES]
        assert ["roof", "pond"][: number + 1] == [label["Name"] for label in listed]


@pytest.mark.slow
def test_pixels_and_objects_of_a_panoptic_export_are_those_of_the_town(scene: Scene, tmp_path: Path) -> None:
    ground = class_raster(tmp_path / "ground.tif", {(0, 0, 192, 96): 5, (0, 96, 192, 192): 6})
    options = {"metadata_format": "Panoptic_Segmentation", "in_instance_data": str(scene[1])}
    chips = export(scene[0], ground, tmp_path / "chips", tile_size=96, stride=96, **options)
    assert [1, 2, 5, 6] == [c.value for c in chips.classes]
    first = chips.read(chips.names[0])
    assert first.mask is not None
    assert first.masks is not None
    assert {3} == set(first.mask.ravel().tolist())
    boxes = {tuple(box) for box in first.boxes.astype(int).tolist()}
    assert {*town.ROOFS, town.POND_BOX} == boxes
    assert sorted((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == sorted(first.masks.sum(axis=(1, 2)).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "a classified raster"])
def test_chips_of_a_rare_class_are_added(scene: Scene, tmp_path: Path, kind: str) -> None:
    rare = (150, 150, 160, 160)
    corners = [(x, y) for x in (10, 60, 110) for y in (10, 60, 110)]
    usual = {(x, y, x + 10, y + 10): 1 for x, y in corners}
    labels = class_raster(tmp_path / "classes.tif", {**usual, rare: 2})
    if kind == "features":
        boxes = [town.outline(box) for box in (*usual, rare)]
        values = {"Classvalue": [1] * len(usual) + [2]}
        labels = tmp_path / "rare.gpkg"
        geopandas.GeoDataFrame(values, geometry=boxes, crs=town.EPSG).to_file(labels)
    options = {"metadata_format": "Classified_Tiles"}
    plain = export(scene[0], labels, tmp_path / "plain", **options)
    more = export(scene[0], labels, tmp_path / "more", oversample=True, **options)
    assert holding(plain, 2) < holding(more, 2)
    assert holding(plain, 1) <= holding(more, 1)


def holding(chips: ChipFolder, index: int) -> int:
    masks = (chips.read(name).mask for name in chips.names)
    return sum(mask is not None and bool((mask == index).any()) for mask in masks)


@pytest.mark.slow
def test_added_chips_never_lie_on_ground_of_another_part(scene: Scene, tmp_path: Path) -> None:
    split: dict[str, Any] = {"split": (0.5, 0.5, 0), "split_block_size": 96, "output_nofeature_tiles": True}
    alone = export(*scene, tmp_path / "chips", **split)
    number, before = len(alone.names), len(alone.splits["train"])
    options = {**split, "split": (0.5, 0.0, 0.5), "stride": 24, "split_block_size": 64, "start_index": number}
    both = export(*scene, tmp_path / "chips", **options)
    boxes = {part: [both.bounds(name) for name in names] for part, names in both.splits.items()}
    added = len(both.splits["train"]) - before
    assert 0 < added < len(both.names) - number
    for a, b in overlapping_parts(boxes):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def overlapping_parts(boxes: Mapping[str, Sequence[tuple[float, ...]]]) -> Iterator[tuple[tuple[float, ...], ...]]:
    names = sorted(boxes)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            yield from ((a, b) for a in boxes[one] for b in boxes[other])


@pytest.mark.parametrize("metadata_format", ["RCNN_Masks", "Imagenet"])
def test_two_spaces_in_the_name_of_a_class_are_kept(scene: Scene, tmp_path: Path, metadata_format: str) -> None:
    labels = tmp_path / "one.gpkg"
    fields = {"Classvalue": [1], "Classname": ["bare  soil"]}
    geopandas.GeoDataFrame(fields, geometry=[town.outline(town.ROOFS[0])], crs=town.EPSG).to_file(labels)
    chips = export(scene[0], labels, tmp_path / "chips", metadata_format=metadata_format)
    assert [1] == chips.read(chips.names[0]).labels.tolist()


def test_two_exports_never_work_in_one_folder(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "chips"

    def meddle(progress: object) -> None:
        if (out / receipt.NAME).is_file():
            with pytest.raises(Conflict, match="being written by another process"):
                export(*scene, out)

    whole = export(*scene, tmp_path / "whole")
    export_training_data(*scene, out, ExportOptions(**CHIP), workers=1, on_progress=meddle)
    assert whole.digest == ChipFolder.open(out).digest


@pytest.mark.slow
@pytest.mark.parametrize("metadata_format", plugins.names(tasks.formats))
def test_every_format_is_exported_and_every_chip_read(
    scene: Scene, later: Path, tmp_path: Path, metadata_format: str
) -> None:
    more: dict[str, Any] = {"in_raster2": str(later)} if metadata_format == "CycleGAN" else {}
    if metadata_format == "Panoptic_Segmentation":
        more = {"in_instance_data": str(scene[1])}
    chips = export(*scene, tmp_path / "chips", metadata_format=metadata_format, tile_size=64, **more)
    assert chips.names
    assert {(4, 64, 64)} == {chips.read(name).image.shape for name in chips.names}


def test_an_object_smaller_than_a_pixel_has_that_pixel(scene: Scene, tmp_path: Path) -> None:
    tiny = shapely.box(town.WEST + 10.3, town.NORTH - 5.2, town.WEST + 10.4, town.NORTH - 5.1)  # column 20, row 10
    labels = tmp_path / "tiny.gpkg"
    geopandas.GeoDataFrame({"Classvalue": [1]}, geometry=[tiny], crs=town.EPSG).to_file(labels)
    chips = export(scene[0], labels, tmp_path / "chips")
    assert [[20, 10, 21, 11]] == chips.read(chips.names[0]).boxes.tolist()
    chips = export(scene[0], labels, tmp_path / "masks", metadata_format="RCNN_Masks")
    masks = chips.read(chips.names[0]).masks
    assert masks is not None
    assert [(10, 20)] == [tuple(place) for place in np.argwhere(masks[0]).tolist()]


@pytest.mark.parametrize("nodata", [None, 0, 1, 255])
def test_a_plain_chip_is_what_gdal_would_write(tmp_path: Path, nodata: int | None) -> None:
    pixels = np.random.default_rng(0).integers(2, 200, (3, 16, 16), dtype=np.uint8)
    grid = Grid("EPSG:32633", (0.5, 0.0, 500_000.0, 0.0, -0.5, 4_600_000.0))
    write_raster(tmp_path / "chip.tif", pixels, grid, nodata)
    with rasterio.open(tmp_path / "chip.tif") as chip:
        assert nodata == chip.nodata
        assert np.array_equal(pixels, chip.read())


@pytest.mark.parametrize("turn", [(0.5, 0.0, 0.0, -0.5), (-0.5, 0.0, 0.0, 0.5), (0.0, 0.5, 0.5, 0.0)])
def test_a_plain_chip_of_any_turn_is_read_at_its_place(tmp_path: Path, turn: tuple[float, ...]) -> None:
    a, b, d, e = turn  # as it is, by 180 and by 90 degrees
    for west in (500_000.0, 500_100.0):  # the header of the first one is used for the second one
        grid = Grid("EPSG:32633", (a, b, west, d, e, 4_600_000.0))
        write_raster(tmp_path / "chip.tif", np.ones((3, 16, 16), np.uint8), grid)
        assert grid.transform == read_raster(tmp_path / "chip.tif").grid.transform


def test_the_alpha_band_of_a_foreign_picture_only_tells_what_is_valid(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "chip.png")
    raster = read_raster(tmp_path / "chip.png")
    assert (3, 8, 8) == raster.pixels.shape
    assert 32 == raster.valid.sum()
