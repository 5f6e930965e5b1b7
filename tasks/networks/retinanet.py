"""RetinaNet (Lin et al. 2017), torchvision's: one stage, dense anchors, focal loss; over any backbone."""

from functools import partial
from typing import Sequence

from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead

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
    depth: int = 96,
    convs: int = 2,
    detections: int = 300,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smallest anchor, in pixels.

    `ratios` (height by width) and `scales` (sizes on a level, in anchors): of the anchors.
    `depth`: of pyramid and heads, a multiple of 16. `convs`: layers of a head, 1-4. `detections`: at most, in a tile.
    """
    pyramid = Pyramid(Backbone(backbone, bands), len(strides_from(finest)), depth)
    grid = anchors(finest, anchor, ratios, scales)
    head = RetinaNetHead(depth, grid.num_anchors_per_location()[0], classes + 1, partial(nn.GroupNorm, 16))
    for branch in (head.classification_head, head.regression_head):
        branch.conv = branch.conv[:convs]  # torchvision's four layers take most of the time on small images
    network = RetinaNet(
        pyramid,
        classes + 1,  # labels count from 1, so the first channel stays silent
        anchor_generator=grid,
        head=head,
        score_thresh=LEAST_SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=detections,
    )
    return Detector(network, bands)
