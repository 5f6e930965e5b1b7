"""PSPNet (Zhao et al. 2017): what the whole tile shows, in grids of several sizes, helps to name each pixel."""

from typing import Any, Dict, Sequence, Tuple

import torch
from torch import Tensor, nn

from ._backbone import Backbone
from ._points import Points
from ._segmentation import Climb, Pooled, Segmenter, conv

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    pyramid_sizes: Sequence[int] = (1, 2, 3, 6),
    use_unet: bool = True,
    decoder: Sequence[int] = (128, 64, 48, 32),
    unet_aux_loss: bool = False,
    pointrend: bool = False,
    **loss: Any,
) -> nn.Module:
    """`pyramid_sizes`: cells in a row of each grid. `use_unet`: climb through the backbone's maps, for sharp edges.

    `decoder`: depths from stride 16 up to stride 2. `unet_aux_loss`: where it climbs, learn also from what the pyramid
    says alone. `pointrend`: pixels in doubt are named again out of an early map. `loss`: mixup, and the options of
    PixelLoss.
    """
    return PSPNet(bands, classes, backbone, pyramid_sizes, use_unet, decoder, (unet_aux_loss, pointrend), **loss)


class PSPNet(Segmenter):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        sizes: Sequence[int],
        use_unet: bool,
        decoder: Sequence[int],
        extras: "Tuple[bool, bool]",
        **loss: Any,
    ) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        deep, *skips = self.backbone.channels[::-1]
        depth = decoder[0]
        self.grids = nn.ModuleList(Pooled(deep, depth // len(sizes), bins) for bins in sizes)
        self.merge = nn.Sequential(*conv(deep + depth // len(sizes) * len(sizes), depth))
        self.climb = Climb(depth, skips, decoder) if use_unet else None
        self.head = nn.Conv2d(self.climb.channels if self.climb else depth, classes + 1, 3, padding=1)
        aside, pointrend = extras
        self.aside = nn.Conv2d(depth, classes + 1, 1) if aside and use_unet else None
        self.points = Points(self.backbone.channels[-4], classes + 1) if pointrend else None

    def maps(self, images: Tensor) -> "Dict[str, Tensor]":
        deep, *skips = self.backbone(images)[::-1]
        x = self.merge(torch.cat([deep, *(grid(deep) for grid in self.grids)], dim=1))
        maps = {"fine": skips[2], "logits": self.head(x if self.climb is None else self.climb(x, skips))}
        return maps if self.aside is None else {**maps, "aside": self.aside(x)}
