"""U-Net (Ronneberger et al. 2015): a backbone going down, a light decoder coming up through its feature maps."""

from typing import Any, Sequence

from torch import Tensor, nn

from ._backbone import Backbone
from ._segmentation import Climb, Segmenter

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    decoder: Sequence[int] = (128, 64, 48, 32),
    **loss: Any,
) -> nn.Module:
    """`decoder`: from stride 16 up to stride 2. `loss`: mixup, and the options of PixelLoss."""
    return UNet(bands, classes, backbone, decoder, **loss)


class UNet(Segmenter):
    def __init__(self, bands: int, classes: int, backbone: str, decoder: Sequence[int], **loss: Any) -> None:
        super().__init__(**loss)
        self.backbone = Backbone(backbone, bands)
        deepest, *skips = self.backbone.channels[::-1]
        self.climb = Climb(deepest, skips, decoder)
        self.head = nn.Conv2d(self.climb.channels, classes + 1, 3, padding=1)

    def logits(self, images: Tensor) -> Tensor:
        deepest, *skips = self.backbone(images)[::-1]
        logits: Tensor = self.head(self.climb(deepest, skips))
        return logits
