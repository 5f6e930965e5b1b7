"""What the networks for pixels share: images of any size, the loss, a decoder's way up. It travels, too."""

from typing import Any, Dict, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from ._backbone import Backbone
from ._mixup import mixup_loss
from ._points import Points

AVERAGES = ("macro", "micro")
ASIDE = 0.4  # weight of logits that are only learnt from (Zhao et al. 2017)
NO_CLASS = -1
STRIDE = 32  # pixels of the image for one of a backbone's last map


class Segmenter(nn.Module):
    """A subclass answers `maps(images)` for sizes that STRIDE divides, or only its `logits(images)`."""

    points: "Points | None"  # names the pixels again that its maps leave in doubt

    def __init__(self, mixup: bool = False, **loss: Any) -> None:
        """`mixup`: learn from images laid over one another. `loss`: as PixelLoss takes it."""
        super().__init__()
        self.mixup, self.criterion, self.points = mixup, PixelLoss(**loss), None

    def logits(self, images: Tensor) -> Tensor:
        """(n, classes + 1, any rows, any cols)."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> "Dict[str, Tensor]":
        """`logits`, and where the subclass has them `fine`, for the points, and `aside`, logits to learn from only."""
        return {"logits": self.logits(images)}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes + 1, rows, cols)."""
        maps, padded = self._seen(images)
        logits = maps["logits"] if self.points is None else self.points.refined(maps, padded)
        return scaled(logits, padded)[..., : images.shape[-2], : images.shape[-1]]

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """One number; targets (n, rows, cols) int64, where a value that is no class does not count."""
        if self.mixup and self.training:
            return mixup_loss(self._seen, self._judged, images, targets)
        return self._judged(self._seen(images), targets)

    def _seen(self, images: Tensor) -> "Tuple[Dict[str, Tensor], Tensor]":
        """The maps, and the images as they were looked at."""
        rows, cols = images.shape[-2:]
        padded = pad(images, (0, -cols % STRIDE, 0, -rows % STRIDE), mode="replicate")
        return self.maps(padded), padded

    def _judged(self, seen: "Tuple[Dict[str, Tensor], Tensor]", targets: Tensor) -> Tensor:
        maps, padded = seen
        rows, cols = targets.shape[-2:]
        loss: Tensor = self.criterion(scaled(maps["logits"], padded)[..., :rows, :cols].float(), targets)
        if "aside" in maps and self.training:
            loss = loss + ASIDE * self.criterion(scaled(maps["aside"], padded)[..., :rows, :cols].float(), targets)
        if self.points is not None and self.training:
            around = pad(targets, (0, padded.shape[-1] - cols, 0, padded.shape[-2] - rows), value=NO_CLASS)
            loss = loss + self.points.loss(maps, around, self.criterion)
        return loss


