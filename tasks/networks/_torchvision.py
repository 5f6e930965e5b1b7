"""torchvision's own two-stage detectors over a ResNet's feature pyramid, as ArcGIS trains them. It travels.

Images come normalised; they are scaled to the size that the network was trained at, and answers back to the tile.
"""

from typing import Any, Dict, List

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

KINDS = {"FasterRCNN": FasterRCNN, "MaskRCNN": MaskRCNN}


def build(
    bands: int,
    classes: int,
    kind: str = "FasterRCNN",
    backbone: str = "resnet50",
    min_size: float = 800,
    max_size: float = 1333,
    **options: Any,
) -> nn.Module:
    """`min_size`, `max_size`: sides in pixels to which a tile is scaled. `options`: further ones of torchvision's."""
    body = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d)
    if bands != 3:
        body.body.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
    as_they_come: Dict[str, Any] = {"image_mean": [0.0] * bands, "image_std": [1.0] * bands}
    sizes = {"min_size": min_size, "max_size": max_size}
    return TwoStages(KINDS[kind](body, classes + 1, **sizes, **as_they_come, **options))


class TwoStages(nn.Module):
    """Answers of the network with masks as (n, rows, cols), where it draws them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def suppress(self, overlap: float) -> None:
        self.network.roi_heads.nms_thresh = overlap

    def forward(self, images: Tensor) -> "List[Dict[str, Tensor]]":
        answers = self.network(list(images.unbind(0)))
        return [{**found, "masks": found["masks"][:, 0]} if "masks" in found else found for found in answers]
