"""STANet (Chen and Shi 2020) as ArcGIS trains it: two dates through one ResNet, attention over both, their distance.

It travels. Parts are named as in its weights.
"""

from typing import List

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torchvision.models.resnet import ResNet

DEPTH = 96  # maps that each stage of the ResNet gives to the decoder
WIDTH = 64  # maps that are compared
SIZES = (1, 2, 4, 8)  # squares a side in which attention is paid, of the kind PAM
CHANGED = 1.0  # distance from which a pixel changed


def build(bands: int, classes: int = 1, backbone: str = "resnet18", attention: str = "PAM") -> nn.Module:
    """`bands`: of one date. `attention`: PAM, in squares of several sizes, or BAM, over all."""
    if classes != 1:
        raise ValueError(f"this network tells one kind of change, not {classes}")
    return STANet(bands, backbone, attention)


class STANet(nn.Module):
    """(n, 2 * bands, rows, cols), the first date's bands before the second's -> logits (n, 2, rows, cols).

    Rows and cols are multiples of 32 with PAM.
    """

    def __init__(self, bands: int, backbone: str, attention: str) -> None:
        super().__init__()
        whole = getattr(torchvision.models, backbone)(weights=None)
        kind, layers = type(whole.layer1[0]), [len(getattr(whole, f"layer{i}")) for i in (1, 2, 3)]
        self.backbone = ResNet(kind, [*layers, 3])
        del self.backbone.fc
        if bands != 3:
            self.backbone.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        for block, dilation in zip(self.backbone.layer4[1:], (2, 4)):
            layer = block.conv2 if hasattr(block, "conv3") else block.conv1
            layer.dilation = layer.padding = (dilation, dilation)
        self.decoder = Decoder(whole.fc.in_features)
        self.attention = {"PAM": SquaresAttention, "BAM": WholeAttention}[attention]()

    def forward(self, images: Tensor) -> Tensor:
        dates = torch.cat(images.chunk(2, dim=1))
        pair = torch.cat(self.decoder(self._stages(dates)).chunk(2), dim=3)  # one beside the other
        one, two = self.attention(pair).chunk(2, dim=3)
        distance = (one - two + 1e-6).norm(dim=1, keepdim=True)
        distance = interpolate(distance, images.shape[-2:], mode="bilinear", align_corners=True)
        return torch.cat([torch.zeros_like(distance), distance - CHANGED], 1)

    def _stages(self, x: Tensor) -> "List[Tensor]":
        net, stages = self.backbone, []
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            stages.append(x)
        return stages


class Decoder(nn.Module):
    def __init__(self, deepest: int) -> None:
        super().__init__()
        self.dr2, self.dr3, self.dr4, self.dr5 = (Narrowed(deepest // k) for k in (8, 4, 2, 1))
        self.last_conv = nn.Sequential(
            *(nn.Conv2d(4 * DEPTH, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Conv2d(256, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
        )

    def forward(self, stages: "List[Tensor]") -> Tensor:
        two, three, four, five = (dr(x) for dr, x in zip((self.dr2, self.dr3, self.dr4, self.dr5), stages))
        sized = [interpolate(x, two.shape[-2:], mode="bilinear", align_corners=True) for x in (five, three, four)]
        out: Tensor = self.last_conv(torch.cat([sized[0], two, *sized[1:]], 1))
        return out


class Narrowed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, DEPTH, 1, bias=False), nn.BatchNorm2d(DEPTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x)).relu()
        return out


class WholeAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(WIDTH, WIDTH // 8, 1), nn.Conv2d(WIDTH, WIDTH // 8, 1)
        self.value_conv = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, pair: Tensor) -> Tensor:
        return pair + attended(self.query_conv(pair), self.key_conv(pair), self.value_conv(pair), 1)


class SquaresAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Squares(size) for size in SIZES)
        self.conv_bn = nn.Sequential(nn.Conv2d(WIDTH * len(SIZES), WIDTH, 1, bias=False))

    def forward(self, pair: Tensor) -> Tensor:
        out: Tensor = self.conv_bn(torch.cat([stage(pair) for stage in self.stages], 1))
        return out


class Squares(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.f_key, self.f_query = (
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH // 8, 1), nn.BatchNorm2d(WIDTH // 8)) for _ in range(2)
        )
        self.f_value = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, pair: Tensor) -> Tensor:
        return attended(self.f_query(pair), self.f_key(pair), self.f_value(pair), self.size)


def attended(query: Tensor, key: Tensor, value: Tensor, size: int) -> Tensor:
    """Values (n, maps, rows, 2 * cols) as each place of both dates sees them, in its own of `size` squares a side."""
    n, maps, rows, cols = value.shape
    tall, wide = rows // size, cols // (2 * size)

    def squares(x: Tensor) -> Tensor:
        parts = x.reshape(n, -1, size, tall, 2, size, wide).permute(0, 2, 5, 3, 4, 6, 1)
        return parts.reshape(n * size * size, 2 * tall * wide, -1)

    seen = scaled_dot_product_attention(squares(query), squares(key), squares(value))
    return seen.reshape(n, size, size, tall, 2, wide, maps).permute(0, 6, 1, 3, 4, 2, 5).reshape(n, maps, rows, cols)
