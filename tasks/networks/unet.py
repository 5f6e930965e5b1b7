"""U-Net (Ronneberger et al. 2015): a backbone going down, a light decoder coming up through its feature maps."""

from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from ._backbone import Backbone

SERVES = ("classify_pixels",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    decoder: Tuple[int, ...] = (128, 64, 48, 32),
    dice: float = 0.5,
) -> nn.Module:
    """`decoder`: depths from stride 16 up to stride 2. `dice`: share of the Dice loss beside cross entropy, 0-1."""
    return UNet(bands, classes, backbone, tuple(decoder), dice)


class UNet(nn.Module):
    def __init__(self, bands: int, classes: int, backbone: str, decoder: Tuple[int, ...], dice: float) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, bands)
        depths = self.backbone.channels[::-1]
        inputs = [depths[0], *decoder]
        self.ups = nn.ModuleList(_Up(i, skip, out) for i, skip, out in zip(inputs, depths[1:], decoder))
        self.head = nn.Conv2d(decoder[-1], classes + 1, 3, padding=1)
        self.dice = dice

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes + 1, rows, cols)."""
        rows, cols = images.shape[-2:]
        padded = pad(images, (0, -cols % 32, 0, -rows % 32), mode="replicate")  # the backbone halves five times
        logits: Tensor = self._logits(padded)[..., :rows, :cols]
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)[::-1]
        x = maps[0]
        for up, skip in zip(self.ups, maps[1:]):
            x = up(x, skip)
        out: Tensor = interpolate(self.head(x), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return out

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        logits = self(images).float()
        if not bool((targets >= 0).any()):
            return torch.mul(logits.sum(), 0)  # nothing to learn here, and a mean over no pixel would be no number
        entropy = cross_entropy(logits, targets, ignore_index=-1)
        return entropy + self.dice * _dice(logits, targets) if self.dice else entropy


class _Up(nn.Module):
    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*_conv(channels + skip, out), *_conv(out, out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = interpolate(x, size=skip.shape[-2:], mode="nearest")
        merged: Tensor = self.convs(torch.cat([x, skip], dim=1))
        return merged


def _conv(channels: int, out: int) -> "Tuple[nn.Module, nn.Module, nn.Module]":
    return nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - Dice, averaged over the classes that occur (Milletari et al. 2016)."""
    counts = (targets >= 0).unsqueeze(1)
    shares = logits.softmax(dim=1) * counts
    truth = torch.zeros_like(shares).scatter_(1, targets.clamp(min=0).unsqueeze(1), 1.0) * counts
    both, each = (shares * truth).sum(dim=(0, 2, 3)), (shares + truth).sum(dim=(0, 2, 3))
    seen = truth.sum(dim=(0, 2, 3)) > 0
    missed: Tensor = 1 - (2 * both[seen] + 1) / (each[seen] + 1)
    return missed.mean()
