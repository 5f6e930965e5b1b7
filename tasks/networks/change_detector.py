"""Change detector: two dates through one backbone, a U-Net's way up through what differs (Daudt et al. 2018)."""

from typing import Any, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ._backbone import Backbone
from ._segmentation import Climb, Segmenter, conv
from ._stanet import SIZES, WIDTH, SquaresAttention, WholeAttention

SERVES = ("detect_change",)
ATTENTION = {"PAM": SquaresAttention, "BAM": WholeAttention}


def build(
    bands: int,
    classes: int = 1,
    backbone: str = "resnet18",
    decoder: Sequence[int] = (64, 48, 32, 24, 16),
    attention_type: str = "",
    **loss: Any,
) -> nn.Module:
    """`bands`: of one date. `decoder`: depths from stride 16 up to the pixels themselves: change is often a thin edge.

    `attention_type`: at stride 16 each place looks at both dates (Chen and Shi 2020), BAM at all of the tile, PAM at
    squares of four sizes; "" at none. `loss`: mixup, and the options of PixelLoss.
    """
    if attention_type not in ("", *ATTENTION):
        raise ValueError("attention_type is one of %s, not %r" % (", ".join(ATTENTION), attention_type))
    return ChangeDetector(bands, classes, backbone, decoder, attention_type, **loss)


class ChangeDetector(Segmenter):
    """Takes (n, 2 * bands, rows, cols): the bands of the first date, then those of the second."""

    def __init__(
        self, bands: int, classes: int, backbone: str, decoder: Sequence[int], attention: str, **loss: Any
    ) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        channels = [*self.backbone.channels[::-1], bands]  # from coarse to fine
        self.attend = Attend(channels[1], attention) if attention else None
        channels[1] = WIDTH if attention else channels[1]
        depths = [decoder[0], *decoder[1 - len(channels) :]]  # a backbone may begin at stride 4 and have a map less
        self.compare = nn.ModuleList(nn.Sequential(*conv(3 * c, depth, 1)) for c, depth in zip(channels, depths))
        self.climb = Climb(depths[0], depths[1:], depths[1:])
        self.head = nn.Conv2d(depths[-1], classes + 1, 1)

    def logits(self, images: Tensor) -> Tensor:
        dates = torch.cat(images.chunk(2, dim=1))  # one pass: both dates share their batch statistics
        pairs = [m.chunk(2) for m in [*self.backbone(dates)[::-1], dates]]
        if self.attend is not None:
            pairs[1] = self.attend(*pairs[1])
        compared = [compare(torch.cat([(b - a).abs(), a, b], dim=1)) for compare, (a, b) in zip(self.compare, pairs)]
        logits: Tensor = self.head(self.climb(compared[0], compared[1:]))
        return logits


class Attend(nn.Module):
    """Maps of both dates (n, channels, rows, cols) -> (n, WIDTH, rows, cols), each place as both dates explain it."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.narrow = nn.Sequential(*conv(channels, WIDTH, 1))
        self.attention = ATTENTION[kind]()

    def forward(self, one: Tensor, two: Tensor) -> "Tuple[Tensor, Tensor]":
        rows, cols = one.shape[-2:]
        dates = pad(self.narrow(torch.cat([one, two])), (0, -cols % SIZES[-1], 0, -rows % SIZES[-1]), mode="replicate")
        before, after = self.attention(torch.cat(dates.chunk(2), dim=3)).chunk(2, dim=3)
        return before[..., :rows, :cols], after[..., :rows, :cols]
