"""The host, with small functions written after the contract that other people's functions follow."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.dlpk import ModelFolder
from registry.emd import ClassLabel, Emd
from registry.errors import ImageryError, OptionsError, RasterFunctionError
from tasks.arguments import Parameter, fitting
from tasks.band_choice import Bands, band_indexes, pair_indexes
from tasks.feature_sets import Detection, read_detections
from tasks.host import Configuration, Place, RasterFunction
from tasks.imagery import open_imagery
from tasks.inference import blocks
from tasks.tiling import Window, block_windows

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


def test_of_several_classes_the_one_that_differs_in_letters_alone_is_taken(stranger: Any) -> None:
    model = stranger(name="FINDER")
    with (model.path / "Finder.py").open("a") as file:
        file.write("\nclass Base(FINDER): ...\n")
    assert "FINDER" == RasterFunction.load(model).name


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


TEMPLATE = """
import json
import numpy as np

class Finder:
    def initialize(self, **kwargs):
        if "model" not in kwargs:
            return
        with open(kwargs["model"]) as file:
            self.emd = json.load(file)
    def getParameterInfo(self):
        return [{"name": "raster", "dataType": "raster", "required": True},
                {"name": "model", "dataType": "string", "required": True},
                {"name": "device", "dataType": "numeric", "required": False},
                {"name": "padding", "dataType": "numeric", "value": 0, "required": False},
                {"name": "score_threshold", "dataType": "numeric", "value": 0.6, "required": False},
                {"name": "batch_size", "dataType": "numeric", "value": 1, "required": False}]
    def getConfiguration(self, **scalars):
        self.padding, self.side = int(scalars["padding"]), int(int(scalars["batch_size"]) ** 0.5)
        step = (self.emd["ImageHeight"] - 2 * self.padding) * self.side
        return {"extractBands": tuple(self.emd["ExtractBands"]), "padding": self.padding, "tx": step, "ty": step,
                "fixedTileSize": %d, "inheritProperties": 2 | 4 | 8, "inputMask": True}
    def tiles(self, pixels):
        size = self.emd["ImageHeight"]
        step = size - 2 * self.padding
        return [(r, c, pixels[:, r : r + size, c : c + size]) for r in range(0, step * self.side, step)
                for c in range(0, step * self.side, step)]
%s
"""
DETECTOR = """
    def getFields(self):
        rows = [("OID", "OID"), ("Class", "String"), ("Confidence", "Double"), ("Floors", "Integer"),
                ("Roof", "String"), ("floors", "Integer"), ("Shape", "Geometry")]
        return json.dumps({"fields": [{"name": n, "type": "esriFieldType" + t} for n, t in rows]})
    def getGeometryType(self):
        return 4
    def vectorize(self, **pixelBlocks):
        pixels = pixelBlocks["raster_pixels"]
        assert pixels.shape == pixelBlocks["raster_mask"].shape == (3, 112, 112)
        y0, x0, y1, x1 = 20, 10, 30, 25
        features = []
        for r, c, tile in self.tiles(pixels):
            assert tile.shape == (3, 64, 64)
            dy, dx = r - self.padding, c - self.padding
            ring = [[x0 + dx, y0 + dy], [x1 + dx, y0 + dy], [x1 + dx, y1 + dy], [x0 + dx, y1 + dy]]
            told = {"OID": 1, "Class": "Roof", "Confidence": 0.9, "Floors": 3, "Roof": "flat"}
            features.append({"attributes": told, "geometry": {"rings": [ring]}})
        return {"output_vectors": json.dumps({"features": features})}
