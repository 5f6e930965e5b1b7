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
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

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
    return stored(path, emd, network.state_dict() if network else {})


def stored(path: Path, emd: Emd, state: dict[str, torch.Tensor]) -> ModelFolder:
    path.mkdir()
    torch.save(state, path / "roofs.pth")
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
    state = fastai_weights(classes=3)
    model = convert(stored(tmp_path / "roofs", definition(**pixels_too), state), tmp_path / "open")
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


def resnet(bands: int, prefix: str) -> dict[str, torch.Tensor]:
    """Of a ResNet-18, by the place of its layers, with what it has seen in training."""
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None)
    whole.conv1 = torch.nn.Conv2d(bands, 64, 7, 2, 3, bias=False)
    state = torch.nn.Sequential(*list(whole.children())[:-2]).state_dict()
    seen = {name: torch.rand_like(t) + 0.1 for name, t in state.items() if name.endswith("running_var")}
    return {prefix + name: tensor for name, tensor in {**state, **seen}.items()}


def deep(state: dict[str, torch.Tensor], image: torch.Tensor, prefix: str, looks: dict[int, int]) -> torch.Tensor:
    """What a ResNet-18 answers, tensor by tensor; stages of `looks` do not shrink the map, their sight is dilated."""

    def conv(name: str, x: torch.Tensor, stride: int, dilation: int = 1) -> torch.Tensor:
        weight = state[f"{prefix}{name}.weight"]
        return functional.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return normed(state, prefix + name, x)

    x = functional.max_pool2d(norm("1", conv("0", image, 2)).relu(), 3, 2, 1)
    for stage in (4, 5, 6, 7):
        for block in (0, 1):
            name, stride = f"{stage}.{block}", 2 if block == 0 and stage > 4 and stage not in looks else 1
            out = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride, looks.get(stage, 1))).relu()
            out = norm(f"{name}.bn2", conv(f"{name}.conv2", out, 1, looks.get(stage, 1)))
            if f"{prefix}{name}.downsample.0.weight" in state:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = (x + out).relu()
    return x


def normed(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var, weight, bias = (state[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, mean, var, weight, bias)


@pytest.mark.slow
@pytest.mark.parametrize("never", [[], [1]])
def test_a_deeplab_gives_the_classes_that_it_gave(tmp_path: Path, never: list[int]) -> None:
    pixels_too = {"ModelType": "ImageClassification", "ModelName": "DeepLab", "ignore_mapped_class": never}
    state, head = resnet(3, "backbone."), DeepLabHead(512, 3).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8)
    image = torch.from_numpy(pixels)[None].float().sub(MEAN).div(DEVIATION)
    with torch.inference_mode():
        seen = deep(state, image, "backbone.", {6: 2, 7: 4})
        head[-1].bias.data.sub_(head(seen).mean(dim=(0, 2, 3)))  # so that each class has its pixels
        logits = functional.interpolate(head(seen), (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        logits[never] = -1e9
    state |= {f"classifier.{name}": tensor for name, tensor in head.state_dict().items()}
    state["aux_classifier.0.weight"] = torch.zeros(64, 256, 3, 3)  # only the training looks at it
    model = convert(stored(tmp_path / "roofs", definition(**pixels_too), state), tmp_path / "open")
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    function.update_raster_info("u1", 3)
    found = function.update_pixels(pixels, np.ones((SIDE, SIDE), bool))
    expected = np.array([0, 7, 9])[logits.max(0)[1].numpy()]
    assert len(np.unique(expected)) > 1
    assert (expected != found[0]).mean() < 1e-3  # where two classes are as likely


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_a_feature_classifier_gives_the_labels_that_it_gave(tmp_path: Path, several: bool) -> None:
    form = "MultiLabeled_Tiles" if several else "Labeled_Tiles"
    objects = {"ModelType": "ObjectClassification", "ModelName": "FeatureClassifier", "MetaDataMode": form}
    state, generator = resnet(4, "0."), torch.Generator().manual_seed(1)
    for number, width in ((2, 1024), (6, 512)):
        shift = 0.1 * torch.randn(width, generator=generator)
        state |= {f"1.{number}.{n}": t for n, t in {"weight": shift + 1, "bias": shift, "running_mean": shift}.items()}
        state[f"1.{number}.running_var"] = torch.ones(width)
    for number, (out, width) in ((4, (512, 1024)), (8, (2, 512))):
        state[f"1.{number}.weight"] = torch.randn(out, width, generator=generator) / width**0.5
        state[f"1.{number}.bias"] = 0.1 * torch.randn(out, generator=generator)
    pixels = np.random.default_rng(0).integers(0, 1000, (5, 4, SIDE, SIDE)).astype(np.uint16)
    low, mean, deviation = (
        np.array(STATS[n][::-1])[:, None, None] for n in ("band_min_values", "scaled_mean_values", "scaled_std_values")
    )
    with torch.inference_mode():
        maps = deep(state, torch.from_numpy(((pixels - low) / 1000 - mean) / deviation).float(), "0.", {})
        x = torch.cat([maps.flatten(2).max(dim=2)[0], maps.flatten(2).mean(dim=2)], 1)
        x = functional.linear(normed(state, "1.2", x), state["1.4.weight"], state["1.4.bias"]).relu()
        logits = functional.linear(normed(state, "1.6", x), state["1.8.weight"])
        state["1.8.bias"] = -logits.mean(dim=0)  # so that each class has its objects
        logits += state["1.8.bias"]
    told = definition(
        **objects, NormalizationStats=STATS, ExtractBands=[3, 2, 1, 0], CropSizeFixed=1, BlackenAroundFeature=0
    )
    model = convert(stored(tmp_path / "roofs", told, state), tmp_path / "open")
    function = RasterFunction.load(model, arguments={"batch_size": 2})
    found = function.classify([(image, np.ones((SIDE, SIDE), bool)) for image in pixels])
    shares = (logits.sigmoid() if several else logits.softmax(1)).numpy()
    if several:
        names = [tuple(n for n, s in zip(("Roof", "Pond"), row, strict=True) if s >= 0.5) for row in shares]
    else:
        names = [(("Roof", "Pond")[k],) for k in shares.argmax(axis=1)]
        shares = shares.max(axis=1, keepdims=True)
    assert names == [one.names for one in found]
    assert len(set(names)) > 1
    assert np.allclose(shares, [one.confidences for one in found], atol=1e-4)


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
