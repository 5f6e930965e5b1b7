import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.dlpk import ModelFolder
from registry.emd import ClassLabel, Emd, ModelType
from registry.errors import EmdError
from registry.keys import oddities, typed, unknown
from registry.properties import properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
KEYS = (
    *("Framework", "ModelConfiguration", "ModelType", "ModelFile", "InferenceFunction", "ImageHeight", "ImageWidth"),
    *("ExtractBands", "Classes", "DataRange", "IsMultispectral", "NormalizationStats", "ImageSpaceUsed", "MinCellSize"),
)
documents = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), json_values, max_size=10)


@pytest.mark.slow
@settings(deadline=None)  # each example waits for the disk
@given(documents)
def test_an_emd_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    emd = Emd(document)
    assert emd == Emd.read(emd.write(tmp_path_factory.getbasetemp() / "m.emd"))


@pytest.mark.slow
@given(documents)
def test_whatever_stands_in_an_emd_its_problems_are_told(document: dict[str, Any]) -> None:
    assert all(": " in problem for problem in Emd(document).problems())


def test_unknown_keys_keep_their_place() -> None:
    text = '{"Zebra": {"b": 1, "a": 2}, "Framework": "PyTorch", "Apple": null}'
    assert ["Zebra", "Framework", "Apple"] == list(Emd.parse(text).document)
    assert ["b", "a"] == list(Emd.parse(text).document["Zebra"])


def test_the_written_file_is_ascii(tmp_path: Path) -> None:
    written = Emd({"Classes": [{"Value": 1, "Name": "Dächer"}]}).write(tmp_path / "m.emd")
    assert written.read_bytes().isascii()
    assert "Dächer" == Emd.read(written).classes[0].name


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.emd").write_bytes(b"\xef\xbb\xbf{}")
    assert {} == Emd.read(tmp_path / "m.emd").document


@pytest.mark.parametrize(
    ("content", "what"), [(b"{", "no valid JSON"), (b"[]", "JSON object"), (b"\xff\xfe{", "UTF-8")]
)
def test_a_file_that_is_no_definition_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "m.emd").write_bytes(content)
    with pytest.raises(EmdError, match=what) as caught:
        Emd.read(tmp_path / "m.emd")
    assert str(tmp_path / "m.emd") == caught.value.where


def test_typed_values_come_out_of_the_document(model: ModelFolder) -> None:
    emd = model.emd
    assert ModelType.IMAGE_CLASSIFICATION == emd.model_type
    assert (ClassLabel(1, "roof", (230, 60, 40)), ClassLabel(2, "pond", (0, 0, 255))) == emd.classes
    assert (0.5, 0.5, 32645) == emd.cell_size
    assert (64, (0, 1, 2), "roofs.pth") == (emd.tile_size, emd.extract_bands, emd.model_file)


def test_esris_spellings_are_understood() -> None:
    emd = Emd(
        {"ModelType": "ObjectionDetection", "ModelFile": ".\\m.pth", "Classes": [{"ClassValue": 3, "ClassName": "x"}]}
    )
    assert (ModelType.OBJECT_DETECTION, "m.pth") == (emd.model_type, emd.model_file)
    assert 3 == emd.classes[0].value


def test_a_whole_model_has_no_problems(model: ModelFolder) -> None:
    assert [] == model.emd.problems(model.path)


