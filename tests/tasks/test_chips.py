"""Exported folders, ours and those of ArcGIS: written by hand here, as ArcGIS leaves them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from registry.errors import DlpkError, ImageryError, LabelError
from tasks.chips import DEFINITION, Chip, ChipFolder
from tasks.imagery import open_in_pixels

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # half of them have no place
CLASSES = [
    {"Value": 20, "Name": "pond", "Color": [0, 90, 200]},
    {"Value": 1, "Name": "roof", "Color": [-1, -1, -1]},
]
OLD = {  # what ArcGIS wrote before Pro 2.7
    "Framework": "e.g. CNTK",
    "ModelFile": "e.g. .\\trained.model",
    "ImageHeight": "e.g. 256",
    "ImageWidth": "e.g. 256",
    "ExtractBands": "e.g. [0, 1, 2]",
    "Classes": CLASSES,
}
OBJECT = "<object><name>{}</name><bndbox><xmin>4</xmin><ymin>2</ymin><xmax>20</xmax><ymax>12</ymax></bndbox></object>"
DRIVERS = {".tif": "GTiff", ".jpg": "JPEG", ".png": "PNG", ".mrf": "MRF", ".jpeg": "JPEG", ".TIF": "GTiff"}
Pixels = NDArray[np.generic]


def picture(path: Path, pixels: Pixels | None = None, **profile: Any) -> Path:
    """By default 24 rows, 32 columns, three bands of 10, 20 and 30."""
    if pixels is None:
        pixels = np.repeat(np.array([10, 20, 30], np.uint8), 24 * 32).reshape(3, 24, 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, rows, cols = pixels.shape
    shape = {"count": bands, "height": rows, "width": cols, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver=DRIVERS[path.suffix], **shape, **profile) as raster:
        raster.write(pixels)
    return path


def grey(value: int, rows: int = 24, cols: int = 32) -> Pixels:
    return np.full((1, rows, cols), value, np.uint8)


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def world(path: Path, *numbers: float) -> Path:
    return text(path, "\r\n".join(f"{n:.10f}" for n in numbers) + "\r\n")


def folder(path: Path, metadata_format: str = "", **keys: Any) -> ChipFolder:
    """A definition of ArcGIS; the newer ones say their format and tile size."""
    newer = {"MetaDataMode": metadata_format, "ImageHeight": 24, "ImageWidth": 32} if metadata_format else {}
    text(path / DEFINITION, json.dumps(OLD | newer | keys))
    return ChipFolder.open(path)


def voc(path: Path, suffix: str, label: str | bytes) -> ChipFolder:
    picture(path / f"images/7{suffix}")
    text(path / "labels/7.xml", label)
    return folder(path, "PASCAL_VOC_rectangles")


@pytest.mark.parametrize("suffix", list(DRIVERS))
def test_a_chip_may_be_of_any_file_type_and_have_any_number(suffix: str, tmp_path: Path) -> None:
    chips = voc(tmp_path, suffix, f"<annotation>{OBJECT.format(20)}</annotation>")
    chip = chips.read("7")
    assert (("7",), (3, 24, 32)) == (chips.names, chip.image.shape)
    assert ([[4, 2, 20, 12]], [2]) == (chip.boxes.tolist(), chip.labels.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    "label",
    [
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\r\n<annotation>%s</annotation>\r\n',
        b'<?xml version="1.0" encoding="utf-16"?><annotation>%s</annotation>',
        b'<?xml version="1.0" encoding="windows-1252"?><annotation><filename>d\xe9pot</filename>%s</annotation>',
        b"\r\n\xef\xbb\xbf <annotation>%s</annotation>",
        b"<annotation><!-- no declaration --><source/>%s</annotation>",
    ],
)
def test_an_xml_file_is_read_whatever_it_says_of_its_encoding(label: bytes, tmp_path: Path) -> None:
    chips = voc(tmp_path, ".jpg", label % OBJECT.format(1).encode())
    assert [1] == chips.read("7").labels.tolist()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_an_xml_file_of_two_bytes_a_letter_is_read(encoding: str, tmp_path: Path) -> None:
    label = f'<?xml version="1.0" encoding="utf-8"?><annotation>{OBJECT.format(1)}</annotation>'
    assert [1] == voc(tmp_path, ".jpg", label.encode(encoding)).read("7").labels.tolist()


def test_an_xml_bomb_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    with pytest.raises(LabelError, match=r"labels/7\.xml"):
        voc(tmp_path, ".jpg", bomb).read("7")


def test_other_tools_name_their_classes(tmp_path: Path) -> None:
    chips = voc(tmp_path, ".jpg", f"<annotation>{OBJECT.format('pond')}</annotation>")
    assert [2] == chips.read("7").labels.tolist()


def test_objects_of_class_0_are_background(tmp_path: Path) -> None:
    picture(tmp_path / "images/7.jpg")
    text(tmp_path / "labels/7.xml", f"<annotation>{OBJECT.format(0)}{OBJECT.format(20)}</annotation>")
    chips = folder(
        tmp_path, "PASCAL_VOC_rectangles", Classes=[*CLASSES, {"Value": 0, "Name": "rest", "Color": [0, 0, 0]}]
    )
    assert (["roof", "pond"], [2]) == ([c.name for c in chips.classes], chips.read("7").labels.tolist())


def test_a_chip_without_label_file_is_left_out_and_one_without_object_is_background(tmp_path: Path) -> None:
    picture(tmp_path / "images/8.jpg")
    picture(tmp_path / "images/9.jpg")
    text(tmp_path / "labels/9.xml", "<annotation/>")
    chips = voc(tmp_path, ".jpg", f"<annotation>{OBJECT.format(1)}</annotation>")
    assert (("7", "9"), ("8",)) == (chips.names, chips.unlabelled)
    assert 0 == len(chips.read("9").labels)


def test_a_folder_without_any_label_is_an_error_that_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "images/7.jpg")
    with pytest.raises(LabelError, match="none of 1 chips has a label file"):
        _ = folder(tmp_path, "PASCAL_VOC_rectangles").names


def test_a_definition_of_old_says_little_and_the_rest_is_found(tmp_path: Path) -> None:
    picture(tmp_path / "images/7.jpg")
    picture(tmp_path / "images/8.jpg")
    for name in "78":
        text(tmp_path / f"labels/{name}.txt", "1 0.0 0 0.0 4 2 20 12 0.0 0.0 0.0 0.0 0.0 0.0 0.0\r\n")
    text(tmp_path / "esri_accumulated_stats.json", '{"MetaDataMode": "KITTI_rectangles"}')
    chips = folder(tmp_path)
    assert ("KITTI_rectangles", (24, 32), 24) == (chips.metadata_format, chips.tile_shape, chips.tile_size)
    assert ["Red", "Green", "Blue"] == [s.name for s in chips.band_statistics]
    assert [10, 20, 30] == pytest.approx([s.mean for s in chips.band_statistics], abs=2)  # JPEG
    assert [1] == chips.read("8").labels.tolist()


def test_a_definition_that_names_no_format_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    picture(tmp_path / "images/7.jpg")
    with pytest.raises(LabelError, match='does not say its metadata format; add "MetaDataMode"'):
        _ = folder(tmp_path).names
    with pytest.raises(LabelError, match=r"'Point_Clouds'; export as one of .*KITTI"):
        _ = folder(tmp_path, "Point_Clouds").names


@pytest.mark.parametrize("mean", [None, "NaN", float("nan")])
def test_bands_of_which_the_definition_knows_no_number_are_measured(mean: Any, tmp_path: Path) -> None:
    picture(tmp_path / "images/0.tif", grey(7))
    known = [{"BandName": "Height", "Min": 0, "Max": 9, "Mean": mean, "StdDev": 1}]
    (band,) = folder(tmp_path, "Export_Tiles", AllTilesStats=known).band_statistics
    assert (7, 7, 0) == (band.max, band.mean, band.std)


def test_bands_are_measured_with_the_names_of_the_definition(tmp_path: Path) -> None:
    pixels = np.arange(4 * 24 * 32, dtype=np.uint16).reshape(4, 24, 32)
    picture(tmp_path / "images/0.tif", pixels)
    names = ["Coastal", "Blue", "Green", "Red"]
    chips = folder(tmp_path, "Export_Tiles", InputRastersProps={"BandNames": names})
    assert names == [s.name for s in chips.band_statistics]
    assert pixels.mean(axis=(1, 2)).tolist() == pytest.approx([s.mean for s in chips.band_statistics])
    assert pixels.std(axis=(1, 2)).tolist() == pytest.approx([s.std for s in chips.band_statistics])


@pytest.mark.parametrize(
    ("first", "second"), [("images", "images2"), ("images_before", "images_after")], ids=["new", "old"]
)
def test_change_detection_has_two_pictures_of_a_place(first: str, second: str, tmp_path: Path) -> None:
    picture(tmp_path / first / "0.tif")
    picture(tmp_path / second / "0.tif", grey(7))
    label = grey(0)
    label[0, :2] = 255
    picture(tmp_path / "labels/0.tif", label)
    change = [
        {"Value": 0, "Name": "NoChange", "Color": [0, 0, 0]},
        {"Value": 1, "Name": "Change", "Color": [255, 255, 255]},
    ]
    chip = folder(tmp_path, "Classified_Tiles", Classes=change).read("0")
    assert chip.image2 is not None
    assert chip.mask is not None
    assert (7, 2 * 32, 1) == (chip.image2[0, 0, 0], chip.mask.sum(), chip.mask.max())


def test_what_one_date_does_not_show_does_not_count(tmp_path: Path) -> None:
    later = grey(7)
    later[:, :, 20:] = 0
    picture(tmp_path / "images/0.tif", grey(7))
    picture(tmp_path / "images2/0.tif", later, nodata=0)
    picture(tmp_path / "images/1.tif", grey(7))
    picture(tmp_path / "images2/1.tif", later[:, :9], nodata=0)  # of another size: that is told where it is learned
    chips = folder(tmp_path, "Export_Tiles")
    assert np.array_equal(later[0] > 0, chips.read("0").valid)
    assert chips.read("1").valid.all()


def test_a_fourth_band_that_gdal_takes_for_alpha_tells_nothing_of_nodata(tmp_path: Path) -> None:
    pixels = np.full((4, 24, 32), 90, np.uint8)
    pixels[3, :, :16] = 0
    objects = np.zeros((4, 24, 32), np.uint8)
    objects[0, :4] = objects[3, 20:] = 1
    picture(tmp_path / "images/0.tif", pixels)
    picture(tmp_path / "labels/roof/0.tif", objects)
    with rasterio.open(tmp_path / "images/0.tif") as raster:
        assert "alpha" == raster.colorinterp[3].name
    chip = folder(tmp_path, "RCNN_Masks").read("0")
    assert chip.valid.all()
    assert (4, [1, 1]) == (len(chip.image), chip.labels.tolist())
    assert [[0, 0, 32, 4], [0, 20, 32, 24]] == chip.boxes.tolist()
    with rasterio.open(tmp_path / "images/0.tif", "r+") as raster:
        raster.nodata = 0
    assert 24 * 32 == folder(tmp_path, "RCNN_Masks").read("0").valid.sum()  # some band of it is not 0


def test_a_raster_may_have_more_classes_than_a_byte_has_values(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.tif")
    picture(tmp_path / "labels/0.tif", np.arange(24 * 32, dtype=np.uint16).reshape(1, 24, 32) % 301)
    classes = [{"Value": value, "Name": str(value), "Color": [0, 0, 0]} for value in range(1, 301)]
    mask = folder(tmp_path, "Classified_Tiles", Classes=classes).read("0").mask
    assert mask is not None
    assert list(range(301)) == np.unique(mask).tolist()


def test_masks_lie_in_folders_of_class_names(tmp_path: Path) -> None:
    for name in "01":
        picture(tmp_path / f"images/{name}.jpg")
    mask = np.zeros((2, 24, 32), np.uint16)
    mask[0, 1:3, 4:8], mask[0, 5:6, 0:2], mask[1, 2:4, 6:9] = 1, 7, 1
    picture(tmp_path / "labels/pond/0.tif", mask)
    chips = folder(tmp_path, "RCNN_Masks")
    chip = chips.read("0")
    assert (("0",), ("1",), [2, 2, 2]) == (chips.names, chips.unlabelled, chip.labels.tolist())
    assert [[4, 1, 8, 3], [0, 5, 2, 6], [6, 2, 9, 4]] == chip.boxes.tolist()


def test_a_folder_of_masks_that_no_class_is_named_like_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    picture(tmp_path / "labels/20/0.tif", grey(1))
    with pytest.raises(LabelError, match=r"\['20'\]; name each folder by the Name"):
        _ = folder(tmp_path, "RCNN_Masks").names


def test_imagenet_labels_are_folders(tmp_path: Path) -> None:
    picture(tmp_path / "images/roof/0.jpg")
    picture(tmp_path / "images/pond/1.jpg")
    chips = folder(tmp_path, "Imagenet")
    assert {"0": [1], "1": [2]} == {name: chips.read(name).labels.tolist() for name in chips.names}


def test_imagenet_of_other_tools_may_number_each_folder_anew(tmp_path: Path) -> None:
    picture(tmp_path / "images/roof/0.jpg")
    picture(tmp_path / "images/pond/0.jpg")
    chips = folder(tmp_path, "Imagenet")
    assert {"pond/0": [2], "roof/0": [1]} == {name: chips.read(name).labels.tolist() for name in chips.names}


def test_panoptic_objects_may_be_of_classes_that_pixels_do_not_have(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png")
    picture(tmp_path / "labels/0.png", grey(20))
    picture(tmp_path / "labels2/car/0.png", grey(1))
    cars = [{"Value": 20, "Name": "car", "Color": [9, 9, 9]}]
    chips = folder(tmp_path, "Panoptic_Segmentation", Panoptic_Segmentation_Instance_Classes=cars)
    chip = chips.read("0")
    assert chip.mask is not None
    assert ["roof", "pond", "car"] == [c.name for c in chips.classes]
    assert (2, [3], [[0, 0, 32, 24]]) == (chip.mask.min(), chip.labels.tolist(), chip.boxes.tolist())


@pytest.mark.parametrize("suffix", [".tif", ".TIF", ".png", ".mrf"])
def test_a_raster_of_classes_may_be_of_any_file_type(suffix: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    picture(tmp_path / f"labels/0{suffix}", grey(20))
    chips = folder(tmp_path, "Classified_Tiles")
    mask = chips.read("0").mask
    assert mask is not None
    assert (("0",), 2, 2) == (chips.names, mask.min(), mask.max())


@pytest.mark.parametrize("sides", [("A/images", "B/images"), ("Images/train_a", "Images/train_b")])
def test_cyclegan_has_two_sides(sides: tuple[str, str], tmp_path: Path) -> None:
    picture(tmp_path / sides[0] / "0.tif")
    picture(tmp_path / sides[0] / "1.tif")
    picture(tmp_path / sides[1] / "0.tif", grey(9))
    folder(tmp_path / "A" if sides[0].startswith("A") else tmp_path, "CycleGAN", Classes=[])
    chips = ChipFolder.open(tmp_path)
    second = chips.read("0").image2
    assert second is not None
    assert (("0", "1"), (1, 24, 32), None) == (chips.names, second.shape, chips.read("1").image2)


def test_a_label_of_value_0_is_a_class_of_tiles(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    text(tmp_path / "labels/0.xml", f"<annotation>{OBJECT.format(0)}</annotation>")
    classes = [{"Value": 0, "Name": "intact", "Color": [0, 0, 0]}, {"Value": 1, "Name": "ruin", "Color": [9, 9, 9]}]
    chips = folder(tmp_path, "Labeled_Tiles", Classes=classes)
    assert ("intact", [1]) == (chips.classes[0].name, chips.read("0").labels.tolist())


@pytest.mark.parametrize("names", ["roof,pond", "pond,roof", "pond, roof"])
def test_labels_of_a_tile_are_joined_by_commas(names: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    text(tmp_path / "labels/0.xml", f"<annotation>{OBJECT.format(names)}</annotation>")
    assert [1, 2] == folder(tmp_path, "MultiLabeled_Tiles").read("0").labels.tolist()


def test_coco_of_other_tools_has_ids_and_paths_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "images/a b.jpg")
    picture(tmp_path / "images/c.jpg")
    document = {
        "images": [{"id": "x", "file_name": "images\\a b.jpg"}],
        "annotations": [{"image_id": "x", "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "pond"}],
    }
    text(tmp_path / "labels.json", json.dumps(document))
    chips = folder(tmp_path, "COCO_rectangles")
    chip = chips.read("a b")
    assert (("a b",), [[1, 2, 4, 6]], [2]) == (chips.names, chip.boxes.tolist(), chip.labels.tolist())


def test_yolo_classes_go_by_their_names(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    text(tmp_path / "labels/0.txt", "0 0.5 0.5 0.25 0.5\n")
    text(tmp_path / "data.yaml", "names: [pond, roof]\n")
    chip = folder(tmp_path, "YOLO_rectangles").read("0")
    assert ([[12, 6, 20, 18]], [2]) == (chip.boxes.tolist(), chip.labels.tolist())


def test_kitti_of_other_tools_has_names_and_what_nobody_cares_for(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    rest = "0.00 0 -1.57 4.0 2.0 20.0 12.0 1.0 1.0 1.0 0.0 0.0 0.0 0.0\n"
    text(tmp_path / "labels/0.txt", f"pond {rest}DontCare {rest}\n")
    assert [2] == folder(tmp_path, "KITTI_rectangles").read("0").labels.tolist()


def test_a_box_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    wrong = OBJECT.format(1).replace("<xmax>20<", "<xmax>2<")
    with pytest.raises(LabelError, match=r"labels/7\.xml: has a box that ends before it begins"):
        voc(tmp_path, ".jpg", f"<annotation>{wrong}</annotation>").read("7")


def test_a_box_without_width_is_left_out_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = OBJECT.format(1).replace("<xmin>4<", "<xmin>20.00<")
    chips = voc(tmp_path, ".jpg", f"<annotation>{flat}{OBJECT.format(20)}</annotation>")
    for _ in range(2):
        assert ([[4, 2, 20, 12]], [2]) == (chips.read("7").boxes.tolist(), chips.read("7").labels.tolist())
    expected = [f"{tmp_path / 'labels/7.xml'}: boxes without width or height are left out: 1"]
    assert expected == [record.getMessage() for record in caplog.records]


def test_bounds_come_from_the_world_file(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    world(tmp_path / "images/0.jgw", 0.5, 0, 0, -0.5, 100.25, 199.75)
    assert (100, 188, 116, 200) == folder(tmp_path, "Export_Tiles").bounds("0")


def test_bounds_of_a_turned_chip_are_those_of_its_corners(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.jpg")
    world(tmp_path / "images/0.jgw", 0, 0.5, 0.5, 0, 100.25, 200.25)  # a quarter turn
    assert (100, 200, 112, 216) == pytest.approx(folder(tmp_path, "Export_Tiles").bounds("0"))


def test_bounds_without_world_file_are_those_of_the_picture_itself(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.tif", transform=Affine(2, 0, 50, 0, -2, 80))
    assert (50, 32, 114, 80) == folder(tmp_path, "Export_Tiles").bounds("0")


def test_chips_that_lie_nowhere_lie_side_by_side(tmp_path: Path) -> None:
    for name in "01":
        picture(tmp_path / f"images/{name}.png")
    chips = folder(tmp_path, "Export_Tiles", ImageSpaceUsed="PIXEL_SPACE")
    assert [(0, 0, 32, 24), (32, 0, 64, 24)] == [chips.bounds(name) for name in chips.names]


def test_chips_of_any_size_have_bounds_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png", grey(1, rows=10, cols=12))
    world(tmp_path / "images/0.pgw", 1, 0, 0, -1, 0.5, 9.5)
    assert (0, 0, 12, 10) == folder(tmp_path, "Labeled_Tiles", CropTileMode="Variable_Size").bounds("0")


def test_splits_are_read_when_there_are_some(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png")
    chips = folder(tmp_path, "Export_Tiles")
    assert {} == chips.splits
    text(tmp_path / "splits.json", '{"train": ["0"], "validation": []}')
    assert {"train": ("0",), "validation": ()} == ChipFolder.open(tmp_path).splits


def damage_world(path: Path) -> None:
    text(path / "images/7.jgw", "1 2 3")


def damage_picture(path: Path) -> None:
    text(path / "images/7.jpg", b"\xff\xd8\xff no picture")


def damage_statistics(path: Path) -> None:
    text(path / "esri_accumulated_stats.json", "[]")


@pytest.mark.parametrize(
    ("damage", "use", "named"),
    [
        (damage_world, lambda chips: chips.bounds("7"), r"7\.jgw"),
        (damage_picture, lambda chips: chips.read("7"), r"7\.jpg"),
        (damage_statistics, lambda chips: chips.accumulated, "esri_accumulated_stats"),
        (damage_picture, lambda chips: chips.read("8"), "no such chip, got '8'"),
    ],
)
def test_what_is_damaged_is_named(
    damage: Callable[[Path], None], use: Callable[[ChipFolder], object], named: str, tmp_path: Path
) -> None:
    chips = voc(tmp_path, ".jpg", "<annotation/>")
    damage(tmp_path)
    with pytest.raises(DlpkError, match=named):
        use(chips)


def test_a_png_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = picture(tmp_path / "images/0.png", np.random.default_rng(1).integers(0, 255, (3, 64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageryError, match=r"0\.png: cannot be read"):
        folder(tmp_path, "Export_Tiles").read("0")
    with open_in_pixels(path) as imagery, pytest.raises(ImageryError, match=r"0\.png .*cannot be read"):
        imagery.read(0, 0, 64, 64)


def test_the_digest_changes_with_any_content_and_with_nothing_else(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.tif")
    picture(tmp_path / "images2/0.tif")
    before = folder(tmp_path, "Export_Tiles").digest
    text(tmp_path / "models/model.pth", "left by a training")
    text(tmp_path / "images/.0.tif.ab12.part", "left by a kill")
    text(tmp_path / "images/0.tif.aux.xml", "left by QGIS, and by ArcGIS Pro")
    text(tmp_path / "images/Thumbs.db", "left by Windows")
    assert before == ChipFolder.open(tmp_path).digest
    picture(tmp_path / "images2/0.tif", grey(8))
    assert before != ChipFolder.open(tmp_path).digest


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.tif")
    picture(tmp_path / "images/0.png")
    with pytest.raises(LabelError, match="same name"):
        _ = folder(tmp_path, "Export_Tiles").names


def test_masks_must_be_as_many_as_labels() -> None:
    chip = Chip("0", np.zeros((1, 4, 4)), np.ones((4, 4), bool))
    with pytest.raises(LabelError, match=r"\(0, 4, 4\), got \(2, 4, 4\)"):
        replace(chip, masks=np.ones((2, 4, 4), bool))
