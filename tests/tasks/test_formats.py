"""Every metadata format gets these tests by being there."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import DlpkError, LabelError, StoreError
from tasks.chips import Chip, Grid
from tasks.rasters import read_raster, write_raster

CLASSES = (ClassLabel(1, "roof", (230, 60, 40)), ClassLabel(20, "garden pond", (0, 90, 200)))
GRID = Grid("", (0.5, 0, 100, 0, -0.5, 200))
FORMATS = plugins.names(tasks.formats)
MODULES = {name: plugins.load(tasks.formats, name) for name in FORMATS}
OF_FILES = [name for name in FORMATS if MODULES[name].CARRIES != "nothing" and name != "Imagenet"]  # have label files
OF_VALUES = [name for name in OF_FILES if name not in ("RCNN_Masks", "MultiLabeled_Tiles", "YOLO_rectangles")]
OF_FOLDERS = ("RCNN_Masks", "Panoptic_Segmentation", "Imagenet")
NAME = "000000000"

VOC = """<?xml version="1.0"?>
<annotation>
    <filename>000000000.jpg</filename>
    <source>
        <annotation>ArcGIS Pro 2.1</annotation>
    </source>
    <size>
        <width>64</width>
        <height>48</height>
        <depth>3</depth>
    </size>
    <object>
        <name>{}</name>
        <bndbox>
            <xmin>{:.2f}</xmin>
            <ymin>{:.2f}</ymin>
            <xmax>{:.2f}</xmax>
            <ymax>{:.2f}</ymax>
        </bndbox>
    </object>