BROKEN = [
    ("ModelType", "Painting", "ModelType"),
    ("ImageHeight", 0, "ImageHeight"),
    ("ImageWidth", 32, "ImageWidth"),
    ("ImageHeight", True, "ImageHeight"),
    ("Classes", [], "Classes"),
    ("Classes", [{"Value": 1, "Name": "roof", "Color": [0, 300, 0]}], "Classes[0].Color"),
    ("Classes", [{"Value": "1", "Name": "roof", "Color": [0, 0, 0]}], "Classes[0].Value"),
    ("Classes", [{"Value": 1, "Name": "", "Color": [0, 0, 0]}], "Classes[0].Name"),
    ("Classes", [{"Value": 1, "Name": n, "Color": [0, 0, 0]} for n in "ab"], "Classes"),
    ("ExtractBands", [], "ExtractBands"),
    ("ExtractBands", [0, 0], "ExtractBands"),
    ("ExtractBands", [0, "Red"], "ExtractBands"),
    ("ModelFile", "gone.pth", "ModelFile"),
    ("ModelFile", "../roofs.pth", "ModelFile"),
    ("InferenceFunction", None, "InferenceFunction"),
    ("InferenceFunction", "model_metrics.html", "InferenceFunction"),
    ("ModelConfigurationFile", "gone.py", "ModelConfigurationFile"),
    ("DataRange", [1, 0], "DataRange"),
    ("ImageSpaceUsed", "OUTER_SPACE", "ImageSpaceUsed"),
    ("IsMultispectral", True, "NormalizationStats"),
    ("Description", "e.g. a model", "Description"),
    ("InputRastersProps", {"BandNames": ["Red", "e.g. Blue"]}, "InputRastersProps.BandNames[1]"),
    ("Classes", [{"Value": 1, "Name": "roof"}], "Classes[0].Color"),
    ("Classes", "roof", "Classes"),
    ("DataRange", [0, "1"], "DataRange"),
    ("ModelFile", "/etc/passwd", "ModelFile"),
    ("ModelFile", ".", "ModelFiles"),
]


@pytest.mark.parametrize(("key", "value", "field"), BROKEN)
def test_a_broken_rule_is_told_with_its_field(model: ModelFolder, key: str, value: object, field: str) -> None:
    broken = model.emd.replace(**{key: value})
    assert field in [problem.split(":")[0] for problem in broken.problems(model.path)]
    with pytest.raises(EmdError, match=r"fix it in the \.emd file"):
        broken.validate(model.path)


def test_an_object_classifier_says_how_it_crops(model: ModelFolder) -> None:
    problems = model.emd.replace(ModelType="ObjectClassification", CropSizeFixed=2).problems()
    assert ["CropSizeFixed", "BlackenAroundFeature"] == [problem.split(":")[0] for problem in problems]


def test_an_export_definition_is_told_from_a_model(model: ModelFolder) -> None:
    assert Emd({"ModelFile": 'e.g. "model.pth"'}).is_export_definition
    assert not model.emd.is_export_definition


def test_a_missing_key_is_named() -> None:
    with pytest.raises(EmdError, match=r"here\.emd ModelType: is missing"):
        _ = Emd.parse(json.dumps({}), where="here.emd").model_type


def test_every_problem_ends_with_what_to_do() -> None:
    told = Emd({"ImageHeight": 5}).problems()
    assert "ModelType: is missing, got None; write what the model does, such as ObjectDetection: it decides " in told[0]
    assert all(problem.count("; ") >= 1 for problem in told)


def test_other_letters_than_ascii_are_a_problem_until_the_file_is_written_again(model: ModelFolder) -> None:
    document = {**model.emd.document, "Description": "Dächer"}
    model.emd_path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    [told] = model.emd.problems()
    assert told.startswith("text: expected ASCII")
    model.emd.write(model.emd_path)
    assert ([], "Dächer") == (model.emd.problems(), model.emd.document["Description"])


def test_several_weights_files_are_looked_for(model: ModelFolder) -> None:
    several = model.emd.replace(ModelFile=".", ModelFiles=["roofs.pth", "gone.pth"])
    assert ["ModelFiles[1]"] == [problem.split(":")[0] for problem in several.problems(model.path)]


