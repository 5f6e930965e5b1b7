"""A classification network as a source of feature maps, one for each stride 2, 4, 8, 16, 32."""

from typing import Any, List, Tuple

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """`channels[i]` is the depth of the map at stride `2 ** (i + 1)`."""

    def __init__(self, name: str, bands: int) -> None:
        """`name` is a torchvision classifier (`resnet18`, `mobilenet_v2`, ...) or `timm:<name>`."""
        super().__init__()
        self.body = _timm_body(name[5:], bands) if name.startswith("timm:") else _TorchvisionBody(name, bands)
        with torch.no_grad():
            self.eval()
            self.channels = [int(m.shape[1]) for m in self(torch.zeros(1, bands, 64, 64))]
            self.train()

    def forward(self, images: Tensor) -> "list[Tensor]":
        return list(self.body(images))

    def freeze(self) -> None:
        """Keep what is before stride 8 as it was trained: edges and colours, and the dearest part to train."""
        frozen = self.body.stages[:2] if isinstance(self.body, _TorchvisionBody) else _timm_stem(self.body)
        for part in frozen:
            part.requires_grad_(False)


class _TorchvisionBody(nn.Module):
    """Runs the classifier's stages in order and keeps the last map of each stride."""

    def __init__(self, name: str, bands: int) -> None:
        super().__init__()
        import torchvision

        network: Any = getattr(torchvision.models, name)(weights=None)
        stages = list(network.features) if hasattr(network, "features") else _resnet_stages(network)
        _take_bands(stages[0], bands)
        self.stages = nn.ModuleList(stages)

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


def _resnet_stages(network: Any) -> "list[nn.Module]":
    stem = nn.Sequential(network.conv1, network.bn1, network.relu)
    return [stem, network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]


def _take_bands(stage: nn.Module, bands: int) -> None:
    """Replace the first convolution by one of the same shape that takes `bands` bands."""
    if bands == 3:
        return
    parent, name, conv = next(
        (parent, name, child)
        for parent in stage.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d)
    )
    shape: Any = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding")}
    new = nn.Conv2d(bands, conv.out_channels, bias=conv.bias is not None, **shape)
    setattr(parent, name, new)
