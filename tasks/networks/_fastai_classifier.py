"""The classifier of whole images that ArcGIS trains, fastai's: a ResNet, both ways to pool, two layers. It travels."""

import torch
from torch import Tensor, nn

from ._resnet import body


def build(bands: int, classes: int, backbone: str = "resnet34") -> nn.Module:
    return FastaiClassifier(bands, classes, backbone)


class FastaiClassifier(nn.Module):
    """(n, bands, rows, cols) -> logits (n, classes)."""

    def __init__(self, bands: int, classes: int, backbone: str) -> None:
        super().__init__()
        self.body, width = body(backbone, bands)
        first, last = nn.Linear(2 * width, 512), nn.Linear(512, classes)
        self.head = nn.Sequential(
            *(nn.BatchNorm1d(2 * width), nn.Dropout(0.25), first, nn.ReLU(inplace=True)),
            *(nn.BatchNorm1d(512), nn.Dropout(0.5), last),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        logits: Tensor = self.head(torch.cat([maps.amax(dim=(2, 3)), maps.mean(dim=(2, 3))], 1))
        return logits
