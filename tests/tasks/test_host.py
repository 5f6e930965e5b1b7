"""The host, with small functions written after the contract that other people's functions follow."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.dlpk import ModelFolder
from registry.emd import ClassLabel, Emd
from registry.errors import OptionsError, RasterFunctionError
from tasks.feature_sets import Detection, read_detections
from tasks.host import RasterFunction

CLASSES = (ClassLabel(1, "Roof"), ClassLabel(2, "Pond"))
FEATURE = '{"features": [{"attributes": %s, "geometry": {"rings": [[[0, 0], [4, 0], [4, 4], [0, 0]]]}}]}'
PIXELS, VALID = np.zeros((3, 8, 8), np.uint8), np.ones((8, 8), bool)
VECTOR = """
import json, os, sys
sys.path.append(os.path.dirname(__file__))
import arcpy
import prf_utils

class {name}:
    def initialize(self, **kwargs):
        self.given = kwargs
        arcpy.env.processorType = "CPU"
    def getParameterInfo(self):
        return [{{"name": "raster", "dataType": "raster", "required": True}}, "put your parameters here",
                {{"name": "padding", "dataType": "numeric", "value": 0, "required": False}},
                {{"name": "speed", "dataType": "GPDouble", "value": 0.5, "domain": [0, 1]}},
                {{"name": "mode", "dataType": "GPStringKeyword", "value": "mean", "domain": ["mean", "max"]}},
                {{"name": "tta", "dataType": "boolean", "value": "False"}},
                {more}]
    def getConfiguration(self, **scalars):
        self.scalars = scalars
        return {configuration}
    def vectorize(self, raster_pixels, raster_mask):
        import late
        self.seen = raster_pixels, raster_mask
        {body}
        return {{"output_vectors": json.dumps({{"features": [
            {{"attributes": {{"OID": 1, "Class": prf_utils.NAME + late.NAME, "Confidence": 0.5}},
              "geometry": {{"rings": [[[0, 0], [4, 0], [4, 4]], [[1, 1], [2, 1], [2, 2]]]}}}}]}})}}
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Any:
    """stranger(name="A", ...) -> a folder with somebody else's raster function and its helpers."""

    def make(folder: str = "A", name: str = "Finder", **parts: str) -> ModelFolder:
        path = tmp_path / folder
        path.mkdir()
        parts = {"more": "", "configuration": '{"padding": int(scalars["padding"])}', "body": "pass"} | parts
        (path / "Finder.py").write_text(VECTOR.format(name=name, **parts))
        (path / "prf_utils.py").write_text(f"NAME = {folder!r}")
        (path / "late.py").write_text(f"NAME = {folder.lower()!r}")
        document = {"ModelType": "ObjectDetection", "InferenceFunction": "Finder.py", "ImageHeight": 8, "ImageWidth": 8}
        Emd({**document, "Classes": [c.document() for c in CLASSES]}).write(path / f"{folder}.emd")
        return ModelFolder(path)

    return make


def test_two_packages_with_equal_module_names_do_not_mix(stranger: Any) -> None:
    before = list(sys.path)
    one, two = RasterFunction.load(stranger("A")), RasterFunction.load(stranger("B"))
    names = [f.vectorize(PIXELS, VALID)[0].class_name for f in (one, two, one)]
    assert ["Aa", "Bb", "Aa"] == names
    assert before == sys.path
    assert not {"prf_utils", "late", "arcpy"} & set(sys.modules)
    assert [] == list(one.emd_path.parent.rglob("__pycache__"))


def test_a_class_of_another_name_than_the_file_is_found(stranger: Any) -> None:
    assert "ObjectDetector" == RasterFunction.load(stranger(name="ObjectDetector")).name


def test_missing_answers_of_the_configuration_have_defaults(stranger: Any) -> None:
    configuration = RasterFunction.load(stranger(configuration="{}")).configuration
    assert (8, 8, 0, None) == (configuration.tx, configuration.ty, configuration.padding, configuration.extract_bands)