# -- as ArcGIS writes them (A.5, C.4): invented values -----------------------------------------------------------------
UNET = {
    "Framework": "arcgis.learn.models._inferencing",
    "ModelConfiguration": "_unet",
    "ModelType": "ImageClassification",
    "InferenceFunction": "[Functions]System\\DeepLearning\\ArcGISLearn\\ArcGISImageClassifier.py",
    "ModelName": "UnetClassifier",
    "backend": "pytorch",
    "ModelFile": "Fields.pth",
    "ModelFormat": "NCHW",
    "ImageHeight": 256,
    "ImageWidth": 256,
    "ImageSpaceUsed": "MAP_SPACE",
    "SupportsVariableTileSize": True,
    "ExtractBands": [0, 1, 3],
    "IsMultispectral": True,
    "Bands": [0, 1, 2, 3],
    "ImageryType": "ms",
    "NormalizationStats": {"band_min_values": [1, 2, 3, 4], "scaled_std_values": [0.1, 0.1, 0.2, 0.2], "other": None},
    "MinCellSize": None,
    "MaxCellSize": None,
    "resize_to": None,
    "ignore_mapped_class": [],
    "Published": {"by": "x"},
    "LearningRate": "slice('1.0000e-04', '1.0000e-03', None)",
    "accuracy": "9.5355e-01",
    "monitored_valid_loss": 0.21,
    "per_class_metrics": '{"Field": {"precision": 0.5}}',
    "ArcGISLearnVersion": "2.4.1",
    "ModelParameters": {"backbone": "resnet34", "backend": "pytorch"},
    "Classes": [{"Value": 3, "Name": "Field", "Color": [10, 200, 30]}],
}
MASKS = {
    "Framework": "Keras",
    "ModelConfiguration": {"Name": "MaskRCNN", "Architecture": ".\\mrcnn\\spacenet"},
    "ModelType": "ObjectDetection",
    "ModelFile": ".\\houses.h5",
    "ImageHeight": "512",
    "ImageWidth": "512",
    "ExtractBands": [0, 1, 2],
    "Classes": [{"Value": 1, "Name": "House", "Color": [1, 2, 3]}],
    "BatchSize": "four",
}
DETECTOR = {
    "Framework": "arcgis.learn.models._inferencing",
    "ModelConfiguration": "_DynamicSSD",
    "ModelType": "ObjectDetection",
    "InferenceFunction": "[Functions]System\\DeepLearning\\ArcGISLearn\\ArcGISObjectDetector.py",
    "ModelFile": "Palms.pth",
    "ImageHeight": 224,
    "ImageWidth": 224,
    "ExtractBands": ["Red", "Green", "Blue"],
    "Grids": [4, 2],
    "Zooms": [1.0],
    "Ratios": [[1.0, 1.0]],
    "SSDVersion": 2,
    "MaskRCNNkwargs": {},
    "average_precision_score": {"Palm": 0.71},
    "PerProcessGPUMemoryFraction": "0.8",
    "IsEdgeDetection": "False",
    "Classes": [{"Value": 2, "Name": "Palm", "Color": [1, 2, 3]}, {"Value": 1, "Name": "Roof", "Color": [9, 2, 3]}],
}


@pytest.mark.parametrize("document", [UNET, MASKS, DETECTOR], ids=["unet", "mask r-cnn of keras", "ssd"])
def test_a_definition_of_arcgis_breaks_no_rule_and_is_written_back_as_it_was(
    document: dict[str, Any], tmp_path: Path
) -> None:
    assert [] == Emd(document).problems()
    back = Emd.read(Emd(document).write(tmp_path / "m.emd"))
    assert list(document.items()) == list(back.document.items())


def test_known_keys_come_out_as_what_they_are() -> None:
    unet, masks, ssd = (typed(document) for document in (UNET, MASKS, DETECTOR))
    assert (0.95355, {"Field": {"precision": 0.5}}, 0.21) == (
        unet["accuracy"],
        unet["per_class_metrics"],
        unet["monitored_valid_loss"],
    )
    assert (512, "MaskRCNN") == (masks["ImageHeight"], Emd(MASKS).model_configuration)
    assert (0.8, False, [[1.0, 1.0]]) == (ssd["PerProcessGPUMemoryFraction"], ssd["IsEdgeDetection"], ssd["Ratios"])
    assert "BatchSize" not in masks
    assert ["Published"] == unknown(UNET)
    assert [] == oddities(UNET) == oddities(DETECTOR)
    assert [
        "BatchSize: expected a whole number, got 'four'",
        "ImageHeight: a number is written as text, got '512'",
    ] == (oddities(MASKS)[:2])


def test_what_is_shown_of_a_definition_of_arcgis(tmp_path: Path) -> None:
    told = properties(Emd(UNET).write(tmp_path / "Fields.emd"))
    assert ("_unet", "2.4.1", ["Published"]) == (
        told["model_configuration"],
        told["settings"]["ArcGISLearnVersion"],
        told["other_keys"],
    )
    assert not {"problems", "notes"} & told.keys()


def test_a_function_of_null_is_none() -> None:
    assert "" == Emd({"InferenceFunction": None}).inference_function
