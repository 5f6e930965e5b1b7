"""Every network of ours as an ONNX file that answers as torch does, and says what the Deepness plugin of QGIS reads."""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry import plugins
from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import OptionsError
from tasks import networks
from tasks.host import RasterFunction
from tasks.travelling import travelling

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from tasks.export_onnx import _quiet, deepness, export_onnx  # noqa: E402

SIDE = 64
Asked = tuple[str, dict[str, Any]]
OFTEN: list[Asked] = [("ssd", {}), ("mask_rcnn", {}), ("mask_rcnn", {"pointrend": True, "detections": 50})]
# DLPK_EVERY_NETWORK=1 asks all of them, which takes minutes
REST: list[Asked] = [(name, {}) for name in plugins.names(networks) if (name, {}) not in OFTEN]
NETWORKS = OFTEN + (REST if os.environ.get("DLPK_EVERY_NETWORK") else [])
FUNCTIONS = {
    "detect_objects": ("DetectObjects", "ObjectDetection"),
    "classify_pixels": ("ClassifyPixels", "ImageClassification"),
    "classify_objects": ("ClassifyObjects", "ObjectClassification"),
    "detect_change": ("DetectChange", "ImageClassification"),
}
BANDS = [{"BandName": name, "Min": 1, "Max": 250, "Mean": 90, "StdDev": 30} for name in ("Red", "Green", "Blue")]
CELL = {"x": 0.25, "y": 0.25, "spatialReference": {"wkid": 32645}}
Make = Callable[..., ModelFolder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model folder of a network with random weights that nevertheless finds something."""

    def make(network: str, **keys: Any) -> ModelFolder:
        module = plugins.load(networks, network)
        function, kind = FUNCTIONS[module.SERVES[0]]
        change = function == "DetectChange"
        torch.manual_seed(1)
        built = module.build(bands=3, classes=1 if change else 2, **keys.get("NetworkOptions", {})).eval()
        _spread(built)
        folder = tmp_path / network
        folder.mkdir()
        for source in travelling(function, network):
            shutil.copy(source, folder)
        torch.save(built.state_dict(), folder / "town.pth")
        statistics = [*BANDS, *({**band, "BandName": f"{band['BandName']}_2"} for band in BANDS)]
        values = [0, 1] if change else [1, 2]
        Emd(
            {
                "Framework": "PyTorch",
                "ModelConfiguration": network,
                "ModelType": "InstanceDetection" if getattr(module, "INSTANCES", False) else kind,
                "ModelFile": "town.pth",
                "InferenceFunction": f"{function}.py",
                "ImageHeight": SIDE,
                "ImageWidth": SIDE,
                "ExtractBands": list(range(6 if change else 3)),
                "AllTilesStats": statistics if change else BANDS,
                "MinCellSize": CELL,
                "MaxCellSize": CELL,
                "CropSizeFixed": 1,
                "BlackenAroundFeature": 0,
                "Classes": [{"Value": v, "Name": n, "Color": [v, 0, 0]} for v, n in zip(values, "ab", strict=True)],
                **keys,
            }
        ).write(folder / "town.emd")
        return ModelFolder(folder)

    return make


def _spread(built: torch.nn.Module) -> None:
    """Scores of an untrained detector lie close together and low: here they differ, and the first label is silent.

    PointRend's masks would be sure of everything: a tenth of their logits is what a trained one has.
    """
    for name, weights in built.named_parameters():
        if "mask_predictor.predictor.mask_fcn_logits" in name:
            weights.data /= 10
        if "cls_logits" in name or "scores" in name or "classification_head.module_list" in name:
            if name.endswith("weight"):
                weights.data /= weights.data.norm()
            else:
                torch.nn.init.zeros_(weights)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "options"), NETWORKS)
def test_a_network_answers_in_onnx_as_in_torch(
    network: str, options: dict[str, Any], make: Make, tmp_path: Path
) -> None:
    made = export_onnx(make(network, NetworkOptions=options), tmp_path / f"{network}.onnx")
    assert made.difference < 2e-3
    assert (1, 6 if network == "change_detector" else 3, SIDE, SIDE) == made.input
    shape = {name: sizes[:2] for name, sizes in made.outputs.items()}
    expected = {
        "ObjectDetection": {"objects": [1, 6]},
        "InstanceDetection": {"objects": [1, "rows"], "masks": [1, "n"]},
        "ObjectClassification": {"chances": [1, 2]},
        "ImageClassification": {"shares": [1, 2 if network == "change_detector" else 3]},
    }
    assert expected[str(ModelFolder(tmp_path / network).emd.model_type)] == shape
    pixels = np.random.default_rng(3).random(made.input, np.float32)
    first, *masks = onnxruntime.InferenceSession(str(made.path)).run(None, {"pixels": pixels})
    if "objects" in made.outputs:
        assert first.shape[2] > 0
        assert (first[0, 4:6].max(axis=0) > 0.05).any()
    if masks:  # each object takes its own mask, as the plugin would add them up
        assert np.array_equal(np.eye(first.shape[2], dtype="f4"), first[0, 6:])
        assert masks[0].shape == (1, first.shape[2], SIDE, SIDE)


@pytest.mark.slow
def test_classes_that_were_not_to_be_learnt_have_no_share(make: Make, tmp_path: Path) -> None:
    made = export_onnx(make("unet", ignore_mapped_class=[0, 1], PredictBackground=False), tmp_path / "town.onnx")
    pixels = np.random.default_rng(3).random(made.input, np.float32)
    [shares] = onnxruntime.InferenceSession(str(made.path)).run(None, {"pixels": pixels})
    assert [0, 0, 1] == [shares[:, k].min() for k in range(3)] == [shares[:, k].max() for k in range(3)]


@pytest.mark.slow
def test_a_pixel_model_answers_as_its_raster_function_and_is_described_to_deepness(make: Make, tmp_path: Path) -> None:
    model = make("unet")
    made = export_onnx(model, tmp_path / "town.onnx")
    session = onnxruntime.InferenceSession(str(made.path))
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert ("Segmentor", "Segmentor", 25.0, SIDE) == (
        made.deepness,
        told["model_type"],
        told["resolution"],
        told["tile_size"],
    )
    assert {"0": "background", "1": "a", "2": "b"} == told["class_names"]
    assert "unet" == told["esri_model_definition"]["ModelConfiguration"]
    pixels = np.random.default_rng(5).integers(0, 256, (3, SIDE, SIDE), np.uint8)
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    [shares] = session.run(None, {"pixels": pixels[None].astype("f4") / 255})
    values, _ = function.update_block(pixels, np.ones(pixels.shape[1:], bool))
    assert (shares[0].argmax(axis=0) == values.squeeze()).mean() > 0.999


@pytest.mark.parametrize(
    ("document", "names", "expected"),
    [
        ({"ModelType": "ObjectDetection", "Threshold": 0.3}, ["objects"], ("Detector", "YOLO_Ultralytics", 0.3)),
        ({"ModelType": "InstanceDetection"}, ["objects", "masks"], ("Detector", "YOLO_Ultralytics_segmentation", 0.5)),
        ({"InferenceFunction": "DetectChange.py"}, ["shares"], (None, None, None)),
        ({"ModelType": "ObjectClassification"}, ["chances"], (None, None, None)),
    ],
)
def test_what_deepness_does_not_know_is_not_described(
    document: dict[str, Any], names: list[str], expected: tuple[Any, ...]
) -> None:
    known = {"ImageHeight": SIDE, "ImageWidth": SIDE, "Classes": [{"Value": 1, "Name": "a", "Color": [1, 2, 3]}]}
    told = deepness(Emd({**known, **document}), names)
    assert expected == (told.get("model_type"), told.get("det_type"), told.get("det_conf"))


@pytest.mark.parametrize(
    ("wkid", "x", "centimetres"), [(32645, 0.5, 50), (2263, 1, 30.48), (4326, 1e-5, 111.195), (999999, 1, None)]
)
def test_cells_are_told_in_centimetres(wkid: int, x: float, centimetres: float | None) -> None:
    cell = {"x": x, "y": x, "spatialReference": {"wkid": wkid}}
    document = {"ImageHeight": 64, "ImageWidth": 64, "Classes": [], "MinCellSize": cell, "ModelType": "ObjectDetection"}
    told = deepness(Emd(document), ["objects"]).get("resolution")
    assert told == (pytest.approx(centimetres, abs=0.01) if centimetres else None)


def test_a_stranger_is_not_loaded(make: Make, tmp_path: Path) -> None:
    model = make("unet")
    (model.path / "ClassifyPixels.py").write_text("print('here')")
    with pytest.raises(OptionsError, match="holds code that this registry did not publish"):
        export_onnx(model, tmp_path / "town.onnx")
    assert not (tmp_path / "town.onnx").exists()


def test_what_torch_prints_in_c_does_not_come_between_records(capfd: pytest.CaptureFixture[str]) -> None:
    with _quiet():
        ctypes.CDLL(None).puts(b"Torch IR graph at exception")
    sys.stdout.write("{}")
    sys.stdout.flush()
    assert "{}" == capfd.readouterr().out
