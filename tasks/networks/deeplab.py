"""DeepLab v3+ (Chen et al. 2018): torchvision's atrous spatial pyramid, and edges out of an early map."""

from typing import Any, Dict, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from ._backbone import Backbone
from ._points import Points
from ._segmentation import Pooled, Segmenter, conv, dilate, scaled

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    depth: int = 96,
    rates: Sequence[int] = (2, 4, 6),
    keep_dilation: bool = False,
    pointrend: bool = False,
    **loss: Any,
) -> nn.Module:
    """`rates`: of the pyramid's dilations, in cells of 32 pixels. `depth`: of the decoder.

    `keep_dilation`: the last map at stride 16 instead of 32, sharper and on a CPU twice as slow. `pointrend`: pixels in
    doubt are named again out of the early map. `loss`: mixup, and the options of PixelLoss.
    """
    return DeepLab(bands, classes, backbone, depth, tuple(rates), keep_dilation, pointrend, **loss)


class DeepLab(Segmenter):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        depth: int,
        rates: Sequence[int],
        keep: bool,
        pointrend: bool,
        **loss: Any,
    ) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        if keep:
            dilate(self.backbone, bands)
        deep, early = self.backbone.channels[-1], self.backbone.channels[1]
        self.pyramid = ASPP(deep, [rate * (2 if keep else 1) for rate in rates], depth)
        self.pyramid.convs[-1] = Pooled(deep, depth, 1)  # torchvision's cannot train on a single chip
        self.edges = nn.Sequential(*conv(early, depth // 4, 1))
        self.decoder = nn.Sequential(*conv(depth + depth // 4, depth), *conv(depth, depth))
        self.head = nn.Conv2d(depth, classes + 1, 1)
        self.points = Points(early, classes + 1) if pointrend else None

    def maps(self, images: Tensor) -> "Dict[str, Tensor]":
        maps = self.backbone(images)
        early = maps[1]  # stride 4
        x = self.decoder(torch.cat([scaled(self.pyramid(maps[-1]), early), self.edges(early)], dim=1))
        return {"logits": self.head(x), "fine": early}
