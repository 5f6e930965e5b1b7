"""DeepLab v3 (Chen et al. 2017) as ArcGIS trains it: torchvision's head over a ResNet held at 1/8. It travels."""

from typing import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from ._resnet import body, dilate


def build(bands: int, classes: int, backbone: str = "resnet101", never: Sequence[int] = ()) -> nn.Module:
    """`never`: positions of classes, background 0, that no pixel gets."""
    return DilatedDeepLab(bands, classes + 1, backbone, never)


class DilatedDeepLab(nn.Module):
    """(n, bands, rows, cols) -> logits (n, classes with background, rows, cols)."""

    def __init__(self, bands: int, classes: int, backbone: str, never: Sequence[int]) -> None:
        super().__init__()
        self.never = list(never)
        self.backbone, width = body(backbone, bands)
        dilate(self.backbone)
        self.classifier = DeepLabHead(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.classifier(self.backbone(images))
        logits = interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
        for k in self.never:
            logits[:, k] = -float("inf")
        return logits
