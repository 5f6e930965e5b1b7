"""The functions that travel, called as ArcGIS calls them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import OptionsError, RasterFunctionError
from tasks.host import RasterFunction
from tasks.raster_functions import _tiles

BOX = [10, 20, 25, 30]  # xmin ymin xmax ymax
NO_LOCALE = {"padding": 8, "batch_size": 4, "threshold": 0.5, "nms_overlap": 0.5, "exclude_pad_detections": "True"}


def block(bands: int, side: int) -> tuple[Any, Any]:
    return np.full((bands, side, side), 10, np.uint8), np.ones((side, side), bool)


def corners(found: list[Any]) -> list[tuple[float, float]]:
    return sorted(detection.rings[0][0] for detection in found)


def test_super_tiles_have_the_shape_that_arcgis_expects() -> None:
    shapes = {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2), 5: (5, 1), 6: (2, 3), 7: (7, 1), 8: (2, 4), 9: (3, 3)}
    assert shapes | {12: (3, 4), 16: (4, 4), 64: (8, 8)} == {
        b: _tiles.rectangle(b) for b in [*range(1, 10), 12, 16, 64]
    }


def test_a_detector_asks_for_its_arguments_in_the_old_type_names(make_model: Any) -> None:
    function = RasterFunction.load(make_model())
    with function._room.entered():
        rows = function._function.getParameterInfo()
    names = ["raster", "model", "device", "padding", "batch_size", "threshold", "nms_overlap", "exclude_pad_detections"]
    assert [*names, "test_time_augmentation", "merge_policy"] == [row["name"] for row in rows]
    assert {"raster", "string", "numeric"} == {row["dataType"] for row in rows}
    assert [16, 4, 0.5, 0.5, "True", "False", "mean"] == [row["value"] for row in rows[3:]]


def test_defaults_come_from_the_definition(make_model: Any) -> None:
    detector = RasterFunction.load(make_model(Threshold=0.2))
    segmenter = RasterFunction.load(make_model("levels", name="lakes", PredictBackground=False))
    assert 0.2 == detector.scalars["threshold"]
    assert "False" == segmenter.scalars["predict_background"]


@pytest.mark.parametrize(
    "scalars",
    [
        NO_LOCALE,
        {k: str(v) for k, v in NO_LOCALE.items()},
        {"threshold": "0,5", "padding": "8,0", "nms_overlap": "", "batch_size": None},
    ],
)
def test_scalars_may_be_numbers_or_texts_in_any_locale(make_model: Any, scalars: dict[str, Any]) -> None:
    function = RasterFunction.load(make_model())._function
    answers = [function.getConfiguration(**scalars) for _ in range(2)]
    expected = {"extractBands": (0,), "padding": 8, "tx": 96, "ty": 96, "fixedTileSize": 1, "inputMask": True}
    assert expected | {"inheritProperties": 14, "threshold": 0.5, "nms_overlap": 0.5} == answers[0] == answers[1]


def test_boxes_get_the_coordinates_of_the_unpadded_block(make_model: Any) -> None:
    model = make_model("constant", NetworkOptions={"box": BOX, "score": 0.9})
    function = RasterFunction.load(model, arguments={"padding": "8", "batch_size": "4"})
    found = function.vectorize(*block(1, 112))
    assert [(2, 12), (2, 60), (50, 12), (50, 60)] == corners(found)
    assert ((2, 12), (17, 12), (17, 22), (2, 22)) == min(found, key=lambda d: d.rings).rings[0]
    assert [("Roof", 1, 90.0)] * 4 == [(d.class_name, d.value, round(d.confidence, 4)) for d in found]


def test_a_label_is_the_position_of_its_class_and_confidence_is_a_percentage(make_model: Any) -> None:
    model = make_model("constant", NetworkOptions={"box": [10, 20, 50, 40], "score": 0.8, "label": 2})
    found = RasterFunction.load(model).vectorize(*block(1, 96))
    assert [(-6, 4), (-6, 36), (26, 4), (26, 36)] == corners(found)
    assert ((26, 36), (66, 36), (66, 56), (26, 56)) == max(found, key=lambda d: d.rings).rings[0]
    assert {("Pond", 80.0)} == {(d.class_name, round(d.confidence, 4)) for d in found}


def test_the_answer_is_an_esri_feature_set_with_open_rings(make_model: Any) -> None:
    function = RasterFunction.load(make_model("constant", NetworkOptions={"box": BOX}), arguments={"batch_size": 1})
    pixels, valid = block(1, 64)
    with function._room.entered():
        answer = function._function.vectorize(raster_pixels=pixels, raster_mask=valid[None].astype("u1"))
        fields = json.loads(function._function.getFields())
        assert 4 == function._function.getGeometryType()
    document = json.loads(answer["output_vectors"])
    assert ["FID", "Class", "Confidence", "Value"] == [field["name"] for field in document["fields"]]
    assert ["OID", "Class", "Confidence", "Value", "Shape"] == [field["name"] for field in fields["fields"]]
    assert {"OID", "Class", "Confidence", "Value"} == set(document["features"][0]["attributes"])
    assert 4 == len(document["features"][0]["geometry"]["rings"][0])
    assert answer == function._function.vectorize(raster_pixels=pixels, raster_mask=valid[None].astype("u1"))


def test_objects_centred_in_the_padding_belong_to_the_neighbour(make_model: Any) -> None:
    model = make_model("constant", NetworkOptions={"box": [0, 20, 20, 40]})  # centre 10, padding 16
    assert [] == RasterFunction.load(model, arguments={"batch_size": 1}).vectorize(*block(1, 64))
    every = {"batch_size": 1, "exclude_pad_detections": "False"}
    assert 1 == len(RasterFunction.load(model, arguments=every).vectorize(*block(1, 64)))


def test_a_threshold_leaves_weak_objects_out(make_model: Any) -> None:
    model = make_model("constant", NetworkOptions={"box": BOX, "score": 0.6})
    assert 1 == len(RasterFunction.load(model, arguments={"batch_size": 1}).vectorize(*block(1, 64)))
    assert [] == RasterFunction.load(model, arguments={"batch_size": 1, "threshold": 0.7}).vectorize(*block(1, 64))


@pytest.mark.parametrize(("overlap", "count"), [({"nms_overlap": 0.1}, 1), ({}, 2), ({"nms_overlap": 0.7}, 3)])
def test_a_network_is_told_how_far_objects_may_overlap(make_model: Any, overlap: dict[str, float], count: int) -> None:
    function = RasterFunction.load(make_model("neighbours"), arguments={"batch_size": 1, **overlap})
    assert count == len(function.vectorize(*block(1, 64)))


def test_the_overlap_that_a_network_was_built_with_is_the_default(make_model: Any) -> None:
    function = RasterFunction.load(make_model("neighbours", NetworkOptions={"box_nms_thresh": 0.7}))
    assert (0.7, 3) == (function.scalars["nms_overlap"], len(function.vectorize(*block(1, 64))))


def test_a_padding_that_leaves_nothing_of_a_tile_is_refused(make_model: Any) -> None:
    with pytest.raises(
        RasterFunctionError, match=r"DetectObjects.getConfiguration: .*padding: expected 0 to 31, got 32"
    ):
        RasterFunction.load(make_model(), arguments={"padding": 32})


def test_pixels_are_normalised_with_the_statistics_of_the_bands_that_are_read() -> None:
    statistics = [
        {"BandName": n, "Mean": m, "StdDev": s} for n, m, s in (("Red", 9, 9), ("Green", 10, 5), ("Blue", 100, 0))
    ]
    document = {"ImageHeight": 4, "Classes": [], "ExtractBands": [2, 1], "AllTilesStats": statistics}
    mask = np.ones((2, 1, 3), np.uint8)
    mask[:, :, 2] = 0
    pixels = np.array([[[100, 103, 0]], [[10, 20, 0]]], np.uint16)
    for bands in ([2, 1], ["Blue", "Green"]):
        model = _tiles.Model(json.dumps(document | {"ExtractBands": bands}), -1, Path())
        assert [[[0, 3, 0]], [[0, 2, 0]]] == model.normalise(pixels, mask).tolist()


def test_a_segmenter_tells_its_raster_type_colours_and_table(make_model: Any) -> None:
    function = RasterFunction.load(make_model("levels"))
    info = function.update_raster_info("u1", 1)
    table = json.loads(info.answer["rasterAttributeTable"])
    assert (1, "u1") == (info.bands, info.pixel_type)
    assert [[1, 2], [230, 0], [60, 90], [40, 200]] == [column.tolist() for column in info.answer["colormap"]]
    roof = {"OID": 1, "Value": 1, "Class": "Roof", "Red": 230, "Green": 60, "Blue": 40}
    assert roof == table["features"][0]["attributes"]


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 255], "u1"), ([1, 300], "u2"), ([-1, 5], "i2"), ([1, 70000], "i4")]
)
def test_the_pixel_type_is_the_smallest_that_holds_the_class_values(
    make_model: Any, values: list[int], expected: str
) -> None:
    classes = [{"Value": v, "Name": str(v), "Color": [0, 0, 0]} for v in values]
    assert expected == RasterFunction.load(make_model("levels", Classes=classes)).update_raster_info("u1", 1).pixel_type


def test_a_segmenter_answers_values_without_the_padding_in_the_type_it_is_asked_for(make_model: Any) -> None:
    classes = [{"Value": 5, "Name": "five", "Color": [0, 0, 0]}, {"Value": 20, "Name": "twenty", "Color": [9, 9, 9]}]
    function = RasterFunction.load(make_model("levels", Classes=classes), arguments={"padding": 16, "batch_size": "4"})
    assert (64, 64, 16) == (function.configuration.tx, function.configuration.ty, function.configuration.padding)
    pixels = np.zeros((1, 96, 96), np.uint8)
    pixels[:, :, 48:] = 200
    mask = np.ones_like(pixels)
    mask[:, 20, 20] = 0
    with function._room.entered():
        props = {"pixelType": "i4"}
        answer = function._function.updatePixels((0, 0), (1, 64, 64), props, raster_pixels=pixels, raster_mask=mask)
    assert ((1, 64, 64), np.int32) == (answer["output_pixels"].shape, answer["output_pixels"].dtype)
    assert ([0] * 30, [20] * 30) == (
        answer["output_pixels"][0, 9, :30].tolist(),
        answer["output_pixels"][0, 9, -30:].tolist(),
    )
    assert 64 * 64 - 1 == answer["output_mask"].sum()
    assert 0 == answer["output_mask"][0, 4, 4]


def test_tiles_of_a_network_that_looks_only_so_far_are_joined_and_their_padding_with_them(make_model: Any) -> None:
    far = RasterFunction.load(make_model("levels", "far"), arguments={"padding": "16"}).configuration
    assert (64, 16) == (far.tx, far.padding)
    for looks, expected in ((5, 16), (63, 32), (999, 32)):
        keys = {"ReceptiveField": looks, "OutputStride": 16}
        near = RasterFunction.load(make_model("levels", f"near{looks}", **keys), arguments={"padding": "16"})
        assert (64, expected) == (near.configuration.tx, near.configuration.padding)
    assert (
        16
        == RasterFunction.load(
            make_model("levels", "by itself", ReceptiveField=5, OutputStride=16)
        ).configuration.padding
    )


def test_without_background_every_pixel_gets_a_class(make_model: Any) -> None:
    function = RasterFunction.load(make_model("levels"), arguments={"predict_background": "false".title()})
    assert 1 == function.update_pixels(*block(1, 96)).min()


@pytest.mark.parametrize("arguments", [{}, {"test_time_augmentation": "True"}])
def test_a_class_that_was_not_to_be_learnt_is_given_to_no_pixel(make_model: Any, arguments: dict[str, str]) -> None:
    pixels, valid = block(1, 96)
    for name, ignored, values in (("all", None, {0, 1, 2}), ("some", [0, 1], {0, 2})):
        model = make_model("levels", name, level=50, ignore_mapped_class=ignored)
        function = RasterFunction.load(model, arguments=arguments)
        pixels[:, :, :32], pixels[:, :, 32:64], pixels[:, :, 64:] = 0, 50, 100
        assert values == set(np.unique(function.update_pixels(pixels, valid)).tolist())


def test_a_missing_torch_is_named_with_the_remedy(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function = RasterFunction.load(make_model())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RasterFunctionError, match="needs PyTorch; in ArcGIS install the Deep Learning Libraries"):
        function.vectorize(*block(1, 96))


def test_any_free_gpu_falls_back_to_the_cpu_but_a_certain_one_does_not(make_model: Any) -> None:
    model = make_model("constant", NetworkOptions={"box": BOX})
    assert 4 == len(RasterFunction.load(model, device=-2).vectorize(*block(1, 96)))
    with pytest.raises(RasterFunctionError, match=r"device: expected -1 \(CPU\), -2 \(any\) or a GPU below"):
        RasterFunction.load(model, device=99).vectorize(*block(1, 96))


ALONE = """
import importlib.util, json, sys
import numpy as np

