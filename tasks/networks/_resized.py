"""A network that works at another size than its tiles have, and answers in the tile's pixels. It travels."""

from typing import Any, Dict, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Resized(nn.Module):
    """`size`: side in pixels that square tiles are scaled to, rows of others (ArcGIS formats F.2, `resize_to`)."""

    def __init__(self, network: nn.Module, size: int, rows: int = 0) -> None:
        """`rows`: of a tile; a crop of one is scaled by as much as the whole. 0: whatever comes is whole."""
        super().__init__()
        self.network: Any = network
        self.size, self.rows = size, rows

    @property
    def backbone(self) -> Any:
        return self.network.backbone

    def suppress(self, overlap: float) -> None:
        if hasattr(self.network, "suppress"):
            self.network.suppress(overlap)

    def forward(self, images: Tensor) -> Any:
        found, shape = self.network(self._scaled(images)), (images.shape[-2], images.shape[-1])
        if isinstance(found, list):
            return [_objects(one, self._sides(images), shape) for one in found]
        if found.ndim == 4:
            return interpolate(found, size=shape, mode="bilinear", align_corners=False)
        return found

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        if isinstance(targets, list):
            shape = (images.shape[-2], images.shape[-1])
            targets = [_objects(one, shape, self._sides(images)) for one in targets]
        elif targets.ndim == 3:
            targets = _picked(targets, self._sides(images))
        loss: Tensor = self.network.loss(self._scaled(images), targets)
        return loss

    def _sides(self, images: Tensor) -> "Tuple[int, int]":
        """Rows and columns at which the network works; tiles that are not square keep their shape."""
        rows, cols = images.shape[-2:]
        size = round(self.size * rows / (self.rows or rows))
        return size, round(size * cols / rows)

    def _scaled(self, images: Tensor) -> Tensor:
        size = self._sides(images)
        return interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _objects(one: "Dict[str, Tensor]", before: "Tuple[int, int]", after: "Tuple[int, int]") -> "Dict[str, Tensor]":
    """Boxes, and masks where there are some, in pixels of the other size; both are rows and columns."""
    down, right = (new / old for old, new in zip(before, after))
    scaled = dict(one, boxes=one["boxes"] * one["boxes"].new_tensor([right, down, right, down]))
    if "masks" in one:
        scaled["masks"] = _picked(one["masks"], after)
    return scaled


def _picked(maps: Tensor, size: "Tuple[int, int]") -> Tensor:
    """(n, rows, cols) at another size: the pixel in the middle of each of theirs.

    Where two are as near, the one and the other by turns: always the same would move everything by half a pixel.
    """
    for axis, after in enumerate(size, 1):
        before, place = maps.shape[axis], torch.arange(after, device=maps.device)
        middle = torch.div((2 * place + 1) * before - place % 2, 2 * after, rounding_mode="floor")
        maps = maps.index_select(axis, middle)
    return maps
