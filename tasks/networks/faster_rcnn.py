"""Faster R-CNN (Ren et al. 2015), torchvision's, on a feature pyramid (Lin et al. 2017) over any backbone."""

from inspect import signature
from typing import Any, Dict, List, Sequence, Tuple

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from ._backbone import Backbone
from ._detection import (
    LEAST_SCORE,
    OVERLAP,
    RATIOS,
    SCALES,
    STRIDES,
    Detector,
    Pyramid,
    anchors,
    strides_from,
    suggest_pyramid,
)

SERVES = ("detect_objects",)
STAGES = [  # numbers that torchvision takes for proposals and for boxes, rpn_nms_thresh and so on
    name
    for name, parameter in signature(FasterRCNN).parameters.items()
    if name.startswith(("rpn_", "box_")) and isinstance(parameter.default, (int, float))
]
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
    **stages: Any,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smallest anchor, in pixels.

    `ratios` (height by width) and `scales` (sizes on a level, in anchors): of the anchors.
    `depth`: of the pyramid. `detections`: at most, in a tile. `stages`: numbers as in torchvision, see `STAGES`.
    """
    pyramid = Pyramid(Backbone(backbone, bands), len(strides_from(finest)), depth)
    grid = anchors(finest, anchor, ratios, scales)
    return Detector(FasterRCNN(pyramid, **two_stages(pyramid, classes, grid, detections, stages)), bands)


def two_stages(
    pyramid: Pyramid, classes: int, grid: AnchorGenerator, detections: int, stages: "Dict[str, Any]"
) -> "Dict[str, Any]":
    """Arguments of torchvision's FasterRCNN, and of what is built on it; `stages` are among them."""
    if unknown := sorted(set(stages) - set(STAGES)):
        raise TypeError(f"unknown arguments {', '.join(unknown)}; of the two stages there are {', '.join(STAGES)}")
    return {
        "rpn_anchor_generator": grid,
        "box_roi_pool": roi_pool(pyramid.levels, 7),
        "box_head": _BoxHead(pyramid.out_channels),
        "box_predictor": _BoxPredictor(512, classes + 1),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": 500,
        "rpn_post_nms_top_n_test": 500,
        "box_batch_size_per_image": 128,
        "box_detections_per_img": detections,
        "box_score_thresh": LEAST_SCORE,
        "box_nms_thresh": OVERLAP,
        **stages,
    }


def roi_pool(levels: int, side: int) -> nn.Module:
    """The features of a box, `side` cells wide and high, from the level that fits its size."""
    return RoiPool([str(i) for i in range(levels)], output_size=side, sampling_ratio=1)


class RoiPool(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """It reads the scale of a map off the images as they were padded.

    torchvision's own compares it with the images before: twice the scale where nearly half of a map is padding.
    """

    def forward(self, x: "Dict[str, Tensor]", boxes: "List[Tensor]", image_shapes: Any) -> Tensor:
        finest = STRIDES[-len(self.featmap_names)]
        pooled: Tensor = super().forward(x, boxes, [tuple(finest * side for side in x["0"].shape[-2:])])
        return pooled


class _BoxHead(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        first, second = nn.Linear(depth * 49, 512), nn.Linear(512, 512)
        self.layers = nn.Sequential(
            nn.Flatten(), first, nn.LayerNorm(512), nn.ReLU(), second, nn.LayerNorm(512), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _BoxPredictor(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, classes)
        self.boxes = nn.Linear(width, classes * 4)

    def forward(self, x: Tensor) -> "Tuple[Tensor, Tensor]":
        return self.scores(x).float(), self.boxes(x).float()
