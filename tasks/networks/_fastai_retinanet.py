"""RetinaNet (Lin et al. 2017) as ArcGIS trains it, over a ResNet. It travels. Parts are named as in its weights."""

from typing import Dict, List, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._cell_anchors import LEAST_SCORE, OVERLAP, anchors, best, corners, in_pixels, per_anchor
from ._resnet import body

WIDTH = 256
CELLS = 4  # sides of the middle anchor, so that anchors overlap
VARIANCES = (0.1, 0.1)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet50",
    scales: Sequence[float] = (1.0, 2 ** (-1 / 3), 2 ** (-2 / 3)),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    box_nms_thresh: float = OVERLAP,
) -> nn.Module:
    """`scales` and `ratios` (height by width) of the anchors in each cell."""
    shapes = [(CELLS * s * r**0.5, CELLS * s * r**-0.5) for r in ratios for s in scales]
    return FastaiRetinaNet(bands, classes, backbone, shapes, box_nms_thresh)


class FastaiRetinaNet(nn.Module):
    def __init__(
        self, bands: int, classes: int, backbone: str, shapes: "List[tuple[float, float]]", overlap: float
    ) -> None:
        super().__init__()
        self.encoder, width = body(backbone, bands)
        self.classes, self.shapes, self.overlap = classes, shapes, overlap
        self.c5top5 = nn.Conv2d(width, WIDTH, 1)
        self.c5top6 = nn.Conv2d(width, WIDTH, 3, stride=2, padding=1)
        self.p6top7 = nn.Sequential(nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1))
        self.merges = nn.ModuleList([Merge(width // 2), Merge(width // 4)])
        self.smoothers = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)])
        self.classifier, self.box_regressor = _head(classes * len(shapes)), _head(4 * len(shapes))

    def suppress(self, overlap: float) -> None:
        self.overlap = overlap

    def forward(self, images: Tensor) -> "List[Dict[str, Tensor]]":
        """Per image boxes (n, 4) xmin ymin xmax ymax in pixels, scores 0-1, labels from 1."""
        boxes, scores = [], []
        for level in self.levels(images):
            rows, cols = level.shape[-2:]
            anchor = anchors(rows, cols, self.shapes, level)
            centres, sizes = anchor[:, :2], anchor[:, 2:]
            # ArcGIS scales a box by the numbers that move its centre, not by the two that were learnt for it
            moves = per_anchor(self.box_regressor(level), 4)[..., :2] * level.new_tensor(VARIANCES)
            boxes.append(corners(sizes * moves + centres, sizes * moves.exp()).clamp(0, 1))
            scores.append(per_anchor(self.classifier(level), self.classes).sigmoid())
        return [_found(*one, images, self.overlap) for one in zip(torch.cat(boxes, 1), torch.cat(scores, 1))]

    def levels(self, images: Tensor) -> "List[Tensor]":
        """Maps of the pyramid, the finest first."""
        maps, x = [], images
        for layer in self.encoder:
            x = layer(x)
            maps.append(x)
        six = self.c5top6(x)
        levels = [self.c5top5(x), six, self.p6top7(six)]
        for merge, finer in zip(self.merges, (maps[-2], maps[-3])):
            levels.insert(0, merge(levels[0], finer))
        return [smooth(level) for smooth, level in zip(self.smoothers, levels)] + levels[3:]


def _found(boxes: Tensor, scores: Tensor, images: Tensor, overlap: float) -> "Dict[str, Tensor]":
    """`scores`: (anchors, classes). One place holds one object, whatever its class."""
    score, label = scores.max(1)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    kept = (score > LEAST_SCORE) & (height * width > 0)
    return best(in_pixels(boxes[kept], images), score[kept], label[kept] + 1, overlap)


class Merge(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_lat = nn.Conv2d(width, WIDTH, 1)

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        double = (2 * coarse.shape[2], 2 * coarse.shape[3])
        return interpolate(self.conv_lat(finer), size=double) + interpolate(coarse, scale_factor=2.0)


def _head(values: int) -> nn.Sequential:
    layers: "List[nn.Module]" = [
        nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(WIDTH)) for _ in range(4)
    ]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, values, 3, padding=1))
