"""What detectors share: a feature pyramid over any backbone, images as they come, losses in any mode."""

from collections import OrderedDict
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork

from ._backbone import Backbone

STRIDES = (4, 8, 16, 32)
FINE = 20.0  # pixels; smaller objects need the map of stride 4, which costs twice the time
LEAST_SCORE = 0.05  # what detectors answer at all; the raster function's threshold comes on top
OVERLAP = 0.5  # IoU above which the weaker of two boxes of a class is dropped, in networks that need it

RATIOS = (0.5, 1.0, 2.0)  # shapes of the anchors
SCALES = (1.0, 2**0.5)  # and their sizes on a level, half an octave apart

Target = Dict[str, Tensor]


def suggest_pyramid(sides: Sequence[float]) -> "Dict[str, float]":
    """`finest` stride and side of its smaller `anchor`, in pixels: a pyramid that begins at the smaller objects."""
    small = sorted(sides)[len(sides) // 4]
    finest = 4 if small < FINE else 8
    return {"finest": finest, "anchor": round(min(finest * 6.0, max(finest * 2.0, small * 0.8)), 1)}


def strides_from(finest: int) -> "Tuple[int, ...]":
    return STRIDES[STRIDES.index(finest) :]


def anchors(finest: int, anchor: float, ratios: Sequence[float], scales: Sequence[float]) -> AnchorGenerator:
    """On each level every size in every shape; `anchor` is the smallest side, in pixels.

    `ratios`: height by width of each shape. `scales`: sizes on a level, in anchors.
    """
    strides = strides_from(finest)
    sizes = tuple(tuple(anchor * s / finest * scale for scale in scales) for s in strides)
    return AnchorGenerator(sizes, (tuple(ratios),) * len(strides))


class Pyramid(nn.Module):
    """The last `levels` maps of a backbone, each enriched by the coarser ones (Lin et al. 2017)."""

    def __init__(self, backbone: Backbone, levels: int, depth: int) -> None:
        super().__init__()
        self.backbone, self.levels, self.out_channels = backbone, levels, depth
        self.fpn = FeaturePyramidNetwork(backbone.channels[-levels:], depth, norm_layer=nn.BatchNorm2d)

    def forward(self, images: Tensor) -> "Dict[str, Tensor]":
        maps = self.backbone(images)[-self.levels :]
        named = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return {name: m.float() for name, m in self.fpn(named).items()}


class Detector(nn.Module):
    """A detector of torchvision over a `Pyramid`, with the contract of this folder."""

    def __init__(self, network: nn.Module, bands: int) -> None:
        super().__init__()
        self.network: Any = network
        self.network.transform = _AsTheyCome(bands)

    @property
    def backbone(self) -> Backbone:
        backbone: Backbone = self.network.backbone.backbone
        return backbone

    def suppress(self, overlap: float) -> None:
        getattr(self.network, "roi_heads", self.network).nms_thresh = overlap

    def forward(self, images: Tensor) -> "List[Target]":
        found: List[Target] = self.network(list(images.unbind(0)))
        return found

    def loss(self, images: Tensor, targets: "List[Target]") -> Tensor:
        """Sum of torchvision's losses; in eval mode too, with batch statistics left as they are."""
        parts = [self.network, *(getattr(self.network, n) for n in ("rpn", "roi_heads") if hasattr(self.network, n))]
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

    def resize(self, image: Tensor, target: "Optional[Target]" = None) -> "Tuple[Tensor, Optional[Target]]":
        return image, target
