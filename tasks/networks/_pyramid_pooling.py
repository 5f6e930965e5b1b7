"""PSPNet (Zhao et al. 2017) as ArcGIS trains it: a ResNet held at 1/8, pooled to a few sizes. It travels.

Alone it answers at 1/8; with a U-Net's decoder two maps of the way down lead back to the pixels.
"""

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._dynamic_unet import Up, convolution, shuffled
from ._resnet import body, dilate

NARROWED = 512  # maps between the pooling and the decoder


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet50",
    pyramid_sizes: Sequence[int] = (1, 2, 3, 6),
    use_unet: bool = True,
    never: Sequence[int] = (),
) -> nn.Module:
    """`never`: positions of classes, background 0, that no pixel gets."""
    return (PooledUnet if use_unet else PSPNet)(bands, classes + 1, backbone, pyramid_sizes, never)


class PSPNet(nn.Module):
    """(n, bands, rows, cols) -> logits (n, classes with background, rows, cols)."""

    def __init__(self, bands: int, classes: int, backbone: str, sizes: Sequence[int], never: Sequence[int]) -> None:
        super().__init__()
        self.never = list(never)
        self.backbone, deepest = body(backbone, bands)
        dilate(self.backbone)
        self.ppm = Pooling(deepest, sizes)
        self.answer(deepest, classes)

    def answer(self, deepest: int, classes: int) -> None:
        width = -(-deepest // len(self.ppm.features))
        first = nn.Conv2d(self.ppm.width, width, 3, padding=1, bias=False)
        self.final = nn.Sequential(
            *(first, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Conv2d(width, classes, 1))
        )

    def forward(self, images: Tensor) -> Tensor:
        logits = _sized(self.scores(images), images)
        for k in self.never:
            logits[:, k] = -float("inf")
        return logits

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.final(self.ppm(self.backbone(images)))
        return scores


class PooledUnet(PSPNet):
    """The same with a decoder."""

    def answer(self, deepest: int, classes: int) -> None:
        self.narrow = nn.Conv2d(self.ppm.width, NARROWED, 3, padding=1)
        self.norm = nn.BatchNorm2d(NARROWED)
        double = 2 * NARROWED
        self.middle = nn.Sequential(convolution(NARROWED, double, True), convolution(double, NARROWED, True))
        first = Up(NARROWED, deepest // 8, last=False, normed=True)
        second = Up(first.width, 64, last=True, normed=True)
        self.blocks, maps = nn.ModuleList([first, second]), second.width
        self.last = nn.Conv2d(maps, 4 * maps, 1)
        self.final = nn.Sequential(nn.Conv2d(maps, classes, 1, bias=False), nn.BatchNorm2d(classes))

    def scores(self, images: Tensor) -> Tensor:
        half = self.backbone[:3](images)
        quarter = self.backbone[3:5](half)
        x = self.narrow(self.ppm(self.backbone[5:](quarter)))
        x = self.middle(self.norm(x).relu())
        for block, joined in zip(self.blocks, (quarter, half)):
            x = block(x, joined)
        scores: Tensor = self.final(shuffled(self.last, x))
        return scores


class Pooling(nn.Module):
    """The maps beside their means over squares of the tile, `sizes` squares a side."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        each = width // len(sizes)
        self.width = width + each * len(sizes)
        self.features = nn.ModuleList(
            nn.Sequential(
                *(nn.AdaptiveAvgPool2d(n), nn.Conv2d(width, each, 1, bias=False)),
                *(nn.BatchNorm2d(each), nn.ReLU(inplace=True)),
            )
            for n in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(_sized(pool(x), x) for pool in self.features)], 1)


def _sized(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
