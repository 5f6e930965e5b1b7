"""Models as arcgis.learn saves them, with random weights, and what their layers answer, tensor by tensor."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.nn import functional

from registry.dlpk import ModelFolder
from registry.emd import Emd

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
            "resize_to": 2 * SIDE,  # by which its functions do nothing
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


def resnet(bands: int, prefix: str) -> dict[str, torch.Tensor]:
    """Of a ResNet-18, by the place of its layers, with what it has seen in training."""
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None)
    whole.conv1 = torch.nn.Conv2d(bands, 64, 7, 2, 3, bias=False)
    state = torch.nn.Sequential(*list(whole.children())[:-2]).state_dict()
    seen = {name: torch.rand_like(t) + 0.1 for name, t in state.items() if name.endswith("running_var")}
    return {prefix + name: tensor for name, tensor in {**state, **seen}.items()}


def deep(
    state: dict[str, torch.Tensor], image: torch.Tensor, prefix: str, looks: dict[int, int], until: int = 7
) -> torch.Tensor:
    """What a ResNet-18 answers, tensor by tensor; stages of `looks` do not shrink the map, their sight is dilated."""

    def conv(name: str, x: torch.Tensor, stride: int, dilation: int = 1) -> torch.Tensor:
        weight = state[f"{prefix}{name}.weight"]
        return functional.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return normed(state, prefix + name, x)

    x = functional.max_pool2d(norm("1", conv("0", image, 2)).relu(), 3, 2, 1)
    for stage in range(4, until + 1):
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


def layer(state: dict[str, torch.Tensor], name: str, out: int, bands: int, side: int, scale: float = 1.0) -> None:
    """A convolution, added to the weights."""
    state[f"{name}.weight"] = scale * torch.randn(out, bands, side, side) / (bands * side * side) ** 0.5
    state[f"{name}.bias"] = 0.1 * torch.randn(out)


def norm_layer(state: dict[str, torch.Tensor], name: str, width: int) -> None:
    state |= {f"{name}.{n}": 1 + 0.1 * torch.rand(width) for n in ("weight", "running_mean", "running_var")}
    state[f"{name}.bias"] = 0.1 * torch.randn(width)


def convolved(state: dict[str, torch.Tensor], name: str, x: torch.Tensor, *form: int) -> torch.Tensor:
    """`form`: stride and padding."""
    return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], *form)


def enlarged(x: torch.Tensor, side: int) -> torch.Tensor:
    return functional.interpolate(x, (side, side), mode="bilinear", align_corners=True)