"""
CLASSIFIER = """
    def updateRasterInfo(self, **kwargs):
        self.raster_info = kwargs["raster_info"]
        kwargs["output_info"].update(bandCount=1, pixelType="i4")
        return kwargs
    def updateKeyMetadata(self, names, bandIndex, **keyMetadata):
        return {"WavelengthMin": 400} if bandIndex == -1 else {"bandname": "Level"}
    def selectRasters(self, tlc, shape, props):
        return ("raster",) if tlc[0] < 900 else ()
    def updatePixels(self, tlc, shape, props, **pixelBlocks):
        self.props = props
        if not pixelBlocks:
            return {"output_pixels": np.zeros(shape, props["pixelType"])}
        p = self.padding
        inner = pixelBlocks["raster_pixels"][:1, p : p + shape[1], p : p + shape[2]]
        pixelBlocks["output_pixels"] = (inner > 100).astype(props["pixelType"])
        return pixelBlocks
"""


@pytest.fixture
def template(stranger: Any) -> Any:
    """A function after the templates that people start from (ArcGIS formats E.10): tiles of 64 pixels, three bands."""

    def make(methods: str, fixed: int = 0) -> ModelFolder:
        model: ModelFolder = stranger()
        (model.path / "Finder.py").write_text(TEMPLATE % (fixed, methods))
        model.emd.replace(ImageHeight=64, ImageWidth=64, ExtractBands=[0, 1, 2]).write(model.emd_path)
        return model

    return make


ARGUMENTS = {"padding": "8", "batch_size": "4"}


def test_a_template_detector_is_fed_super_tiles_and_answers_in_the_unpadded_block(template: Any) -> None:
    function = RasterFunction.load(template(DETECTOR), arguments={**ARGUMENTS, "score_threshold": "0.6"})
    asked = {"extractBands": (0, 1, 2), "padding": 8, "tx": 96, "ty": 96, "fixedTileSize": 0}
    assert asked | {"inheritProperties": 14, "inputMask": True} == function.configuration.answer
    found = function.vectorize(np.zeros((3, 112, 112), np.uint8), np.ones((112, 112), bool))
    rings = [
        ((2, 12), (17, 12), (17, 22), (2, 22)),
        ((50, 12), (65, 12), (65, 22), (50, 22)),
        ((2, 60), (17, 60), (17, 70), (2, 70)),
        ((50, 60), (65, 60), (65, 70), (50, 70)),
    ]
    assert rings == [d.rings[0] for d in found]
    assert [("Floors", int), ("Roof", str)] == [(f.name, f.kind) for f in function.fields]
    assert {"Floors": 3, "Roof": "flat"} == found[0].extra


def test_a_template_classifier_answers_the_block_without_its_padding(template: Any) -> None:
    function = RasterFunction.load(template(CLASSIFIER, fixed=1), arguments=ARGUMENTS)
    place = Place((0.5, 0, 500000, 0, -0.5, 4600000), (960, 960), 32633, 0)
    info = function.update_raster_info("u1", 3, place)
    assert (1, "i4", {"WavelengthMin": 400}) == (info.bands, info.pixel_type, info.key_metadata)
    assert ("Level",) == info.band_names
    assert (500000, 4599520, 500480, 4600000) == function._function.raster_info["extent"]
    pixels = np.random.default_rng(2).integers(0, 255, (3, 112, 112), np.uint8)
    answer = function.update_pixels(pixels, np.ones((112, 112), bool), at=(96, 0))
    assert ((1, 96, 96), np.dtype(np.int32)) == (answer.shape, answer.dtype)
    assert np.array_equal(pixels[0, 8:-8, 8:-8] > 100, answer[0] == 1)
    props = function._function.props
    assert ((500048, 4599952, 500096, 4600000), (0.5, 0.5), 32633) == tuple(
        props[key] for key in ("extent", "cellSize", "spatialReference")
    )
    assert 0 == function.update_pixels(pixels, np.ones((112, 112), bool), at=(960, 0)).max()  # selectRasters: none


FILLING = """
    def updatePixels(self, tlc, shape, props, **pixelBlocks):
        whole = np.arange(96 * 96).reshape(96, 96)
        return {"output_pixels": whole[None], "output_mask": (whole % 2).astype("u1")}