class PixelLoss(nn.Module):
    """Cross entropy, or the focal loss (Lin et al. 2017), and beside it the Dice loss (Milletari et al. 2016)."""

    weights: "Tensor | None"

    def __init__(
        self,
        dice: float = 0.5,
        focal: float = 0.0,
        weights: Sequence[float] = (),
        dice_average: str = "macro",
        label_smoothing: float = 0.0,
    ) -> None:
        """`dice`: weight of the Dice loss. `focal`: gamma, 0 is cross entropy. `weights`: background first.

        `dice_average`: macro, the mean over the classes, or micro, of all their pixels together without background.
        `label_smoothing`: share of the truth that is spread over all classes (Szegedy et al. 2016), for labels that
        are not sure; from 0 to less than 1.
        """
        super().__init__()
        if dice_average not in AVERAGES:
            raise ValueError(f"dice_average is one of {', '.join(AVERAGES)}, not {dice_average!r}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is from 0 to less than 1, not {label_smoothing!r}")
        self.dice, self.focal, self.dice_average, self.label_smoothing = dice, focal, dice_average, label_smoothing
        self.register_buffer("weights", torch.tensor(weights) if weights else None, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        counts = (targets >= 0) & (targets < logits.shape[1])
        targets = targets.masked_fill(~counts, 0)
        each = cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        if self.focal:
            sure = logits.softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
            each = (1 - sure) ** self.focal * each
        weights = counts.float() if self.weights is None else self.weights[targets] * counts
        entropy = (each * weights).sum() / weights.sum().clamp(min=1e-6)  # 0, not nan, where no pixel counts
        if not self.dice:
            return entropy
        return entropy + self.dice * dice_loss(logits, targets, counts, self.dice_average)


def dice_loss(logits: Tensor, targets: Tensor, counts: Tensor, average: str = "macro") -> Tensor:
    """1 - Dice of the pixels that count: its mean over the classes that occur, or that of all pixels with a class."""
    among = counts.unsqueeze(1)
    shares = logits.softmax(dim=1) * among
    truth = torch.zeros_like(shares).scatter_(1, targets.unsqueeze(1), 1.0) * among
    both, each = (shares * truth).sum(dim=(0, 2, 3)), (shares + truth).sum(dim=(0, 2, 3))
    if average == "micro":
        return 1 - (2 * both[1:].sum() + 1) / (each[1:].sum() + 1)
    seen = truth.sum(dim=(0, 2, 3)) > 0
    missed: Tensor = (1 - (2 * both + 1) / (each + 1)) * seen
    return missed.sum() / seen.sum().clamp(min=1)


class Climb(nn.Module):
    """From the deepest map up to the finest, meeting the map of the backbone on every floor (Ronneberger 2015)."""

    def __init__(self, channels: int, skips: Sequence[int], depths: Sequence[int]) -> None:
        """`channels` of the deepest map; `skips`, of the maps above it from coarse to fine; `depths` that result.

        Some backbones begin at stride 4 and have a map less: `channels` says where the way up ends.
        """
        super().__init__()
        inputs = [channels, *depths]
        self.channels = inputs[min(len(skips), len(depths))]
        self.floors = nn.ModuleList(
            nn.Sequential(*conv(i + skip, out), *conv(out, out)) for i, skip, out in zip(inputs, skips, depths)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        for floor, skip in zip(self.floors, skips):
            x = floor(torch.cat([interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], dim=1))
        return x


def conv(channels: int, out: int, side: int = 3) -> "tuple[nn.Module, nn.Module, nn.Module]":
    """Convolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(channels, out, side, padding=side // 2, bias=False)
    return layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True)


class Pooled(nn.Module):
    """What a map shows in a grid of `bins` x `bins`, back in its size. No batch statistics: a cell may be all of it."""

    def __init__(self, channels: int, out: int, bins: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(channels, out, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return scaled(self.layers(x), x)


def scaled(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the rows and columns of `like`, bilinear."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def dilate(backbone: Backbone, bands: int) -> None:
    """Hold the last stage at stride 16: what would halve the map is dilated (Chen et al. 2017), weights stay.

    Where pooling or patches of an even side do it (densenet, vgg, convnext), the backbone stays as it is.
    """
    sides = _sides(backbone, bands)
    halving = [layer for layer, (before, after) in sides.items() if (before, after) == (8, 4)]
    if not halving or not all(isinstance(c, nn.Conv2d) and c.kernel_size[0] % 2 for c in halving):
        return
    for layer, (before, _) in sides.items():
        if layer in halving:
            layer.stride = (1, 1)
        elif before == 4 and isinstance(layer, nn.Conv2d):
            layer.dilation = (2, 2)
            layer.padding = tuple(2 * int(p) for p in layer.padding)


def _sides(backbone: Backbone, bands: int) -> "dict[Any, tuple[int, int]]":
    """Side of the map before and after each layer, for an image of 128 pixels: 8 is stride 16."""
    sides = {}

    def note(layer: nn.Module, given: "tuple[Tensor, ...]", answer: Tensor) -> None:
        sides[layer] = (given[0].shape[-1], answer.shape[-1])

    layers = [m for m in backbone.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = backbone.training
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, bands, 128, 128))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    return sides
