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

from registry.errors import NotFound, OptionsError, RasterFunctionError
from tasks.conversion import convert
from tasks.host import RasterFunction
from tests.arcgis_models import (
    DEVIATION,
    MEAN,
    SIDE,
    STATS,
    convolved,
    deep,
    definition,
    enlarged,
    folder,
    layer,
    norm_layer,
    normed,
    resnet,
    stored,
)


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
    arguments = {"padding": 0, "batch_size": 1, "threshold": 0.05, "nms_overlap": 0.5, "return_bboxes": True}
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
    theirs = stored(tmp_path / "roofs", definition(**pixels_too), state)
    theirs.emd_path.rename(theirs.path / "roofs.EMD")  # as some packages have it
    model = convert(theirs, tmp_path / "open")
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


def pooled(state: dict[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    """The maps beside their means in 1, 2, 3 and 6 squares a side, of which layers are made."""
    parts = [x]
    for i, side in enumerate((1, 2, 3, 6)):
        state[f"{prefix}.{i}.1.weight"] = torch.randn(128, 512, 1, 1) / 512**0.5
        norm_layer(state, f"{prefix}.{i}.2", 128)
        means = functional.conv2d(functional.adaptive_avg_pool2d(x, side), state[f"{prefix}.{i}.1.weight"])
        parts.append(enlarged(normed(state, f"{prefix}.{i}.2", means).relu(), x.shape[-1]))
    return torch.cat(parts, 1)


def doubled(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """Each pixel becomes four, by a layer whose weights are kept as length and direction."""
    layer(state, name, 2 * x.shape[1] if "shuf" in name else 4 * x.shape[1], x.shape[1], 1)
    direction = state.pop(f"{name}.weight")
    length = 1 + torch.rand(len(direction), 1, 1, 1)
    state |= {f"{name}.weight_v": direction, f"{name}.weight_g": length}
    weight = length * direction / direction.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return functional.pixel_shuffle(functional.conv2d(x, weight, state[f"{name}.bias"]).relu(), 2)


def steps(state: dict[str, torch.Tensor], names: list[str], widths: list[int], x: torch.Tensor) -> torch.Tensor:
    """Convolutions without bias, each with its statistics behind."""
    for name, width in zip(names, widths, strict=True):
        layer(state, f"{name}.0", width, x.shape[1], 3)
        del state[f"{name}.0.bias"]
        norm_layer(state, f"{name}.2", width)
        x = normed(state, f"{name}.2", functional.conv2d(x, state[f"{name}.0.weight"], padding=1).relu())
    return x


def with_decoder(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """What the PSPNet with fastai's decoder answers, whose layers are made on the way."""
    pre = "model.layers"
    state |= resnet(3, f"{pre}.0.")
    half = normed(state, f"{pre}.0.1", functional.conv2d(image, state[f"{pre}.0.0.weight"], None, 2, 3)).relu()
    quarter = deep(state, image, f"{pre}.0.", {}, until=4)
    x = pooled(state, f"{pre}.0.8.features", deep(state, image, f"{pre}.0.", {6: 2, 7: 4}))
    layer(state, f"{pre}.0.9", 512, 1024, 3)
    norm_layer(state, f"{pre}.1", 512)
    state[f"{pre}.0.9.weight"] /= x.std()
    x = normed(state, f"{pre}.1", convolved(state, f"{pre}.0.9", x, 1, 1)).relu()
    x = steps(state, [f"{pre}.3.0", f"{pre}.3.1"], [1024, 512], x)
    for k, joined, width in ((4, quarter, 320), (5, half, 112)):
        norm_layer(state, f"{pre}.{k}.bn", 64)
        both = torch.cat([doubled(state, f"{pre}.{k}.shuf.conv.0", x), normed(state, f"{pre}.{k}.bn", joined)], 1)
        x = steps(state, [f"{pre}.{k}.conv1", f"{pre}.{k}.conv2"], [width, width], both.relu())
    x = doubled(state, f"{pre}.6.conv.0", x)
    state[f"{pre}.7.0.weight"] = torch.randn(3, 112, 1, 1) / 112**0.5
    norm_layer(state, f"{pre}.7.1", 3)
    x = functional.conv2d(x, state[f"{pre}.7.0.weight"])
    state[f"{pre}.7.1.running_mean"] = x.mean(dim=(0, 2, 3))  # so that each class has its pixels
    return normed(state, f"{pre}.7.1", x)


def alone(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """What the PSPNet without a decoder answers, whose layers are made on the way."""
    state |= resnet(3, "backbone.")
    state["aux_logits.weight"] = torch.zeros(3, 256, 1, 1)  # only the training looks at it
    x = pooled(state, "ppm.features", deep(state, image, "backbone.", {6: 2, 7: 4}))
    state["final.0.weight"] = torch.randn(128, 1024, 3, 3) / 96
    norm_layer(state, "final.1", 128)
    x = normed(state, "final.1", functional.conv2d(x, state["final.0.weight"], padding=1)).relu()
    layer(state, "final.4", 3, 128, 1)
    state["final.4.bias"] -= convolved(state, "final.4", x).mean(dim=(0, 2, 3))  # so that each class has its pixels
    return convolved(state, "final.4", x)


@pytest.mark.slow
@pytest.mark.parametrize("use_unet", [True, False])
def test_a_pspnet_gives_the_classes_that_it_gave(tmp_path: Path, use_unet: bool) -> None:
    parameters = {"backbone": "resnet18", "pyramid_sizes": [1, 2, 3, 6], "use_unet": use_unet}
    told = {"ModelType": "ImageClassification", "ModelName": "PSPNetClassifier", "ModelParameters": parameters}
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8)
    image, state = torch.from_numpy(pixels)[None].float().sub(MEAN).div(DEVIATION), dict[str, torch.Tensor]()
    with torch.inference_mode():
        logits = enlarged((with_decoder if use_unet else alone)(state, image), SIDE)[0]
    model = convert(stored(tmp_path / "roofs", definition(**told), state), tmp_path / "open")
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    function.update_raster_info("u1", 3)
    found = function.update_pixels(pixels, np.ones((SIDE, SIDE), bool))
    expected = np.array([0, 7, 9])[logits.max(0)[1].numpy()]
    assert len(np.unique(expected)) == 3
    assert (expected != found[0]).mean() < 1e-3  # where two classes are as likely


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ModelName": "BDCNEdgeDetector"}, "can be converted.*got 'BDCNEdgeDetector over resnet18"),
        ({"ModelParameters": {"backbone": "resnet18", "pointrend": True}}, "got 'MaskRCNN over resnet18, PointRend"),
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