"""


def test_of_a_smaller_block_that_a_function_fills_pixels_and_mask_are_the_upper_left(template: Any) -> None:
    function = RasterFunction.load(template(FILLING), arguments=ARGUMENTS)
    function.update_raster_info("i4", 1)
    pixels, valid = function.update_block(np.zeros((3, 36, 46), np.uint8), np.ones((36, 46), bool))
    assert ((1, 20, 30), (20, 30)) == (pixels.shape, valid.shape)
    assert np.array_equal(pixels[0] % 2 == 1, valid)


def test_blocks_at_the_edge_are_cut_where_the_tiles_are_of_no_fixed_size(
    template: Any, make_raster: Any, tmp_path: Path
) -> None:
    with open_imagery(make_raster(np.zeros((3, 100, 130), np.uint8))) as image:
        for fixed, expected in ((1, [(112, 112)] * 4), (0, [(112, 112), (112, 50), (20, 112), (20, 50)])):
            model = template(DETECTOR, fixed)
            configuration = RasterFunction.load(model, arguments=ARGUMENTS).configuration
            step = configuration.tx, configuration.ty
            windows = block_windows(Window(0, 0, 130, 100), (130, 100), step, configuration.fixed_tile_size)
            shapes = [block.pixels.shape[1:] for _, _, block in blocks(image, configuration, None, windows)]
            assert expected == shapes
            shutil.rmtree(model.path)


def test_a_function_that_wants_no_mask_gets_none(stranger: Any) -> None:
    model = stranger(configuration='{"inputMask": False}')
    text = (model.path / "Finder.py").read_text()
    bare = text.replace(", raster_mask):", "):").replace("raster_pixels, raster_mask\n", "raster_pixels\n")
    (model.path / "Finder.py").write_text(bare)
    assert 1 == len(RasterFunction.load(model).vectorize(PIXELS, VALID))


def test_bands_are_found_by_name(template: Any, make_raster: Any) -> None:
    path = make_raster(np.zeros((3, 64, 64), np.uint8), photometric="RGB")
    configuration = RasterFunction.load(template(DETECTOR)).configuration
    with open_imagery(path) as image:
        assert (2, 0) == band_indexes(image, replace(configuration, extract_bands=("blue", "Red")))
        with pytest.raises(ImageryError, match="no NearInfrared"):
            band_indexes(image, replace(configuration, extract_bands=("NearInfrared",)))


RGBN = ("Red", "Green", "Blue", "NIR")


@pytest.mark.parametrize(
    ("raster", "asked", "expected"),
    [
        (RGBN, (0, 1, 2), (0, 1, 2)),
        (("blue", "green", "red", "nir", "swir"), (0, 1, 2), (2, 1, 0)),
        (("blue", "green", "red", "nir"), (3, 0), (3, 2)),
        (("blue", "green", "red", "nir"), None, (2, 1, 0, 3)),
        (RGBN, None, None),
        (("coastal", *RGBN), None, (1, 2, 3, 4)),
        (("B02", "B03", "B04", "B08"), (0, 1, 2), (0, 1, 2)),  # other names: by index, as ArcGIS does
        (("blue", "green", "B04"), (0, 1, 2), (0, 1, 2)),
        (("Blue", "Red", "Green", "Red"), (0, 1, 2), (0, 1, 2)),
        (("Red", "Green", "Blue"), (2, 1, 0), (2, 1, 0)),
        (RGBN, ("NIR",), (3,)),
    ],
)
def test_bands_are_read_by_their_names_where_the_raster_has_them_elsewhere(
    raster: tuple[str, ...], asked: tuple[int | str, ...] | None, expected: tuple[int, ...] | None
) -> None:
    wanted = Configuration(8, 8, extract_bands=asked, trained_bands=RGBN)
    assert expected == band_indexes(Bands(Path("town.tif"), raster), wanted)


@pytest.mark.parametrize("more", [(), ("Band_4",)])
def test_a_plain_picture_is_read_by_index_because_gdal_calls_any_three_bands_red_green_and_blue(
    more: tuple[str, ...],
) -> None:
    wanted = Configuration(8, 8, extract_bands=(0, 1, 2), trained_bands=("Blue", "Green", "Red"))
    assert (0, 1, 2) == band_indexes(Bands(Path("a.png"), ("Red", "Green", "Blue", *more)), wanted)
    assert (2, 1, 0) == band_indexes(Bands(Path("a.png"), ("Red", "Green", "Blue", "NIR")), wanted)


def test_each_of_two_dates_has_its_bands_where_its_names_say() -> None:
    wanted = Configuration(8, 8, extract_bands=(0, 1, 4, 5), trained_bands=RGBN)
    before, after = Bands(Path("a.tif"), RGBN), Bands(Path("b.tif"), ("green", "red"))
    assert (0, 1, 5, 4) == pair_indexes(before, after, wanted)


@pytest.mark.parametrize(
    ("kind", "domain", "value", "expected"),
    [
        ("numeric", (), "64", 64),
        ("numeric", (1, 2, 4), "2", 2),
        ("GPLong", (), "7", 7),
        ("GPDouble", (0, 1), "1", 1.0),
        ("string", (), " 0.9,1 ", "0.9,1"),
        ("GPString", ("a", "b"), "b", "b"),
        ("GPStringKeyword", ("a", "b"), "a", "a"),
        ("boolean", (), "y", "True"),
        ("GPBoolean", (), "0", "False"),
    ],
)
def test_an_argument_of_every_type_is_handed_over_as_arcgis_does(
    kind: str, domain: tuple[Any, ...], value: str, expected: Any
) -> None:
    handed = fitting(Parameter("x", kind, None, False, domain), value)
    assert (expected, type(expected)) == (handed, type(handed))


@pytest.mark.parametrize(
    ("kind", "domain", "value", "message"),
    [
        ("GPLong", (), "1.5", "a whole number"),
        ("numeric", (1, 2, 4), "3", "one of 1, 2, 4"),
        ("GPDouble", (0, 1), "2", "0 to 1"),
    ],
)
def test_an_argument_outside_of_its_domain_is_refused(
    kind: str, domain: tuple[Any, ...], value: str, message: str
) -> None:
    with pytest.raises(OptionsError, match=f"x: expected {message}"):
        fitting(Parameter("x", kind, None, False, domain), value)


def test_a_default_that_is_a_boolean_is_handed_over_as_text(stranger: Any) -> None:
    function = RasterFunction.load(stranger(more='{"name": "thin", "dataType": "boolean", "value": False}'))
    assert "False" == function.scalars["thin"]


def test_a_long_complaint_is_cut_and_weights_of_another_network_are_named(stranger: Any) -> None:
    pages = "raise RuntimeError('Error(s) in loading state_dict for Net:' + 9000 * ' Missing key')"
    with pytest.raises(RasterFunctionError, match="more characters; the weights are those of another network") as told:
        RasterFunction.load(stranger(body=pages)).vectorize(PIXELS, VALID)
    assert len(str(told.value)) < 700


@pytest.mark.parametrize("module", ["cv2_", "onnx_runtime_"])
def test_a_library_that_a_function_hides_behind_another_error_is_named(stranger: Any, module: str) -> None:
    body = f"""try:
            import {module}
        except ImportError:
            raise Exception("cannot run")"""
    with pytest.raises(RasterFunctionError, match=f"pip install {module}"):
        RasterFunction.load(stranger(body=body)).vectorize(PIXELS, VALID)


def test_a_function_that_ends_the_program_only_fails(stranger: Any) -> None:
    with pytest.raises(RasterFunctionError, match="SystemExit: 3"):
        RasterFunction.load(stranger(body="import sys; sys.exit(3)")).vectorize(PIXELS, VALID)


def test_features_that_are_no_polygons_are_refused(template: Any) -> None:
    with pytest.raises(RasterFunctionError, match="getGeometryType: expected 4, polygons, got 1"):
        RasterFunction.load(template(DETECTOR.replace("return 4", "return 1")))
