"""Mask R-CNN (He et al. 2017), torchvision's: Faster R-CNN that draws the outline of each object as well."""

from typing import Any, Dict, List, Sequence

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from ._backbone import Backbone
from ._detection import RATIOS, SCALES, Detector, Pyramid, anchors, strides_from, suggest_pyramid
from ._mask_points import refine
from .faster_rcnn import roi_pool, two_stages

SERVES = ("detect_objects",)
INSTANCES = True
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
    pointrend: bool = False,
    **stages: Any,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smallest anchor, in pixels.

    `ratios` (height by width) and `scales` (sizes on a level, in anchors): of the anchors.
    `depth`: of pyramid and mask head. `detections`: at most, in a tile. `pointrend`: outlines out of masks of 112 cells
    a side, not 28, for large objects. `stages`: as Faster R-CNN takes them.
    """
    pyramid = Pyramid(Backbone(backbone, bands), len(strides_from(finest)), depth)
    network = MaskRCNN(
        pyramid,
        mask_roi_pool=roi_pool(pyramid.levels, 14),
        mask_head=MaskRCNNHeads(depth, (depth, depth), 1),
        mask_predictor=MaskRCNNPredictor(depth, depth, classes + 1),
        **two_stages(pyramid, classes, anchors(finest, anchor, ratios, scales), detections, stages),
    )
    if pointrend:
        refine(network.roi_heads, depth, classes + 1, finest)
    return InstanceDetector(network, bands)


class InstanceDetector(Detector):
    """Targets and answers carry "masks": (n, rows, cols) bool in targets, 0-1 in answers."""

    def forward(self, images: Tensor) -> "List[Dict[str, Tensor]]":
        return [{**found, "masks": found["masks"][:, 0]} for found in super().forward(images)]
