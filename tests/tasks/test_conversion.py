"""Models as ArcGIS trains them, written again: the same tile gives the same objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import NotFound, OptionsError, RasterFunctionError
from tasks.conversion import convert
from tasks.host import RasterFunction

SIDE = 64
MEAN, DEVIATION = (255 * torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
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


def fastai_weights(classes: int) -> dict[str, torch.Tensor]:
    """Of a U-Net over ResNet-18, under the names and in the shapes in which arcgis.learn saves it."""
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2])
    state = {f"layers.0.{name}": tensor for name, tensor in encoder.state_dict().items()}
    shapes = {"3.0.0": (1024, 512, 3), "3.1.0": (512, 1024, 3), "8.conv.0": (384, 96, 1)}
    for k, (up, joined, out) in enumerate([(512, 256, 512), (512, 128, 384), (384, 64, 256), (256, 64, 96)], 4):
        shapes |= {f"{k}.shuf.conv.0": (2 * up, up, 1), f"{k}.conv1.0": (out, up // 2 + joined, 3)}
        shapes |= {f"{k}.conv2.0": (out, out, 3)}
        state |= {f"layers.{k}.bn.{n}": t for n, t in torch.nn.BatchNorm2d(joined).state_dict().items()}
    shapes |= {"10.layers.0.0": (49, 99, 3), "10.layers.1.0": (99, 49, 3), "11.0": (classes, 99, 1)}
    state |= {f"layers.1.{name}": tensor for name, tensor in torch.nn.BatchNorm2d(512).state_dict().items()}
    for name, (out, bands, side) in shapes.items():
        state[f"layers.{name}.weight"] = torch.randn(out, bands, side, side) / (bands * side * side) ** 0.5
        state[f"layers.{name}.bias"] = 0.1 * torch.randn(out)
    return state


def by_hand(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """What fastai's U-Net answers, tensor by tensor."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = state[f"layers.{name}.weight"], state[f"layers.{name}.bias"]
        return functional.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"layers.{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias)

    encoder = torch.nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2]).eval()
    encoder.load_state_dict({n.removeprefix("layers.0."): t for n, t in state.items() if n.startswith("layers.0.")})
    maps, x = [], image
    for i, child in enumerate(encoder):
        x = child(x)
        maps += [x] if i in (2, 4, 5, 6) else []
    x = conv("3.1.0", conv("3.0.0", norm("1", x).relu()).relu()).relu()
    for k, joined in zip((4, 5, 6, 7), reversed(maps), strict=True):
        up = functional.pixel_shuffle(conv(f"{k}.shuf.conv.0", x).relu(), 2)
        x = conv(f"{k}.conv2.0", conv(f"{k}.conv1.0", torch.cat([up, norm(f"{k}.bn", joined)], 1).relu()).relu()).relu()
    x = torch.cat([functional.pixel_shuffle(conv("8.conv.0", x).relu(), 2), image], 1)
    return conv("11.0", x + conv("10.layers.1.0", conv("10.layers.0.0", x).relu()).relu())


@pytest.mark.slow
@pytest.mark.parametrize("never", [[], [1]])
def test_a_unet_gives_the_classes_that_it_gave(tmp_path: Path, never: list[int]) -> None:
    pixels_too = {"ModelType": "ImageClassification", "ModelName": "UnetClassifier", "ignore_mapped_class": never}
    (tmp_path / "roofs").mkdir()
    state = fastai_weights(classes=3)
    torch.save(state, tmp_path / "roofs" / "roofs.pth")
    definition(**pixels_too).write(tmp_path / "roofs" / "roofs.emd")
    model = convert(ModelFolder(tmp_path / "roofs"), tmp_path / "open")
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8)
    with torch.inference_mode():
        logits = by_hand(state, torch.from_numpy(pixels)[None].float().sub(MEAN).div(DEVIATION))[0]
        logits[never] = -1e9
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    function.update_raster_info("u1", 3)
    found = function.update_pixels(pixels, np.ones((SIDE, SIDE), bool))
    expected = np.array([0, 7, 9])[logits.max(0)[1].numpy()]
    assert len(np.unique(expected)) > 1
    assert (expected != found[0]).mean() < 1e-3  # where two classes are as likely


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ModelName": "PSPNetClassifier"}, "can be converted.*got 'PSPNetClassifier over resnet18"),
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


@pytest.mark.parametrize("content", [b"junk", b"", None])
def test_what_is_no_state_of_a_network_is_told_in_a_line(tmp_path: Path, content: bytes | None) -> None:
    model = folder(tmp_path / "roofs", definition())
    if content is None:
        torch.save(torch.zeros(3), model.weights)
    else:
        model.weights.write_bytes(content)
    with pytest.raises(NotFound, match="roofs.pth: is no file of weights.*state dict saved with torch.save"):
        convert(model, tmp_path / "open")
    assert not (tmp_path / "open").exists()
