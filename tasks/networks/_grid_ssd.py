"""The single-shot detector that ArcGIS trains: boxes in the cells of a few grids over a tile of one size. It travels.

Parts are named as in its weights.
"""

from itertools import product
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._cell_anchors import LEAST_SCORE, OVERLAP, anchors, best, corners, in_pixels, per_anchor
from ._resnet import body

WIDTH = 256
MOST = 50  # boxes of a class that are looked at in a tile
FORMS = {  # version -> kernels, paddings and strides, in the order in which they are tried
    1: ((3, 2, 5, 4), (0, 1, 2, 3), (1, 2, 3)),
    2: ((3,), (0, 1), (1, 2)),
}


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet34",
    side: int = 224,
    grids: Sequence[int] = (4, 2, 1),
    zooms: Sequence[float] = (0.7, 1.0, 1.3),
    ratios: "Sequence[Sequence[float]]" = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0)),
    version: int = 1,
    box_nms_thresh: float = OVERLAP,
) -> nn.Module:
    """`side`: of the tiles, in pixels. `zooms`, and `ratios` (height, width): sizes of the anchors, in cells."""
    shapes = [(zoom * height, zoom * width) for zoom in zooms for height, width in ratios]
    return GridSSD(bands, classes, backbone, side, grids, shapes, version, box_nms_thresh)


class GridSSD(nn.Module):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        side: int,
        grids: Sequence[int],
        shapes: "List[Tuple[float, float]]",
        version: int,
        overlap: float,
    ) -> None:
        super().__init__()
        self.body, width = body(backbone, bands)
        cells = -(-side // 32)
        if version > 1 and grids[0] > 8 and abs(cells - grids[0]) > 4:  # fine grids: from the stage before
            self.body, width, cells = self.body[:-1], width // 2, -(-side // 16)
        self.head = Head(width, cells, classes + 1, grids, len(shapes), version)
        self.shapes, self.overlap = shapes, overlap

    def suppress(self, overlap: float) -> None:
        self.overlap = overlap

    def forward(self, images: Tensor) -> "List[Dict[str, Tensor]]":
        """Per image boxes (n, 4) xmin ymin xmax ymax in pixels, scores 0-1, labels from 1."""
        boxes, scores = [], []
        for score, box in self.head(self.body(images)):
            grid = box.shape[-1]
            anchor, moves = anchors(grid, grid, self.shapes, box), per_anchor(box, 4).tanh() / 2
            sizes = (moves[..., 2:] + 1) * anchor[:, 2:]
            boxes.append(corners(moves[..., :2] / grid + anchor[:, :2], sizes))
            scores.append(per_anchor(score, score.shape[1] // len(self.shapes)).sigmoid())
        return [_found(*one, images, self.overlap) for one in zip(torch.cat(boxes, 1), torch.cat(scores, 1))]


def _found(boxes: Tensor, scores: Tensor, images: Tensor, overlap: float) -> "Dict[str, Tensor]":
    """`scores`: (anchors, background and classes). Each class by itself: one place can hold two."""
    boxes, found = in_pixels(boxes, images), []
    for label in range(1, scores.shape[1]):
        score, order = scores[:, label].topk(min(MOST, len(scores)))
        order = order[(score > LEAST_SCORE) & (boxes[order, 3] > 0)]
        found.append(best(boxes[order], scores[order, label], torch.full_like(order, label), overlap))
    return {name: torch.cat([one[name] for one in found]) for name in ("boxes", "scores", "labels")}


class Head(nn.Module):
    def __init__(
        self, width: int, cells: int, classes: int, grids: Sequence[int], anchors_per_cell: int, version: int
    ) -> None:
        super().__init__()
        steps = [Step(width, 3, 1, 1)]
        for i, grid in enumerate(grids):
            shrinks = version == 1 or cells > grid or (cells == grid and i == 0)
            form = _form(cells, grid, version) if shrinks else None
            if form is None and version == 1:
                raise ValueError(f"no convolution leads from {cells} to {grid} cells")
            steps.append(Step(WIDTH, *form) if form else Step(WIDTH, 3, 1, 1, grid))
            cells = grid
        self.sconvs = nn.ModuleList(steps)
        self.oconvs = nn.ModuleList([Answer(classes, anchors_per_cell) for _ in grids])

    def forward(self, maps: Tensor) -> "List[Tuple[Tensor, Tensor]]":
        """For each grid the scores and the boxes, (n, anchors of a cell * values, rows, cols)."""
        x, answers = self.sconvs[0](maps.relu()), []
        for step, answer in zip(self.sconvs[1:], self.oconvs):
            x = step(x)
            answers.append(answer(x))
        return answers


def _form(cells: int, grid: int, version: int) -> "Optional[Tuple[int, int, int]]":
    """Kernel, stride and padding of the first convolution that makes one grid of another."""
    if grid == 1:
        return cells, 1, 0
    for kernel, padding, stride in product(*FORMS[version]):
        steps, rest = divmod(cells - kernel + 2 * padding, stride)
        if steps == grid - 1 and (version > 1 or not rest):
            return kernel, stride, padding
    return None


class Step(nn.Module):
    """A convolution; `side`: what the map is scaled to before it, in cells."""

    def __init__(self, width: int, kernel: int, stride: int, padding: int, side: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, WIDTH, kernel, stride=stride, padding=padding)
        self.bn = nn.BatchNorm2d(WIDTH)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(interpolate(x, size=(self.side, self.side)) if self.side else x).relu())
        return normed


class Answer(nn.Module):
    def __init__(self, classes: int, anchors_per_cell: int) -> None:
        super().__init__()
        self.oconv1 = nn.Conv2d(WIDTH, classes * anchors_per_cell, 3, padding=1)
        self.oconv2 = nn.Conv2d(WIDTH, 4 * anchors_per_cell, 3, padding=1)

    def forward(self, x: Tensor) -> "Tuple[Tensor, Tensor]":
        return self.oconv1(x), self.oconv2(x)
