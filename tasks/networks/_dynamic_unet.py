"""The U-Net that ArcGIS trains, fastai's dynamic one: a ResNet on the way down, pixel shuffles up. It travels.

image -> stem -> 1/4 -> 1/8 -> 1/16 -> 1/32 -> middle     each step up joins the map of its size on the way down,
image <---------- blocks: shuffle to twice the size <-----+     the last one the image itself
"""

from typing import List, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._resnet import body

JOINED = (2, 4, 5, 6)  # children of a ResNet, with ReLU for 2, whose answers are joined on the way up


def build(bands: int, classes: int, backbone: str = "resnet34", never: Sequence[int] = ()) -> nn.Module:
    """`never`: positions of classes, background 0, that no pixel gets."""
    return DynamicUnet(bands, classes + 1, backbone, never)


class DynamicUnet(nn.Module):
    """(n, bands, rows, cols), rows and cols 32 or more -> logits (n, classes with background, rows, cols)."""

    def __init__(self, bands: int, classes: int, backbone: str, never: Sequence[int]) -> None:
        super().__init__()
        self.never = list(never)
        self.encoder, deepest = body(backbone, bands)
        widths = [64, *(deepest // k for k in (8, 4, 2, 1))]  # of the maps of JOINED, and of the last one
        self.norm = nn.BatchNorm2d(deepest)
        self.middle = nn.Sequential(convolution(deepest, 2 * deepest), convolution(2 * deepest, deepest))
        self.blocks = nn.ModuleList()
        width = deepest
        for k in (3, 2, 1, 0):
            block = Up(width, widths[k], last=k == 0)
            self.blocks.append(block)
            width = block.width
        self.last = nn.Conv2d(width, 4 * width, 1)
        width += bands
        self.inner, self.outer = nn.Conv2d(width, width // 2, 3, padding=1), nn.Conv2d(width // 2, width, 3, padding=1)
        self.scores = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: List[Tensor] = []
        x = images
        for i, child in enumerate(self.encoder):
            x = child(x)
            if i in JOINED:
                maps.append(x)
        x = self.middle(self.norm(x).relu())
        for block in self.blocks:
            x = block(x, maps.pop())
        x = _fitting(shuffled(self.last, x), images)
        x = torch.cat([x, images], 1)
        x = x + self.outer(self.inner(x).relu()).relu()
        logits: Tensor = self.scores(x)
        for k in self.never:
            logits[:, k] = -float("inf")
        return logits


class Up(nn.Module):
    """To twice the size with half the maps, joined with `joined` maps of the way down."""

    def __init__(self, width: int, joined: int, *, last: bool, normed: bool = False) -> None:
        super().__init__()
        self.up, self.norm = nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(joined)
        both = width // 2 + joined
        self.width = both // 2 if last else both
        self.convolve = nn.Sequential(
            convolution(both, self.width, normed), convolution(self.width, self.width, normed)
        )

    def forward(self, x: Tensor, joined: Tensor) -> Tensor:
        x = _fitting(shuffled(self.up, x), joined)
        out: Tensor = self.convolve(torch.cat([x, self.norm(joined)], 1).relu())
        return out


def convolution(bands: int, maps: int, normed: bool = False) -> nn.Sequential:
    """Of 3 x 3, with the statistics of a batch after its ReLU where it is `normed`."""
    layers = [nn.Conv2d(bands, maps, 3, padding=1, bias=not normed), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(maps)] if normed else []))


def shuffled(convolution: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.pixel_shuffle(convolution(x).relu(), 2)


def _fitting(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[-2:] == like.shape[-2:] else interpolate(x, like.shape[-2:], mode="nearest")
