"""U-Net (Ronneberger et al. 2015): a backbone going down, a light decoder coming up through its feature maps."""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from ._backbone import Backbone
from ._segmentation import Climb, Segmenter, conv, scaled

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    decoder: Sequence[int] = (128, 64, 48, 32),
    detail: int = 0,
    **loss: Any,
) -> nn.Module:
    """`decoder`: from stride 16 up to stride 2. `loss`: mixup, and the options of PixelLoss.

    `detail`: maps made of the image itself, that meet the decoder at stride 1. They tell classes apart by the spectrum
    of each pixel: for many bands, and objects of a few pixels.
    """
    return UNet(bands, classes, backbone, decoder, detail, **loss)


class UNet(Segmenter):
    def __init__(
        self, bands: int, classes: int, backbone: str, decoder: Sequence[int], detail: int, **loss: Any
    ) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        deepest, *skips = self.backbone.channels[::-1]
        self.climb = Climb(deepest, skips, decoder)
        self.detail = Detail(bands, self.climb.channels, detail) if detail else None
        self.head = nn.Conv2d(detail or self.climb.channels, classes + 1, 3, padding=1)

    def logits(self, images: Tensor) -> Tensor:
        deepest, *skips = self.backbone(images)[::-1]
        x = self.climb(deepest, skips)
        logits: Tensor = self.head(x if self.detail is None else self.detail(x, images))
        return logits


class Detail(nn.Module):
    """The decoder's last map, brought to the pixels of the image, beside maps of the image itself."""

    def __init__(self, bands: int, channels: int, depth: int) -> None:
        """`channels` of the decoder's map; `depth` of what results."""
        super().__init__()
        self.fine = nn.Sequential(*conv(bands, depth, 1), *conv(depth, depth))
        self.joined = nn.Sequential(*conv(channels + depth, depth))

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        joined: Tensor = self.joined(torch.cat([scaled(x, images), self.fine(images)], dim=1))
        return joined
