"""Faster R-CNN (Ren et al. 2015), torchvision's, on a feature pyramid (Lin et al. 2017) over any backbone."""

from collections import OrderedDict
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from ._backbone import Backbone

SERVES = ("detect_objects",)
STRIDES = (4, 8, 16, 32)
FINE = 20.0  # pixels; smaller objects need the map of stride 4, which costs twice the time


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    finest: int = 4,
    anchor: float = 16.0,
    depth: int = 128,
    detections: int = 300,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side of its smaller anchor, in pixels.

    `depth`: of the pyramid. `detections`: at most, in a tile.
    """
    return Detector(bands, classes, backbone, finest, anchor, depth, detections)


def suggest(sides: Sequence[float]) -> "Dict[str, float]":
    """A pyramid that begins at the smaller objects."""
    small = sorted(sides)[len(sides) // 4]
    finest = 4 if small < FINE else 8
    return {"finest": finest, "anchor": round(min(finest * 6.0, max(finest * 2.0, small * 0.8)), 1)}


class Detector(nn.Module):
    def __init__(
        self, bands: int, classes: int, backbone: str, finest: int, anchor: float, depth: int, detections: int
    ) -> None:
        super().__init__()
        strides = STRIDES[STRIDES.index(finest) :]
        sizes = tuple((anchor * s / finest, anchor * s / finest * 2**0.5) for s in strides)
        self.network = FasterRCNN(
            _Pyramid(Backbone(backbone, bands), len(strides), depth),
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides)),
            box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=7, sampling_ratio=1),
            box_head=_BoxHead(depth),
            box_predictor=_BoxPredictor(512, classes + 1),
            rpn_pre_nms_top_n_train=1000,
            rpn_pre_nms_top_n_test=1000,
            rpn_post_nms_top_n_train=500,
            rpn_post_nms_top_n_test=500,
            box_batch_size_per_image=128,
            box_detections_per_img=detections,
            box_score_thresh=0.05,
            box_nms_thresh=0.5,
        )
        self.network.transform = _AsTheyCome(bands)

    @property
    def backbone(self) -> Backbone:
        backbone: Backbone = self.network.backbone.backbone
        return backbone

    def forward(self, images: Tensor) -> "List[Dict[str, Tensor]]":
        found: List[Dict[str, Tensor]] = self.network(list(images.unbind(0)))
        return found

    def loss(self, images: Tensor, targets: "List[Dict[str, Tensor]]") -> Tensor:
        """Sum of torchvision's four losses; in eval mode too, with batch statistics left as they are."""
        parts = (self.network, self.network.rpn, self.network.roi_heads)
        before = [part.training for part in parts]
        for part in parts:
            part.training = True
        try:
            losses = self.network(list(images.unbind(0)), targets)
        finally:
            for part, was in zip(parts, before):
                part.training = was
        return torch.stack(list(losses.values())).sum()


class _AsTheyCome(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Images come normalised and in the size of the chips; torchvision would scale them to 800 pixels."""

    def __init__(self, bands: int) -> None:
        super().__init__(1, 1, [0.0] * bands, [1.0] * bands)

    def resize(
        self, image: Tensor, target: "Optional[Dict[str, Tensor]]" = None
    ) -> "Tuple[Tensor, Optional[Dict[str, Tensor]]]":
        return image, target


class _Pyramid(nn.Module):
    def __init__(self, backbone: Backbone, levels: int, depth: int) -> None:
        super().__init__()
        self.backbone, self.levels, self.out_channels = backbone, levels, depth
        self.fpn = FeaturePyramidNetwork(backbone.channels[-levels:], depth, norm_layer=nn.BatchNorm2d)

    def forward(self, images: Tensor) -> "Dict[str, Tensor]":
        maps = self.backbone(images)[-self.levels :]
        named = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return {name: m.float() for name, m in self.fpn(named).items()}


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
