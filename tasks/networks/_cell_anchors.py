"""What the one-stage detectors of ArcGIS share: anchors in the cells of a grid over the tile. It travels.

All lengths are shares of the tile's side, rows first, until `in_pixels`.
"""

from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor
from torchvision.ops import nms

LEAST_SCORE = 0.05  # what is answered at all; the raster function's threshold comes on top
OVERLAP = 0.1  # IoU above which the weaker of two boxes is dropped, ArcGIS's own default


def anchors(rows: int, cols: int, shapes: "Sequence[Tuple[float, float]]", like: Tensor) -> Tensor:
    """(rows * cols * shapes, 4): centre, height and width. `shapes`: height and width in cells."""
    y, x = ((torch.arange(n, device=like.device) + 0.5) / n for n in (rows, cols))
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)[:, :, None]
    sizes = torch.tensor(shapes, device=like.device) / torch.tensor([rows, cols], device=like.device)
    n = len(shapes)
    return torch.cat([centres.expand(rows, cols, n, 2), sizes.expand(rows, cols, n, 2)], -1).reshape(-1, 4)


def per_anchor(maps: Tensor, values: int) -> Tensor:
    """(n, anchors of a cell * values, rows, cols) -> (n, anchors, values)."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, values)


def corners(centres: Tensor, sizes: Tensor) -> Tensor:
    """(..., 4): top, left, bottom, right."""
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


def in_pixels(boxes: Tensor, images: Tensor) -> Tensor:
    """(n, 4) xmin ymin xmax ymax."""
    rows, cols = images.shape[-2:]
    return boxes[:, [1, 0, 3, 2]] * boxes.new_tensor([cols, rows, cols, rows])


def best(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float) -> "Dict[str, Tensor]":
    """Without those that a better one overlaps by more."""
    kept = nms(boxes, scores, overlap)
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
