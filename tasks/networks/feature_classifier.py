"""Feature classifier: what an image as a whole shows, one class or several."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ._backbone import Backbone
from ._mixup import mixup_loss

SERVES = ("classify_objects",)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    multilabel: bool = False,
    dropout: float = 0.2,
    smoothing: float = 0.1,
    mixup: bool = False,
) -> nn.Module:
    """`multilabel`: an image may show several classes, or none. `dropout`: share of the features left out, 0-1.

    `smoothing`: share of the truth given to the other classes, 0-1 (Szegedy et al. 2016); labels are seldom all true.
    `mixup`: learn from images laid over one another.
    """
    return FeatureClassifier(bands, classes, backbone, multilabel, dropout, smoothing, mixup)


class FeatureClassifier(nn.Module):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        multilabel: bool,
        dropout: float,
        smoothing: float,
        mixup: bool,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, bands)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * self.backbone.channels[-1], classes))
        self.multilabel, self.smoothing, self.mixup = multilabel, smoothing, mixup

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), of each feature's mean and maximum: an object may fill a small part of its image."""
        maps = self.backbone(images)[-1]
        logits: Tensor = self.head(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))
        return logits

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """One number; targets (n,) int64 class indexes from 0, or (n, classes) of 0 and 1 where `multilabel`."""
        if self.mixup and self.training:
            return mixup_loss(self, self._missed, images, targets)
        return self._missed(self(images), targets)

    def _missed(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if not self.multilabel:
            return cross_entropy(logits, targets, label_smoothing=self.smoothing)
        wanted = targets.float() * (1 - self.smoothing) + self.smoothing / 2
        return binary_cross_entropy_with_logits(logits, wanted)
