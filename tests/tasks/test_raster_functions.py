"""The functions that travel, called as ArcGIS calls them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import RasterFunctionError
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
    assert names == [row["name"] for row in rows]
    assert {"raster", "string", "numeric"} == {row["dataType"] for row in rows}
    assert [16, 4, 0.5, 0.5, "True"] == [row["value"] for row in rows[3:]]


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


def test_without_background_every_pixel_gets_a_class(make_model: Any) -> None:
    function = RasterFunction.load(make_model("levels"), arguments={"predict_background": "false".title()})
    assert 1 == function.update_pixels(*block(1, 96)).min()


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


def test_the_function_stands_alone_and_reads_its_definition_as_text(make_model: Any) -> None:
    folder = make_model().path
    command = [sys.executable, "-I", "-c", ALONE, str(folder)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (0, "") == (answer.returncode, answer.stderr)
    feature = json.loads(answer.stdout)["features"][0]
    assert {"rings": [[[2, 12], [17, 12], [17, 22], [2, 22]]]} == feature["geometry"]
