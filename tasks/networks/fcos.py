"""FCOS (Tian et al. 2019), torchvision's: every pixel of a feature map predicts a box, without anchors."""

from typing import Dict, Sequence

from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from ._backbone import Backbone
from ._detection import LEAST_SCORE, OVERLAP, Detector, Pyramid, strides_from, suggest_pyramid

SERVES = ("detect_objects",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    finest: int = 4,
    depth: int = 96,
    convs: int = 2,
    detections: int = 300,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8; it answers for objects up to 8 times as long, in pixels.

    `depth`: of pyramid and heads, a multiple of 32. `convs`: layers of a head. `detections`: at most, in a tile.
    """
    strides = strides_from(finest)
    network = FCOS(
        Pyramid(Backbone(backbone, bands), len(strides), depth),
        classes + 1,  # labels count from 1, so the first channel stays silent
        anchor_generator=AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
        head=FCOSHead(depth, 1, classes + 1, convs),
        score_thresh=LEAST_SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=detections,
    )
    return Detector(network, bands)


def suggest(sides: Sequence[float]) -> "Dict[str, float]":
    """A pyramid that begins at the smaller objects."""
    return {"finest": suggest_pyramid(sides)["finest"]}
