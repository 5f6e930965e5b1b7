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
LEVELS = 4  # strides 4, 8, 16, 32


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    anchor_sizes: Sequence[int] = (16, 32, 64, 128),
    depth: int = 128,
    detections: int = 300,
) -> nn.Module:
    """`anchor_sizes`: sides in pixels for strides 4, 8, 16, 32. `depth` of the pyramid. `detections`: most in a tile."""
    return Detector(bands, classes, backbone, anchor_sizes, depth, detections)


def suggest(sides: Sequence[float]) -> "Dict[str, List[int]]":
    """Anchors over the range of the objects' sides in pixels, each twice the last or closer."""
    ranked = sorted(sides)
    low, high = ranked[len(ranked) // 20], ranked[-1 - len(ranked) // 20]
    low, high = max(low, 8.0), max(high, 16.0)
    step = min(2.0, max(1.3, (high / low) ** (1 / (LEVELS - 1))))
    middle = (low * high) ** 0.5
    return {"anchor_sizes": [max(4, round(middle * step ** (i - (LEVELS - 1) / 2))) for i in range(LEVELS)]}


class Detector(nn.Module):
    def __init__(
        self, bands: int, classes: int, backbone: str, anchor_sizes: Sequence[int], depth: int, detections: int
    ) -> None:
        super().__init__()
        pyramid = _Pyramid(Backbone(backbone, bands), depth)
        self.network = FasterRCNN(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in anchor_sizes), ((0.5, 1.0, 2.0),) * LEVELS),
            box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(LEVELS)], output_size=7, sampling_ratio=2),
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
    def __init__(self, backbone: Backbone, depth: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels[-LEVELS:], depth)
        self.out_channels = depth

    def forward(self, images: Tensor) -> "Dict[str, Tensor]":
        maps = self.backbone(images)[-LEVELS:]
        named = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return {name: m.float() for name, m in self.fpn(named).items()}


class _BoxHead(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(depth * 49, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())

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