def load(path):
    spec = importlib.util.spec_from_file_location("DetectObjects", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DetectObjects()

before = list(sys.path)
function = load(sys.argv[1] + "/DetectObjects.py")
function.initialize()
function.initialize(model=open(sys.argv[1] + "/town.emd").read())
function.getParameterInfo()
function.getConfiguration(padding="8", batch_size="1", model="", device="-1")
assert "torch" not in sys.modules, "torch was loaded before the first tile"
pixels = np.zeros((1, 64, 64), np.uint8)
pixels[0, 20:30, 10:25] = 150
print(function.vectorize(raster_pixels=pixels, raster_mask=np.ones_like(pixels))["output_vectors"])
assert before == sys.path
assert not {"tasks", "registry", "flows", "rasterio"} & set(sys.modules)
"""


@pytest.mark.slow
def test_the_function_stands_alone_and_reads_its_definition_as_text(make_model: Any) -> None:
    folder = make_model().path
    command = [sys.executable, "-I", "-c", ALONE, str(folder)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (0, "") == (answer.returncode, answer.stderr)
    feature = json.loads(answer.stdout)["features"][0]
    assert {"rings": [[[2, 12], [17, 12], [17, 22], [2, 22]]]} == feature["geometry"]


def test_a_network_without_a_sense_of_direction_sees_the_same_in_every_view(make_model: Any) -> None:
    model = make_model("levels")
    plain, augmented = (
        RasterFunction.load(model, arguments={"test_time_augmentation": tta}) for tta in ("False", "True")
    )
    pixels, valid = block(1, 96)
    pixels[:, 30:50, 20:70] = 120
    assert (plain.update_pixels(pixels, valid) == augmented.update_pixels(pixels, valid)).all()


@pytest.mark.parametrize(("space", "views"), [("MAP_SPACE", 8), ("PIXEL_SPACE", 2)])
def test_test_time_augmentation_looks_from_all_sides_where_nothing_has_a_right_way_up(
    make_model: Any, space: str, views: int
) -> None:
    document = make_model("levels", ImageSpaceUsed=space).emd.document
    model = _tiles.Model(json.dumps(document), -1, Path())
    assert views == len(set(model.views(True)))
    assert 1 == len(model.views(False))


@pytest.mark.parametrize(("policy", "merged"), [("mean", 0.5), ("max", 1.0), ("min", 0.0)])
def test_views_are_turned_back_and_merged(policy: str, merged: float, make_model: Any) -> None:
    model = _tiles.Model(str(make_model("levels").emd_path), -1, make_model("levels", name="other").path)
    tile = np.zeros((1, 1, 64, 64), np.float32)
    tile[0, 0, 5, 9] = 1
    seen: list[Any] = []

    def odd_views_are_dark(answer: Any) -> Any:
        seen.append(answer)
        return answer * (len(seen) % 2)

    model.run = lambda tiles, finish: finish(torch.from_numpy(tiles))  # type: ignore[method-assign]
    model._torch = torch
    answer = model.look(tile, odd_views_are_dark, model.views(True), policy)
    assert merged == answer[0, 0, 5, 9]
    assert merged == answer.sum()
    assert 8 == len({tuple(view[0, 0].nonzero()[0].tolist()) for view in seen})


def test_a_merge_policy_that_is_none_is_refused(make_model: Any) -> None:
    with pytest.raises(OptionsError, match="expected one of mean, max, min, got 'sum'"):
        RasterFunction.load(make_model("levels"), arguments={"merge_policy": "sum"})


OBJECTS = {"CropSizeFixed": 1, "BlackenAroundFeature": 0, "level": 100.0}


def test_an_object_classifier_asks_for_stacks_of_fixed_tiles(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brightest", **OBJECTS))
    with function._room.entered():
        rows = function._function.getParameterInfo()
        fields = json.loads(function._function.getFields())["fields"]
    names = ["rasters", "model", "device", "batch_size", "test_time_augmentation", "merge_policy"]
    assert names == [row["name"] for row in rows]
    assert ("rasters", True) == (rows[0]["dataType"], rows[0]["required"])
    expected = {"CropSizeFixed": 1, "BlackenAroundFeature": 0, "tx": 64, "ty": 64, "batch_size": 4, "padding": 0}
    assert expected == {key: function.configuration.answer[key] for key in expected}
    assert ["OID", "Confidence", "Label", "Shape"] == [field["name"] for field in fields]


def test_each_object_gets_a_label_a_confidence_as_text_and_the_ring_of_its_tile(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brightest", **OBJECTS))
    tiles = tuple(np.full((1, 64, 64), value, np.uint8) for value in (100, 0))
    masks = tuple(np.ones_like(tile) for tile in tiles)
    with function._room.entered():
        answer = function._function.vectorize(rasters_pixels=tiles, rasters_mask=masks)
    features = json.loads(answer["output_vectors"])["features"]
    likely = f"{1 / (1 + np.exp(-1)):.4f}"
    expected = [{"OID": i, "Confidence": likely, "Label": name} for i, name in ((1, "Pond"), (2, "Roof"))]
    assert expected == [feature["attributes"] for feature in features]
    assert [[[[0, 0], [63, 0], [63, 63], [0, 63]]]] * 2 == [feature["geometry"]["rings"] for feature in features]


def test_more_objects_than_a_batch_come_back_in_order(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brightest", **OBJECTS), arguments={"batch_size": 2})
    valid = np.ones((64, 64), bool)
    images = [(np.full((1, 64, 64), value, np.uint8), valid) for value in (0, 100, 100, 0, 100)]
    assert ["Roof", "Pond", "Pond", "Roof", "Pond"] == [found.names[0] for found in function.classify(images)]


def test_a_crop_of_another_size_keeps_its_scale_or_shrinks_into_the_tile(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brightest", CropSizeFixed=0, BlackenAroundFeature=1))
    small, large = np.full((1, 20, 30), 100, np.uint8), np.full((1, 64, 256), 100, np.uint8)
    with function._room.entered():
        tiles = [function._function._tile(pixels, np.ones_like(pixels)) for pixels in (small, large)]
    assert [(1, 64, 64)] * 2 == [tile.shape for tile in tiles]
    assert [(22, 17), (24, 0)] == [tuple(np.argwhere(tile[0] > 99)[0].tolist()) for tile in tiles]
    assert [20 * 30, 16 * 64] == [int((tile > 99).sum()) for tile in tiles]
    images = [(pixels, np.ones(pixels.shape[1:], bool)) for pixels in (small, large)]
    assert 2 == len(function.classify(images))


def test_a_model_of_several_labels_joins_names_and_tells_every_confidence(make_model: Any) -> None:
    keys = OBJECTS | {"MetaDataMode": "MultiLabeled_Tiles", "Threshold": 0.4}
    function = RasterFunction.load(make_model("brightest", **keys))
    assert 0.4 == function.scalars["threshold"]
    valid = np.ones((64, 64), bool)
    images = [(np.full((1, 64, 64), value, np.uint8), valid) for value in (0, 50, 200)]  # in steps of 100: 0, 0.5, 2
    found = function.classify(images)
    assert [("Roof",), (), ()] == [labelling.names for labelling in found]
    low, lower, lowest = (1 / (1 + np.exp(distance)) for distance in (0.5, 1, 2))
    expected = [(0.5, lower), (low, low), (lowest, lower)]
    assert [pytest.approx(shares, abs=1e-4) for shares in expected] == [labelling.confidences for labelling in found]


CHANGE = {
    "ExtractBands": [0, 1],
    "Classes": [
        {"Value": 0, "Name": "NoChange", "Color": [0, 0, 0]},
        {"Value": 255, "Name": "Change", "Color": [255, 255, 255]},
    ],
    "AllTilesStats": [{"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}] * 2,
}


def dates(*changed: tuple[slice, slice]) -> tuple[Any, Any]:
    """Two stacked dates of 96 x 96 pixels; the second is brighter by 100 where it changed."""
    pixels, valid = block(2, 96)
    for rows, cols in changed:
        pixels[1, rows, cols] += 100
    return pixels, valid


def test_change_is_what_differs_between_the_halves_of_the_bands(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brighter", **CHANGE))
    info = function.update_raster_info("u1", 2)
    assert (0, 1) == function.configuration.extract_bands
    found = function.update_pixels(*dates((slice(20, 30), slice(40, 50))))
    assert ((1, 64, 64), {0, 255}) == (found.shape, set(np.unique(found).tolist()))
    assert np.array_equal(found[0] == 255, np.pad(np.ones((10, 10), bool), ((4, 50), (24, 30))))
    table = json.loads(info.answer["rasterAttributeTable"])["features"]
    assert [(0, "NoChange"), (255, "Change")] == [(f["attributes"]["Value"], f["attributes"]["Class"]) for f in table]


def test_change_that_is_less_likely_than_the_threshold_is_none(make_model: Any) -> None:
    likely = 1 / (1 + np.exp(-1))  # of logits -0.5 and 0.5
    pixels, valid = dates((slice(None), slice(None)))
    for threshold, value in ((likely - 0.01, 255), (likely + 0.01, 0)):
        function = RasterFunction.load(make_model("brighter", name=f"above{value}", Threshold=threshold, **CHANGE))
        assert {value} == set(np.unique(function.update_pixels(pixels, valid)).tolist())


def test_where_either_date_has_no_data_nothing_is_told(make_model: Any) -> None:
    function = RasterFunction.load(make_model("brighter", **CHANGE))
    pixels, valid = dates((slice(None), slice(None)))
    valid[40, 50] = False
    found, whole = function.update_block(pixels, valid)
    assert (0, False) == (found[0, 24, 34], whole[24, 34])
    assert 64 * 64 - 1 == whole.sum()


STRANGERS = """
import importlib.util, json, sys
import numpy as np

folder, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, folder + "/" + name + ".py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
function = getattr(module, name)()
function.initialize()
function.getParameterInfo()
function.initialize(model=folder + "/town.emd", device=-1)
configuration = function.getConfiguration(**{row["name"]: row["value"] for row in function.getParameterInfo()})
assert "torch" not in sys.modules, "torch was loaded before the first tile"
bands = len(configuration["extractBands"])
side = configuration["tx"] + 2 * configuration["padding"]
pixels, mask = np.zeros((bands, side, side), np.uint8), np.ones((bands, side, side), np.uint8)
if hasattr(function, "vectorize"):
    answer = function.vectorize(rasters_pixels=(pixels, pixels), rasters_mask=(mask, mask))
    print(len(json.loads(answer["output_vectors"])["features"]))
else:
    kwargs = function.updateRasterInfo(raster_info={}, output_info={})
    shape, props = (1, configuration["ty"], configuration["tx"]), {"pixelType": kwargs["output_info"]["pixelType"]}
    print(function.updatePixels((0, 0), shape, props, raster_pixels=pixels, raster_mask=mask)["output_pixels"].shape)
assert not {"tasks", "registry", "flows", "rasterio"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "keys", "told"),
    [("levels", {}, "(1, 64, 64)"), ("brighter", CHANGE, "(1, 64, 64)"), ("brightest", OBJECTS, "2")],
)
def test_every_function_stands_alone(make_model: Any, network: str, keys: dict[str, Any], told: str) -> None:
    model = make_model(network, **keys)
    command = [sys.executable, "-I", "-c", STRANGERS, str(model.path), Path(model.emd.inference_function).stem]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "", told) == (answer.returncode, answer.stderr, answer.stdout.strip())
