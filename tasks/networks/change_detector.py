"""Change detector: two dates through one backbone, a U-Net's way up through what differs (Daudt et al. 2018)."""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from ._backbone import Backbone
from ._segmentation import Climb, Segmenter, conv

SERVES = ("detect_change",)


def build(
    bands: int,
    classes: int = 1,
    backbone: str = "resnet18",
    decoder: Sequence[int] = (64, 48, 32, 24, 16),
    **loss: Any,
) -> nn.Module:
    """`bands`: of one date. `decoder`: depths from stride 16 up to the pixels themselves: change is often a thin edge.

    `loss`: mixup, and the options of PixelLoss.
    """
    return ChangeDetector(bands, classes, backbone, decoder, **loss)


class ChangeDetector(Segmenter):
    """Takes (n, 2 * bands, rows, cols): the bands of the first date, then those of the second."""

    def __init__(self, bands: int, classes: int, backbone: str, decoder: Sequence[int], **loss: Any) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        channels = [*self.backbone.channels[::-1], bands]  # from coarse to fine
        depths = [decoder[0], *decoder[1 - len(channels) :]]  # a backbone may begin at stride 4 and have a map less
        self.compare = nn.ModuleList(nn.Sequential(*conv(3 * c, depth, 1)) for c, depth in zip(channels, depths))
        self.climb = Climb(depths[0], depths[1:], depths[1:])
        self.head = nn.Conv2d(depths[-1], classes + 1, 1)

    def logits(self, images: Tensor) -> Tensor:
        dates = torch.cat(images.chunk(2, dim=1))  # one pass: both dates share their batch statistics
        pairs = [m.chunk(2) for m in [*self.backbone(dates)[::-1], dates]]
        compared = [compare(torch.cat([(b - a).abs(), a, b], dim=1)) for compare, (a, b) in zip(self.compare, pairs)]
        logits: Tensor = self.head(self.climb(compared[0], compared[1:]))
        return logits
