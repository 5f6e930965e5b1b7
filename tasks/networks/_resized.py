"""A network that works at another size than its tiles have, and answers in the tile's pixels. It travels."""

from typing import Any, Dict, List

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Resized(nn.Module):
    """`size`: side in pixels that square tiles are scaled to (ArcGIS formats F.2, `resize_to`)."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network: Any = network
        self.size = size

    @property
    def backbone(self) -> Any:
        return self.network.backbone

    def forward(self, images: Tensor) -> Any:
        found, side = self.network(self._scaled(images)), images.shape[-1]
        if isinstance(found, list):
            return [_objects(one, side / self.size, side) for one in found]
        if found.ndim == 4:
            return interpolate(found, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return found

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        if isinstance(targets, list):
            targets = [_objects(one, self.size / images.shape[-1], self.size) for one in targets]
        elif targets.ndim == 3:
            targets = interpolate(targets[:, None].float(), size=self.size, mode="nearest")[:, 0].long()
        loss: Tensor = self.network.loss(self._scaled(images), targets)
        return loss

    def _scaled(self, images: Tensor) -> Tensor:
        return interpolate(images, size=self.size, mode="bilinear", align_corners=False, antialias=True)


def _objects(one: "Dict[str, Tensor]", factor: float, side: int) -> "Dict[str, Tensor]":
    """Boxes, and masks where there are some, in pixels of the other size."""
    scaled = dict(one, boxes=one["boxes"] * factor)
    if "masks" in one:
        masks: List[Tensor] = [
            interpolate(m[None, None].float(), size=side, mode="nearest")[0, 0] for m in one["masks"]
        ]
        scaled["masks"] = (
            torch.stack(masks).to(one["masks"].dtype) if masks else one["masks"].new_zeros((0, side, side))
        )
    return scaled
