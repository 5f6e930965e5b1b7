"""PSPNet (Zhao et al. 2017): what the whole tile shows, in grids of several sizes, helps to name each pixel."""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from ._backbone import Backbone
from ._segmentation import Climb, Pooled, Segmenter, conv

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    pyramid_sizes: Sequence[int] = (1, 2, 3, 6),
    use_unet: bool = True,
    decoder: Sequence[int] = (128, 64, 48, 32),
    **loss: Any,
) -> nn.Module:
    """`pyramid_sizes`: cells in a row of each grid. `use_unet`: climb through the backbone's maps, for sharp edges.

    `decoder`: depths from stride 16 up to stride 2. `loss`: mixup, and the options of PixelLoss.
    """
    return PSPNet(bands, classes, backbone, pyramid_sizes, use_unet, decoder, **loss)


class PSPNet(Segmenter):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        sizes: Sequence[int],
        use_unet: bool,
        decoder: Sequence[int],
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

    def logits(self, images: Tensor) -> Tensor:
        deep, *skips = self.backbone(images)[::-1]
        x = self.merge(torch.cat([deep, *(grid(deep) for grid in self.grids)], dim=1))
        logits: Tensor = self.head(x if self.climb is None else self.climb(x, skips))
        return logits
