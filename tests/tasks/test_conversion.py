"""Models as ArcGIS trains them, written again: the same tile gives the same objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import OptionsError, RasterFunctionError
from tasks.conversion import convert
from tasks.host import RasterFunction

SIDE = 64
STATS: dict[str, list[float]] = {
    "band_min_values": [0, 10, 20, 30],
    "band_max_values": [1000, 1010, 1020, 1030],
    "scaled_mean_values": [0.5, 0.4, 0.3, 0.2],
    "scaled_std_values": [0.1, 0.2, 0.3, 0.4],
}


def definition(**more: Any) -> Emd:
    """As arcgis.learn writes it."""
    return Emd(
        {
            "ModelParameters": {"pointrend": False, "backbone": "resnet18", "backend": "pytorch"},
            "Framework": "arcgis.learn.models._inferencing",
            "ModelConfiguration": "_maskrcnn_inferencing",
            "InferenceFunction": "[Functions]System\\DeepLearning\\ArcGISLearn\\ArcGISInstanceDetector.py",
            "ModelType": "InstanceDetection",
            "ModelName": "MaskRCNN",
            "ModelFile": "roofs.pth",
            "MaskRCNNkwargs": {"box_detections_per_img": 20},
            "ExtractBands": [0, 1, 2],
            "ImageHeight": SIDE,
            "ImageWidth": SIDE,
            "Classes": [
                {"Value": 7, "Name": "Roof", "Color": [1, 2, 3]},
                {"Value": 9, "Name": "Pond", "Color": [4, 5, 6]},
            ],
            "ArcGISLearnVersion": "2.4.1",
            "resize_to": SIDE,
            **more,
        }
    )


def folder(path: Path, emd: Emd, network: torch.nn.Module | None = None) -> ModelFolder:
    path.mkdir()
    torch.save(network.state_dict() if network else {}, path / "roofs.pth")
    emd.write(path / "roofs.emd")
    return ModelFolder(path)


def mask_rcnn(bands: int, mean: list[float], deviation: list[float]) -> MaskRCNN:
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    if bands != 3:
        body.body.conv1 = torch.nn.Conv2d(bands, 64, 7, 2, 3, bias=False)
    sizes = {"min_size": 1.5 * SIDE, "max_size": 2 * SIDE}
    network = MaskRCNN(body, 3, **sizes, image_mean=mean, image_std=deviation, box_detections_per_img=20)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("bands", [3, 4])
def test_a_tile_gives_the_objects_that_it_gave(tmp_path: Path, bands: int) -> None:
    spectral = {"NormalizationStats": STATS, "ExtractBands": [3, 2, 1, 0]} if bands == 4 else {}
    mean, deviation = (
        ([0.2, 0.3, 0.4, 0.5], [0.4, 0.3, 0.2, 0.1]) if bands == 4 else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    network = mask_rcnn(bands, mean, deviation)
    model = convert(folder(tmp_path / "roofs", definition(**spectral), network), tmp_path / "open")
    pixels = (
        np.random.default_rng(0).integers(0, 255, (bands, SIDE, SIDE)).astype(np.uint8 if bands == 3 else np.uint16)
    )
    low = np.array([0, 0, 0] if bands == 3 else STATS["band_min_values"][::-1])[:, None, None]
    with torch.inference_mode():
        (expected,) = network([torch.from_numpy((pixels - low) / (255 if bands == 3 else 1000)).float()])
    arguments = {"padding": 0, "batch_size": 1, "threshold": 0.05, "nms_overlap": 1, "return_bboxes": True}
    function = RasterFunction.load(model, arguments=arguments)
    found = function.vectorize(pixels, np.ones((SIDE, SIDE), bool))
    assert len(expected["scores"]) > 3
    assert np.allclose(sorted(expected["scores"]), sorted(d.confidence / 100 for d in found), atol=1e-4)
    assert {["Roof", "Pond"][label - 1] for label in expected["labels"].tolist()} == {d.class_name for d in found}
    assert 0.9 == RasterFunction.load(model).scalars["threshold"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ModelName": "UnetClassifier"}, "can be converted.*got 'UnetClassifier over resnet18"),
        ({"ModelParameters": {"backbone": "resnet18", "pointrend": True}}, "got 'MaskRCNN over resnet18, PointRend"),
        ({"resize_to": 32}, "tiles resized"),
        ({"ModelName": "FasterRCNN"}, "got 'FasterRCNN over resnet18"),
    ],
)
def test_a_network_that_is_not_torchvisions_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        convert(folder(tmp_path / "roofs", definition(**more)), tmp_path / "open")
    assert not (tmp_path / "open").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="tensors are not those of the network.*network.backbone.body"):
        convert(folder(tmp_path / "roofs", definition()), tmp_path / "open")
    assert not (tmp_path / "open").exists()


def test_the_host_says_how_such_a_model_comes_to_run(tmp_path: Path) -> None:
    with pytest.raises(RasterFunctionError, match=r"needs ArcGIS.*dlpk convert MODEL OUT\.dlpk"):
        RasterFunction.load(folder(tmp_path / "roofs", definition()))
