"""The layers of a ResNet before its head, as fastai cuts it for the models that ArcGIS trains. It travels."""

from typing import Tuple

import torchvision
from torch import nn


def body(backbone: str, bands: int) -> "Tuple[nn.Sequential, int]":
    """Eight layers, of which the last four are the stages; and the maps that come out, at 1/32."""
    whole = getattr(torchvision.models, backbone)(weights=None)
    if bands != 3:
        whole.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(*list(whole.children())[:-2]), whole.fc.in_features


def dilate(layers: nn.Sequential) -> None:
    """The maps of the last two stages stay at 1/8; each convolution looks as far as it did."""
    for stage, dilation in zip(layers[-2:], (2, 4)):
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
                if layer.kernel_size[0] > 1:
                    layer.dilation = layer.padding = (dilation, dilation)
