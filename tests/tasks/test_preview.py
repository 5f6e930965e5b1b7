"""The contact sheet shows every class, in its colours, whatever the sensor and the format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

import tasks.formats
from registry import plugins
from tasks import preview, scene_run
from tasks.chips import ChipFolder
from tasks.inference_options import ModelSource
from tasks.result_preview import make_preview
from tests.exports import POND, ROOF, ROOF_BOX, SIZE, chip, written

SCALE = preview.SIDE / SIZE
TOP, LEFT = 2 * preview.LINE, preview.GAP  # where the first cell begins
CARRIED = {name: plugins.load(tasks.formats, name).CARRIES for name in plugins.names(tasks.formats)}
DRAWN = [name for name, carries in CARRIED.items() if carries in ("boxes", "mask", "instances", "panoptic")]


def drawn(folder: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(preview.write_preview(folder)).convert("RGB"))


def at(sheet: NDArray[np.uint8], x: float, y: float, cell: int = 0) -> tuple[int, ...]:
    """The colour at a pixel of the chip in a cell of the first row."""
    row, column = TOP + round(y * SCALE), LEFT + cell * (preview.SIDE + preview.GAP) + round(x * SCALE)
    return tuple(sheet[row, column].tolist())


def test_a_box_has_the_colour_of_its_class_and_the_picture_shows_inside(tmp_path: Path) -> None:
    sheet = drawn(written(tmp_path, [chip(0)]).path)
    xmin, ymin, xmax, ymax = ROOF_BOX
    assert ROOF.color == at(sheet, xmin, ymin + 4)
    assert ROOF.color == at(sheet, xmin + 4, ymin)
    assert (40, 40, 40) == at(sheet, (xmin + xmax) / 2, (ymin + ymax) / 2)
    assert (40, 40, 40) == at(sheet, 2, 2)


def test_a_mask_is_laid_over_the_picture_in_the_colour_of_its_class(tmp_path: Path) -> None:
    sheet = drawn(written(tmp_path, [chip(0)], "Classified_Tiles").path)
    tinted = round(40 + (255 - 40) * preview.FILL), round(40 * (1 - preview.FILL))
    assert (tinted[0], tinted[1], tinted[1]) == pytest.approx(at(sheet, 12, 20), abs=2)
    assert (tinted[1], tinted[1], tinted[0]) == pytest.approx(at(sheet, 50, 50), abs=2)
    assert (40, 40, 40) == at(sheet, 2, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (13, "uint16"), (4, "float32")])
def test_every_format_is_drawn_for_any_bands_and_type(tmp_path: Path, name: str, bands: int, dtype: str) -> None:
    sheet = drawn(written(tmp_path, [chip(0, bands=bands, dtype=dtype)], name).path)
    red, _, blue = at(sheet, ROOF_BOX[0] + 0.2, ROOF_BOX[1] + 4)
    assert red > blue + 20


@pytest.mark.slow
def test_the_same_chips_give_the_same_bytes(tmp_path: Path) -> None:
    chips = [chip(i, level=20 + i) for i in range(9)]
    first, second = (preview.write_preview(written(tmp_path / name, chips).path) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_more_than_eight_bits_are_stretched_alike_for_all_chips(tmp_path: Path) -> None:
    chips = [chip(i, dtype="uint16", level=level, things=()) for i, level in enumerate((300, 1300, 2300))]
    sheet = drawn(written(tmp_path, chips).path)
    assert [(0, 0, 0), (255, 255, 255)] == [at(sheet, 30, 30, 0), at(sheet, 30, 30, 2)]
    middle = 255 * 0.5**preview.GAMMA
    assert (middle, middle, middle) == pytest.approx(at(sheet, 30, 30, 1), abs=2)


def test_a_second_picture_stands_beside_the_first(tmp_path: Path) -> None:
    pair = replace(chip(0, things=()), image2=np.full((3, SIZE, SIZE), 200, np.uint8))
    sheet = drawn(written(tmp_path, [pair], "Classified_Tiles").path)
    assert (40, 40, 40) == at(sheet, 30, 30)
    assert (200, 200, 200) == at(sheet, 30 + (preview.SIDE + 2) / SCALE, 30)


NAMES = [f"{i:09d}" for i in range(90)]


def test_the_only_chip_of_a_rare_class_is_chosen() -> None:
    holds = np.tile([1, 0], (90, 1))
    holds[17] = [0, 1]
    names = preview.chosen(NAMES, holds)
    assert preview.MOST == len(names)
    assert NAMES[17] in names
    assert sorted(names) == names


def test_chips_without_labels_come_after_those_with() -> None:
    holds = np.zeros((90, 2), np.int64)
    holds[::10, 0] = 1
    names = preview.chosen(NAMES, holds)
    assert set(NAMES[::10]) < set(names)
    assert preview.MOST == len(names)


def test_pictures_without_classes_are_chosen_too() -> None:
    assert preview.MOST == len(preview.chosen(NAMES, np.zeros((90, 0), np.int64)))


@pytest.mark.slow
def test_what_is_known_of_the_chips_gives_the_same_sheet_as_reading_them(tmp_path: Path) -> None:
    folder = written(tmp_path, [chip(i, things=(1, 2) if i == 5 else (1,)) for i in range(30)])
    holds = np.array([[1, int(i == 5)] for i in range(30)])
    read = preview.write_preview(folder.path).read_bytes()
    assert read == preview.write_preview(folder.path, holds=holds).read_bytes()


def test_chips_without_a_label_file_are_passed_over(tmp_path: Path) -> None:
    folder = written(tmp_path, [chip(i) for i in range(30)], "RCNN_Masks")
    for label in (folder.path / "labels").rglob(f"*{folder.names[3]}*"):
        label.unlink()
    left = ChipFolder.open(folder.path)
    assert 29 == len(left.names)
    holds = np.array([[1, int(i == 29)] for i in range(30)])
    names, kept = preview._candidates(left, holds)
    assert (left.names[-1], [1, 1]) == (names[-1], kept[-1].tolist())
    assert len(names) == len(kept)


def test_names_are_spread_over_the_whole_export() -> None:
    assert ["0", "33", "66", "99"] == preview.spread([str(i) for i in range(100)], 4)
    assert ["0"] == preview.spread(["0"], 4)


def test_an_export_of_many_classes_still_has_a_sheet(tmp_path: Path) -> None:
    classes = [{"Value": i, "Name": f"class {i} of a long name", "Color": [-1, -1, -1]} for i in range(1, 60)]
    folder = written(tmp_path, [chip(0)])
    definition = folder.definition.replace(Classes=classes)
    assert preview.write_preview(tmp_path, definition).is_file()


def test_a_class_without_a_colour_gets_one() -> None:
    assert min(preview.class_colour(replace(POND, color=(-1, -1, -1)), 1)) >= 0


def test_the_thumbnail_of_a_scene_of_floats_shows_what_is_no_hole(make_raster: Any, tmp_path: Path) -> None:
    pixels = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    pixels[:, :5] = np.nan
    scene = make_raster(pixels, "scene.tif", crs=None)
    result = make_raster(np.zeros((64, 64), np.uint8), "classes.tif", crs=None)
    make_preview(scene, result, [ROOF], tmp_path)
    shown = np.asarray(Image.open(tmp_path / "thumbnail.png"))
    assert (0, 255) == (shown[..., 0].min(), shown[..., 0].max())


LOCAL = 'LOCAL_CS["site", UNIT["m", 1]]'
DISK = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"  # a satellite's; its corners look past the earth


@pytest.mark.parametrize("crs", [LOCAL, DISK], ids=["local", "disk"])
def test_what_degrees_cannot_tell_has_a_thumbnail_alone(make_raster: Any, tmp_path: Path, crs: str) -> None:
    far = {"crs": crs, "transform": Affine(100_000, 0, -5_600_000, 0, -100_000, 5_600_000)}
    scene = make_raster(np.full((112, 112), 9, np.uint8), "scene.tif", **far)
    result = make_raster(np.ones((112, 112), np.uint8), "classes.tif", **far)
    shapes, objects = [shapely.box(0, 0, 9, 9)], tmp_path / "objects.gpkg"
    geopandas.GeoDataFrame({"Class": ["Roof"]}, geometry=shapes, crs=crs).to_file(objects)
    for out in (result, objects):
        preview = make_preview(scene, out, [ROOF], tmp_path)
        assert (None, None, ["thumbnail.png"]) == (preview.geometry, preview.bbox, [p.name for p in preview.files])


def test_objects_without_a_place_are_not_drawn(make_raster: Any, tmp_path: Path) -> None:
    scene, out = make_raster(np.full((64, 64), 9, np.uint8)), tmp_path / "objects.gpkg"
    shapes = [shapely.box(500000, 4599990, 500009, 4600000), None, shapely.Polygon()]
    geopandas.GeoDataFrame({"Class": ["Roof"] * 3}, geometry=shapes, crs=32633).to_file(out)
    assert ["thumbnail.png", "preview.geojson"] == [p.name for p in make_preview(scene, out, [ROOF], tmp_path).files]


def test_whatever_is_odd_about_a_scene_no_other_one_waits_for_it(
    make_model: Any, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(scene: Path, *rest: Any) -> Any:
        return make_preview(scene, *rest) if scene.stem == "even" else dict[str, str]()["sensor"]

    monkeypatch.setattr(scene_run, "make_preview", odd)
    rasters = [make_raster(np.zeros((64, 64), np.uint8), f"{name}.tif") for name in ("odd", "even")]
    scenes = [scene_run.Files([str(raster)], (), str(tmp_path / raster.stem)) for raster in rasters]
    assert 1 == scene_run.run_scenes("detect-objects", make_model().path, ModelSource("town"), {}, scenes)
    records = [json.loads(Path(files.out, scene_run.RECORD).read_text()) for files in scenes]
    assert ("KeyError", "'sensor'", {}) == (records[0]["type"], records[0]["error"], records[1]["counts"])
