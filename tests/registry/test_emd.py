import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.dlpk import ModelFolder
from registry.emd import ClassLabel, Emd, ModelType
from registry.errors import EmdError

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


@settings(deadline=None)  # each example waits for the disk
@given(documents)
def test_an_emd_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    emd = Emd(document)
    assert emd == Emd.read(emd.write(tmp_path_factory.getbasetemp() / "m.emd"))


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