def test_scalars_reach_the_function_as_arcgis_hands_them_over(stranger: Any) -> None:
    arguments = {"padding": "2", "speed": "0,25", "mode": "max", "tta": "yes"}
    function = RasterFunction.load(stranger(), arguments=arguments)
    scalars = {"padding": 2, "speed": 0.25, "mode": "max", "tta": "True"}
    assert scalars | {"model": str(function.emd_path), "device": -1} == function._function.scalars
    assert 2 == function.configuration.padding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pading": "2"}, "no argument pading; it knows padding, speed, mode, tta"),
        ({"speed": "3"}, "speed: expected 0 to 1, got 3.0"),
        ({"padding": "wide"}, "padding: expected a number, got 'wide'"),
        ({"mode": "sum"}, "mode: expected one of mean, max, got 'sum'"),
        ({"tta": "maybe"}, "tta: expected True or False, got 'maybe'"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(stranger: Any, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        RasterFunction.load(stranger(), arguments=arguments)


def test_a_required_argument_without_value_is_asked_for(stranger: Any) -> None:
    more = '{"name": "text_prompt", "dataType": "string", "value": None, "required": True}'
    with pytest.raises(OptionsError, match="text_prompt is required; give it as an argument"):
        RasterFunction.load(stranger(more=more))


def test_blocks_are_writable_and_masks_have_the_shape_of_the_pixels(stranger: Any) -> None:
    function = RasterFunction.load(stranger(body="raster_pixels[raster_mask == 0] = 7"))
    valid = VALID.copy()
    valid[0, 0] = False
    function.vectorize(np.asfortranarray(PIXELS), valid)
    pixels, mask = function._function.seen
    assert ((3, 8, 8), np.uint8, 3 * 63) == (mask.shape, mask.dtype, mask.sum())
    assert (True, 7, 0) == (pixels.flags.c_contiguous, pixels[2, 0, 0], PIXELS.max())


def test_pixels_are_rescaled_into_the_range_that_the_model_wants(stranger: Any) -> None:
    function = RasterFunction.load(stranger(configuration='{"dataRange": (-1, 1)}'))
    function.vectorize(np.full((1, 8, 8), 255, np.uint8), VALID)
    assert (1.0, np.float32) == (function._function.seen[0].max(), function._function.seen[0].dtype)


def test_what_a_function_raises_is_told_with_its_method_and_tile(stranger: Any) -> None:
    function = RasterFunction.load(stranger(body="raise KeyError('lost')"))
    message = "A: Finder.vectorize, tile at column 64, row 128: KeyError: 'lost'"
    with pytest.raises(RasterFunctionError, match=message):
        function.vectorize(PIXELS, VALID, at=(64, 128))


def test_a_missing_library_is_named_with_its_remedy(stranger: Any) -> None:
    model = stranger()
    (model.path / "prf_utils.py").write_text("import no_such_library")
    with pytest.raises(RasterFunctionError, match="pip install no_such_library"):
        RasterFunction.load(model)


def test_removed_names_of_numpy_are_there_for_those_who_need_them(stranger: Any) -> None:
    model = stranger()
    (model.path / "prf_utils.py").write_text("import numpy as np\nNAME = str(np.float(1))")
    assert "1.0a" == RasterFunction.load(model).vectorize(PIXELS, VALID)[0].class_name
    assert not hasattr(np, "float")


@pytest.mark.parametrize("function", [r"[Functions]System\DeepLearning\ArcGISLearn\ArcGISObjectDetector.py", None])
def test_functions_of_the_arcgis_installation_need_arcgis(stranger: Any, function: str | None) -> None:
    model = stranger()
    model.emd.replace(InferenceFunction=function).write(model.emd_path)
    with pytest.raises(RasterFunctionError, match="needs ArcGIS"):
        RasterFunction.load(model)


def test_a_lost_function_file_is_told(stranger: Any) -> None:
    model = stranger()
    (model.path / "Finder.py").unlink()
    with pytest.raises(RasterFunctionError, match=r"Finder.py: is not in the model's folder"):
        RasterFunction.load(model)


def test_holes_stay_and_closing_points_go() -> None:
    rings = "[[[0, 0], [9, 0], [9, 9], [0, 0]], [[1, 1], [2, 1], [2, 2]], [[5, 5], [5, 5]]]"
    attributes = '{"Class": "Roof", "Confidence": 97.3}'
    text = f'{{"features": [{{"attributes": {attributes}, "geometry": {{"rings": {rings}}}}}]}}'
    outline, hole = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0)), ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0))
    assert [Detection("Roof", 1, 97.3, (outline, hole))] == read_detections(text, CLASSES)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('{"OID": 7, "Class": "Pond", "Confidence": 50}', ("Pond", 2, 50.0)),
        ('{"Classname": "Pond", "Classvalue": 2, "Confidence": "0,5"}', ("Pond", 2, 0.5)),
        ('{"Classvalue": 2, "Score": 0.25}', ("Pond", 2, 0.25)),
        ('{"Class": 1, "Confidence": 50}', ("Roof", 1, 50.0)),
        ('{"Label": "Tower", "Confidence": "0.5"}', ("Tower", None, 0.5)),
    ],
)
def test_attributes_are_understood_in_every_spelling(attributes: str, expected: tuple[Any, ...]) -> None:
    found = read_detections(FEATURE % attributes, CLASSES)[0]
    assert expected == (found.class_name, found.value, found.confidence)


def test_an_answer_that_is_no_feature_set_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an Esri feature set"):
        read_detections('{"rings": []}', CLASSES)
