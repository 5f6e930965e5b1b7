"""A classification network as a source of feature maps, one for each stride 2, 4, 8, 16, 32."""

from math import log2
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

FAMILIES = (  # of torchvision's classifiers: those that hand on maps; transformers cut the image into patches
    "convnext", "densenet", "efficientnet", "mnasnet", "mobilenet", "regnet", "resnet", "resnext", "shufflenet",
    "squeezenet", "vgg", "wide_resnet",
)  # fmt: skip
COLOURS = 3  # bands that pretrained weights know
SIDE = 64  # of the image that a new backbone is tried on


class Backbone(nn.Module):
    """`channels[i]` is the depth of the map at stride `2 ** (i + 1)`; some begin at stride 4 and have a map less."""

    def __init__(self, name: str, bands: int) -> None:
        """`name` is a torchvision classifier (`resnet18`, `mobilenet_v2`, ...) or `timm:<name>`.

        Raises ValueError for one that has no such maps.
        """
        super().__init__()
        self.bands = bands
        self.body = _timm_body(name[5:], bands) if name.startswith("timm:") else _TorchvisionBody(name, bands)
        with torch.no_grad():
            self.eval()
            maps = self(torch.zeros(1, bands, SIDE, SIDE))
            self.train()
        halvings = [round(log2(SIDE / m.shape[-1])) for m in maps]  # some take no pixels from beyond the edge
        if halvings not in ([1, 2, 3, 4, 5], [2, 3, 4, 5]):
            raise ValueError("backbone %r has maps of sides %s" % (name, [m.shape[-1] for m in maps]))
        self.channels = [int(m.shape[1]) for m in maps]

    def forward(self, images: Tensor) -> "list[Tensor]":
        return list(self.body(images))

    def freeze(self, adapted: bool = False) -> None:
        """Keep the weights of the first layers: edges and colours, and the dearest part to train.

        The running statistics of their batch norms follow the imagery, which is seldom like that of the weights.
        Where the imagery has other bands than three colours, or those in another order (`adapted`), the first
        convolution is new to them and learns.
        """
        frozen = self.body.stages[:2] if isinstance(self.body, _TorchvisionBody) else _timm_stem(self.body)
        for part in frozen:
            part.requires_grad_(False)
        if adapted or self.bands != COLOURS:
            parent, name = _first_convolution(self.body)
            getattr(parent, name).requires_grad_(True)


class _TorchvisionBody(nn.Module):
    """Runs the classifier's stages in order and keeps the last map of each stride."""

    def __init__(self, name: str, bands: int) -> None:
        super().__init__()
        import torchvision

        models: Any = torchvision.models
        names = [n for n in dir(models) if n.startswith(FAMILIES) and callable(getattr(models, n))]
        if name not in names:
            raise ValueError("backbone %r cannot be used; use timm:<name> or one of %s" % (name, ", ".join(names)))
        self.stages = nn.ModuleList(_stages(getattr(models, name)(weights=None)))
        if name.startswith("squeezenet"):  # it ends at stride 16
            self.stages.append(nn.MaxPool2d(2, ceil_mode=True))
        _take_bands(self.stages, bands)

    def forward(self, images: Tensor) -> "list[Tensor]":
        maps = [images]
        for stage in self.stages:
            x = stage(maps[-1])
            if x.shape[-1] == maps[-1].shape[-1]:
                maps[-1] = x
            else:
                maps.append(x)
        return maps[1:] if maps[0].shape[-1] == images.shape[-1] else maps


def _timm_body(name: str, bands: int) -> nn.Module:
    import timm

    body: nn.Module = timm.create_model(name, features_only=True, pretrained=False, in_chans=bands)
    return body


def _timm_stem(body: nn.Module) -> "list[nn.Module]":
    """The stem, and in networks made of blocks the first two groups of them."""
    parts: List[Tuple[str, Any]] = list(body.named_children())
    names = ("conv_stem", "bn1", "conv1", "stem", "stem_0", "stem_1")
    stem = [child for name, child in parts if name in names]
    return stem + [group for name, child in parts if name == "blocks" for group in child[:2]]


def _stages(network: Any) -> "list[nn.Module]":
    """The parts of a classifier of torchvision up to its pooling, in the order in which they run."""
    if hasattr(network, "layer4"):  # resnet
        stem = nn.Sequential(network.conv1, network.bn1, network.relu)
        return [stem, network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]
    if hasattr(network, "stage4"):  # shufflenet
        return [network.conv1, network.maxpool, network.stage2, network.stage3, network.stage4, network.conv5]
    if hasattr(network, "trunk_output"):  # regnet
        return [network.stem, *network.trunk_output]
    return list(network.features if hasattr(network, "features") else network.layers)


def _take_bands(body: nn.Module, bands: int) -> None:
    """Replace the first convolution by one of the same shape that takes `bands` bands."""
    if bands == COLOURS:
        return
    parent, name = _first_convolution(body)
    conv = getattr(parent, name)
    shape: Any = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding")}
    setattr(parent, name, nn.Conv2d(bands, conv.out_channels, bias=conv.bias is not None, **shape))


def _first_convolution(body: nn.Module) -> "Tuple[nn.Module, str]":
    """The module that holds it, and its name there."""
    path = next(name for name, part in body.named_modules() if isinstance(part, nn.Conv2d))
    parent, _, name = path.rpartition(".")
    return body.get_submodule(parent), name
