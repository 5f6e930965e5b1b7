"""DeepLab v3 (Chen et al. 2017) as ArcGIS trains it: torchvision's head over a ResNet held at 1/8. It travels."""

from typing import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from ._resnet import body


def build(bands: int, classes: int, backbone: str = "resnet101", never: Sequence[int] = ()) -> nn.Module:
    """`never`: positions of classes, background 0, that no pixel gets."""
    return DilatedDeepLab(bands, classes + 1, backbone, never)


class DilatedDeepLab(nn.Module):
    """(n, bands, rows, cols) -> logits (n, classes with background, rows, cols)."""

    def __init__(self, bands: int, classes: int, backbone: str, never: Sequence[int]) -> None:
        super().__init__()
        self.never = list(never)
        self.backbone, width = body(backbone, bands)
        for stage, dilation in zip(self.backbone[-2:], (2, 4)):
            _dilate(stage, dilation)
        self.classifier = DeepLabHead(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.classifier(self.backbone(images))
        logits = interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
        for k in self.never:
            logits[:, k] = -float("inf")
        return logits


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Every convolution looks as far as it did, over a map that no longer shrinks."""
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
            if layer.kernel_size[0] > 1:
                layer.dilation = layer.padding = (dilation, dilation)
