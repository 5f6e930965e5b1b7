"""SSD (Liu et al. 2016), torchvision's: one convolution a level and hard negatives, over a feature pyramid."""

from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.detection.ssd import SSD, SSDHead

from ._backbone import Backbone
from ._detection import (
    LEAST_SCORE,
    OVERLAP,
    RATIOS,
    SCALES,
    Detector,
    Pyramid,
    Target,
    anchors,
    strides_from,
    suggest_pyramid,
)

SERVES = ("detect_objects",)
suggest = suggest_pyramid


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    finest: int = 4,
    anchor: float = 16.0,
    ratios: Sequence[float] = RATIOS,
    scales: Sequence[float] = SCALES,
    depth: int = 128,
    detections: int = 300,
    drop: float = 0.0,
    bias: float = 0.0,
    focal: float = 0.0,
    location_loss_factor: Optional[float] = None,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smallest anchor, in pixels.

    `ratios` (height by width) and `scales` (sizes on a level, in anchors): of the anchors.
    `depth`: of the pyramid. `detections`: at most, in a tile.
    `drop`: share of the pyramid's values that the head does not see in training. `bias`: first logit of every class
    but the background; -4 takes nearly all for background. `focal`: gamma of a focal loss of all anchors in place of
    the hard negatives. `location_loss_factor`: weight of the boxes, from 0 to 1, and the rest that of the classes;
    None: both count as they are (ArcGIS formats F.3).
    """
    if location_loss_factor is not None and not 0 <= location_loss_factor <= 1:
        raise ValueError(f"location_loss_factor is from 0 to 1, not {location_loss_factor!r}")
    strides = strides_from(finest)
    grid = anchors(finest, anchor, ratios, scales)  # boxes in pixels, so any size of image will do
    network = Weighed(
        Pyramid(Backbone(backbone, bands), len(strides), depth),
        grid,
        (1, 1),  # the size that images would be scaled to; they are taken as they come
        classes + 1,
        head=Head([depth] * len(strides), grid.num_anchors_per_location(), classes + 1, drop, bias),
        score_thresh=LEAST_SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=detections,
    )
    network.focal, network.location = focal, location_loss_factor
    return Detector(network, bands)


class Head(SSDHead):  # type: ignore[misc]  # torchvision has no types
    def __init__(self, channels: "List[int]", anchors: "List[int]", classes: int, drop: float, bias: float) -> None:
        super().__init__(channels, anchors, classes)
        self.drop = nn.Dropout(drop)
        for layer in self.classification_head.module_list:
            with torch.no_grad():
                layer.bias.view(-1, classes)[:, 1:] += bias

    def forward(self, maps: "List[Tensor]") -> "Dict[str, Tensor]":
        found: Dict[str, Tensor] = super().forward([self.drop(one) for one in maps])
        return found


class Weighed(SSD):  # type: ignore[misc]
    focal = 0.0
    location: "Optional[float]" = None

    def compute_loss(
        self, targets: "List[Target]", found: "Dict[str, Tensor]", anchors: "List[Tensor]", matched: "List[Tensor]"
    ) -> "Dict[str, Tensor]":
        """`matched`: of each image the object of each anchor, negative where it has none."""
        losses: Dict[str, Tensor] = super().compute_loss(targets, found, anchors, matched)
        if self.focal:
            losses["classification"] = focal_loss(found["cls_logits"], targets, matched, self.focal)
        if self.location is None:
            return losses
        boxes, classes = losses["bbox_regression"], losses["classification"]
        return {"bbox_regression": self.location * boxes, "classification": (1 - self.location) * classes}


def focal_loss(logits: Tensor, targets: "List[Target]", matched: "List[Tensor]", gamma: float) -> Tensor:
    """Of the classes of all anchors, per anchor that has an object (Lin et al. 2017). Logits (n, anchors, classes)."""
    truth = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    for one, target, objects in zip(truth, targets, matched):
        one[objects >= 0] = target["labels"][objects[objects >= 0]]
    each = cross_entropy(logits.transpose(1, 2), truth, reduction="none")
    return ((1 - (-each).exp()) ** gamma * each).sum() / (truth > 0).sum().clamp(min=1)
