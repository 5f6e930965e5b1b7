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
