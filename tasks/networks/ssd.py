"""SSD (Liu et al. 2016), torchvision's: one convolution a level and hard negatives, over a feature pyramid."""

from typing import Sequence

from torch import nn
from torchvision.models.detection.ssd import SSD, SSDHead

from ._backbone import Backbone
from ._detection import LEAST_SCORE, OVERLAP, RATIOS, SCALES, Detector, Pyramid, anchors, strides_from, suggest_pyramid

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
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smallest anchor, in pixels.

    `ratios` (height by width) and `scales` (sizes on a level, in anchors): of the anchors.
    `depth`: of the pyramid. `detections`: at most, in a tile.
    """
    strides, grid = (
        strides_from(finest),
        anchors(finest, anchor, ratios, scales),
    )  # boxes in pixels, so any size of image will do
    network = SSD(
        Pyramid(Backbone(backbone, bands), len(strides), depth),
        grid,
        (1, 1),  # the size that images would be scaled to; they are taken as they come
        classes + 1,
        head=SSDHead([depth] * len(strides), grid.num_anchors_per_location(), classes + 1),
        score_thresh=LEAST_SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=detections,
    )
    return Detector(network, bands)