</annotation>
"""
KITTI = "20 0.0 0 0.0 8.00 4.50 24.00 16.00 0.0 0.0 0.0 0.0 0.0 0.0 0.0\n"
COCO = {
    "images": [{"id": 0, "file_name": "000000000.jpg", "width": 64, "height": 48}],
    "annotations": [
        {"id": 0, "image_id": 0, "category_id": 20, "bbox": [8.0, 4.5, 16.0, 11.5], "area": 184.0, "iscrowd": 0}
    ],
    "categories": [
        {"id": 1, "name": "roof", "supercategory": ""},
        {"id": 20, "name": "garden pond", "supercategory": ""},
    ],
}
PIXELS = np.zeros((48, 64), np.uint8)
PIXELS[5:16, 8:24] = 1
GOLDEN: dict[str, dict[str, Any]] = {  # what a chip with one object of class 20 leaves on the disk: text, JSON, pixels
    "CycleGAN": {},
    "COCO_rectangles": {"labels.json": COCO},
    "Classified_Tiles": {"labels/000000000.tif": PIXELS * 20},
    "Export_Tiles": {},
    "Imagenet": {},
    "KITTI_rectangles": {"labels/000000000.txt": KITTI},
    "Labeled_Tiles": {"labels/000000000.xml": VOC.format(20, 8, 4.5, 24, 16)},
    "MultiLabeled_Tiles": {"labels/000000000.xml": VOC.format("garden pond", 0, 0, 64, 48)},
    "PASCAL_VOC_rectangles": {"labels/000000000.xml": VOC.format(20, 8, 4.5, 24, 16)},
    "Panoptic_Segmentation": {
        "labels/000000000.tif": PIXELS * 20,
        "labels2/garden pond/000000000.tif": PIXELS,
    },
    "RCNN_Masks": {"labels/garden pond/000000000.tif": PIXELS},
    "YOLO_rectangles": {
        "labels/000000000.txt": "1 0.25000000 0.21354167 0.25000000 0.23958333\n",
        "data.yaml": "path: .\ntrain: images\nval: images\nnames:\n  0: roof\n  1: garden pond\n",
    },
}


def blank(rows: int = 64, cols: int = 64) -> Chip:
    return Chip(NAME, np.zeros((3, rows, cols), np.uint8), np.ones((rows, cols), bool), grid=GRID)


def labelled(module: ModuleType, boxes: Any, labels: Any, mask: Any, masks: Any, *, shape: tuple[int, int]) -> Chip:
    """A chip with what the format carries and nothing else."""
    boxes, labels = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64)
    whole = np.array([[0, 0, shape[1], shape[0]]], np.float32)
    kinds: dict[str, dict[str, Any]] = {
        "boxes": {"boxes": boxes, "labels": labels},
        "mask": {"mask": mask},
        "instances": {"boxes": boxes, "labels": labels, "masks": masks},
        "panoptic": {"boxes": boxes, "labels": labels, "masks": masks, "mask": mask},
        "label": {"boxes": boxes[:1], "labels": labels[:1]},
        "labels": {"boxes": whole.repeat(len(np.unique(labels)), axis=0), "labels": np.unique(labels)},
        "nothing": {},
    }
    return Chip(**{**vars(blank(*shape)), **kinds[module.CARRIES]})


def pond(module: ModuleType) -> Chip:
    masks = PIXELS[None].astype(bool)
    return labelled(module, [[8, 4.5, 24, 16]], [2], PIXELS * 2, masks, shape=(48, 64))


def written(module: ModuleType, chip: Chip, folder: Path, classes: Sequence[ClassLabel] = CLASSES) -> tuple[Path, ...]:
    """The chip on the disk, as an export leaves it."""
    if hasattr(module, "image_path"):
        picture = folder / module.image_path(chip, classes, ".jpg")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
    files: tuple[Path, ...] = module.write(chip, classes, folder, ".jpg")
    if hasattr(module, "finish"):
        module.finish(folder, [chip.name], classes)
    return files


def things(chip: Chip) -> list[Any]:
    """The objects of a chip in an order of their own: formats may have another."""
    masks = chip.masks if chip.masks is not None else [np.zeros(0)] * len(chip.labels)
    objects = zip(chip.labels.tolist(), chip.boxes.round(2).tolist(), (m.tolist() for m in masks), strict=True)
    return sorted(objects, key=repr)


@st.composite
def chips(draw: st.DrawFn, module: ModuleType) -> Chip:
    """Objects that overlap as they like; of the shapes that the format asks for."""
    least = 1 if module.CARRIES in ("instances", "label") else 0
    most = 1 if module.CARRIES == "label" else 5
    count = draw(st.integers(least, most))
    corners = draw(arrays(np.float32, (count, 2), elements=st.integers(0, 40).map(float)))
    sizes = draw(arrays(np.float32, (count, 2), elements=st.integers(1, 8).map(float)))
    labels = draw(arrays(np.int64, count, elements=st.integers(1, 2)))
    boxes = np.hstack([corners, corners + sizes])
    masks = np.zeros((count, 48, 64), bool)
    for mask, (xmin, ymin, xmax, ymax) in zip(masks, boxes.astype(int), strict=True):
        mask[ymin:ymax, xmin:xmax] = True
    pixels = draw(arrays(np.uint8, (48, 64), elements=st.integers(0, 2), fill=st.just(0)))
    return labelled(module, boxes, labels, pixels, masks, shape=(48, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_survive_the_disk(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    module, folder = MODULES[name], tmp_path_factory.mktemp("chips")
    chip = data.draw(chips(module))
    if name == "Imagenet":  # the box is always the whole tile
        chip = Chip(**{**vars(chip), "boxes": np.array([[0, 0, 64, 48]], np.float32)})
    written(module, chip, folder)
    back = module.read(blank(48, 64), CLASSES, folder)
    assert things(chip) == things(back)
    assert (chip.mask is None) == (back.mask is None)
    if chip.mask is not None:
        assert chip.mask.tolist() == back.mask.tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_a_chip_on_the_disk_is_as_arcgis_has_it(name: str, tmp_path: Path) -> None:
    files = written(MODULES[name], pond(MODULES[name]), tmp_path)
    found = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*.*") if p.suffix not in (".tfw", ".jpg")}
    content: dict[str, Any] = {}
    for place, path in found.items():
        if path.suffix == ".tif":
            content[place] = read_raster(path).pixels[0].tolist()
        else:
            content[place] = json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()
    expected = {p: v.tolist() if isinstance(v, np.ndarray) else v for p, v in GOLDEN[name].items()}
    assert expected == content
    of_map = {p for p in expected if p.startswith("labels") and p != "labels.json"}
    assert of_map == {p.relative_to(tmp_path).as_posix() for p in files}


def test_every_format_has_its_golden_text() -> None:
    assert FORMATS == sorted(GOLDEN)


@pytest.mark.parametrize("name", OF_FILES)
@pytest.mark.parametrize(
    "junk", [b"", b"\x00" * 64, b"<annotation><object><name>1</name></object></annotation>", b"\xff\xfe<", b"[1]"]
)
def test_a_damaged_label_file_is_an_error_that_names_it(name: str, junk: bytes, tmp_path: Path) -> None:
    module = MODULES[name]
    files = written(module, pond(module), tmp_path) or (tmp_path / "labels.json",)
    files[0].write_bytes(junk)
    if junk == b"" and files[0].suffix == ".txt":
        assert 0 == len(module.read(blank(48, 64), CLASSES, tmp_path).labels)  # a background chip
        return
    with pytest.raises(DlpkError, match=files[0].name):
        module.read(blank(48, 64), CLASSES, tmp_path)


@pytest.mark.parametrize("name", OF_FILES)
def test_a_missing_label_file_is_an_error_that_names_the_chip(name: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"000000000|labels\.json"):
        MODULES[name].read(blank(), CLASSES, tmp_path)
    if name == "COCO_rectangles":
        return
    assert set() == MODULES[name].labelled(tmp_path, CLASSES)


@pytest.mark.parametrize("name", OF_FILES)
def test_a_chip_with_labels_is_known_without_reading_them(name: str, tmp_path: Path) -> None:
    written(MODULES[name], pond(MODULES[name]), tmp_path)
    assert {NAME} == MODULES[name].labelled(tmp_path, CLASSES)


@pytest.mark.parametrize("name", OF_VALUES)
def test_a_class_value_that_nobody_has_is_refused(name: str, tmp_path: Path) -> None:
    written(MODULES[name], pond(MODULES[name]), tmp_path)
    with pytest.raises(DlpkError, match="20"):
        MODULES[name].read(blank(48, 64), CLASSES[:1], tmp_path)


@pytest.mark.parametrize("name", ["RCNN_Masks", "MultiLabeled_Tiles", "YOLO_rectangles", "Imagenet"])
def test_a_class_name_that_nobody_has_is_refused(name: str, tmp_path: Path) -> None:
    written(MODULES[name], pond(MODULES[name]), tmp_path)
    with pytest.raises(LabelError, match="garden pond"):
        MODULES[name].read(blank(48, 64), CLASSES[:1], tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_that_is_the_value_of_another_class_swaps_no_classes(name: str, tmp_path: Path) -> None:
    chip, classes = pond(MODULES[name]), (ClassLabel(1, "2", (0, 0, 0)), ClassLabel(2, "1", (9, 9, 9)))
    written(MODULES[name], chip, tmp_path, classes)
    assert chip.labels.tolist() == MODULES[name].read(blank(48, 64), classes, tmp_path).labels.tolist()


def test_a_category_of_coco_with_an_unknown_name_is_found_by_its_value(tmp_path: Path) -> None:
    module = MODULES["COCO_rectangles"]
    written(module, pond(module), tmp_path)
    classes = (ClassLabel(1, "20", (0, 0, 0)), ClassLabel(20, "pool", (9, 9, 9)))
    assert [2] == module.read(blank(48, 64), classes, tmp_path).labels.tolist()


@pytest.mark.parametrize("name", OF_FOLDERS)
@pytest.mark.parametrize("wrong", ["roof/shed", "a:b", "..", "con", "roof.", " roof", "", "a\tb"])
def test_a_class_name_that_is_no_folder_is_refused_before_anything_is_written(name: str, wrong: str) -> None:
    with pytest.raises(LabelError, match="rename the classes"):
        MODULES[name].check((*CLASSES, ClassLabel(3, wrong)))


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_two_classes_in_one_folder_are_refused(name: str) -> None:
    with pytest.raises(LabelError, match="Roof"):
        MODULES[name].check((*CLASSES, ClassLabel(3, "Roof")))


@pytest.mark.parametrize("name", ["KITTI_rectangles", "PASCAL_VOC_rectangles", "COCO_rectangles", "YOLO_rectangles"])
def test_boxes_end_at_the_edge_of_the_chip(name: str, tmp_path: Path) -> None:
    module = MODULES[name]
    chip = labelled(module, [[-3.5, -0.001, 70, 48.5]], [1], None, None, shape=(48, 64))
    written(module, chip, tmp_path)
    text = next(p for p in tmp_path.rglob("*.*") if p.suffix in (".txt", ".xml", ".json")).read_text()
    assert "-" not in text.replace("-0.5", "")
    assert [[0, 0, 64, 48]] == module.read(blank(48, 64), CLASSES, tmp_path).boxes.tolist()


def test_kitti_refuses_what_its_digits_cannot_say() -> None:
    with pytest.raises(LabelError, match="-1"):
        MODULES["KITTI_rectangles"].check((ClassLabel(-1, "roof"),))


def test_a_comma_in_a_class_name_is_refused_where_commas_join_names() -> None:
    with pytest.raises(LabelError, match="barn, shed"):
        MODULES["MultiLabeled_Tiles"].check((ClassLabel(1, "barn, shed"),))


@pytest.mark.parametrize("name", ["Labeled_Tiles", "Imagenet"])
def test_a_chip_of_two_labels_has_no_place_in_a_format_of_one(name: str, tmp_path: Path) -> None:
    chip = Chip(**{**vars(blank()), "boxes": np.zeros((2, 4), np.float32), "labels": np.array([1, 2])})
    with pytest.raises(LabelError, match=r"exactly one label, got \[1, 2\]"):
        written(MODULES[name], chip, tmp_path)


def test_objects_of_a_class_that_overlap_go_to_further_bands(tmp_path: Path) -> None:
    masks = np.zeros((3, 64, 64), bool)
    masks[0, :20, :20] = masks[1, 10:30, 10:30] = masks[2, 40:50, 40:50] = True
    chip = Chip(
        **{**vars(blank()), "boxes": np.zeros((3, 4), np.float32), "labels": np.array([1, 1, 1]), "masks": masks}
    )
    (path,) = MODULES["RCNN_Masks"].write(chip, CLASSES, tmp_path, ".tif")
    pixels = read_raster(path).pixels
    assert ((2, 64, 64), {0, 1, 2}, {0, 1}) == (pixels.shape, set(pixels[0].flat), set(pixels[1].flat))
    back = MODULES["RCNN_Masks"].read(blank(), CLASSES, tmp_path)
    assert sorted(masks.sum(axis=(1, 2)).tolist()) == sorted(back.masks.sum(axis=(1, 2)).tolist())
    assert [10, 10, 30, 30] in back.boxes.tolist()


def test_more_objects_than_a_byte_counts_are_all_kept(tmp_path: Path) -> None:
    masks = np.zeros((300, 64, 64), bool)
    masks.reshape(300, -1)[np.arange(300), np.arange(300) * 10] = True
    labels, boxes = np.ones(300, np.int64), np.zeros((300, 4), np.float32)
    chip = Chip(**{**vars(blank()), "boxes": boxes, "labels": labels, "masks": masks})
    MODULES["RCNN_Masks"].write(chip, CLASSES, tmp_path, ".tif")
    assert 300 == len(MODULES["RCNN_Masks"].read(blank(), CLASSES, tmp_path).labels)


@pytest.mark.parametrize("values", [(1, 300), (1, 70_000), (-5, 7)])
def test_class_values_of_any_size_survive(values: tuple[int, int], tmp_path: Path) -> None:
    module, classes = MODULES["Classified_Tiles"], tuple(ClassLabel(v, f"class {v}") for v in values)
    mask = np.arange(64 * 64).reshape(64, 64) % 3
    module.write(Chip(**{**vars(blank()), "mask": mask.astype(np.uint8)}), classes, tmp_path, ".tif")
    assert mask.tolist() == module.read(blank(), classes, tmp_path).mask.tolist()


def test_labels_of_another_size_than_the_picture_are_refused(tmp_path: Path) -> None:
    written(MODULES["Classified_Tiles"], pond(MODULES["Classified_Tiles"]), tmp_path)
    with pytest.raises(LabelError, match=r"expected \(64, 64\).*got \(48, 64\)"):
        MODULES["Classified_Tiles"].read(blank(), CLASSES, tmp_path)


def test_nodata_and_fractions_in_a_label_raster(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    values = np.full((1, 64, 64), 255, np.uint8)
    values[0, 0, 0] = 20
    profile = {"driver": "GTiff", "count": 1, "width": 64, "height": 64, "dtype": "uint8", "nodata": 255}
    with rasterio.open(tmp_path / "labels/000000000.tif", "w", **profile, transform=Affine(*GRID.transform)) as raster:
        raster.write(values)
    mask = MODULES["Classified_Tiles"].read(blank(), CLASSES, tmp_path).mask
    assert (2, 2) == (mask[0, 0], mask.sum())
    write_raster(tmp_path / "labels/000000000.tif", np.full((1, 64, 64), 0.5, np.float32), GRID)
    with pytest.raises(LabelError, match="whole numbers"):
        MODULES["Classified_Tiles"].read(blank(), CLASSES, tmp_path)


def test_coco_is_gathered_from_shares_in_any_order_and_after_a_kill(tmp_path: Path) -> None:
    module = MODULES["COCO_rectangles"]
    names = ("000000000", "000000001", "000000002")
    chip = pond(module)
    for name in reversed(names):
        module.write(Chip(**{**vars(chip), "name": name}), CLASSES, tmp_path, ".tif")
    module.finish(tmp_path, names, CLASSES)
    whole = (tmp_path / "labels.json").read_text()
    module.write(
        Chip(**{**vars(chip), "name": names[1]}), CLASSES, tmp_path, ".tif"
    )  # killed while shares were dropped
    module.finish(tmp_path, names, CLASSES)
    assert whole == (tmp_path / "labels.json").read_text()
    assert [0, 1, 2] == [a["image_id"] for a in json.loads(whole)["annotations"]]
    assert ["labels.json"] == [p.name for p in tmp_path.iterdir()]


def test_coco_says_which_chips_have_no_share(tmp_path: Path) -> None:
    written(MODULES["COCO_rectangles"], pond(MODULES["COCO_rectangles"]), tmp_path)
    with pytest.raises(LabelError, match="000000001"):
        MODULES["COCO_rectangles"].finish(tmp_path, [NAME, "000000001"], CLASSES)


@pytest.mark.parametrize("name", OF_FILES)
def test_a_full_disk_is_told_and_leaves_no_label_that_looks_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="No space left"):
        MODULES[name].write(pond(MODULES[name]), CLASSES, tmp_path, ".tif")
    assert [] == [p for p in tmp_path.rglob("*.*") if not p.name.startswith(".")]
