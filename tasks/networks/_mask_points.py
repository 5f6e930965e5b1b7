"""PointRend for the masks of objects (Kirillov et al. 2020): cells in doubt are named again, out of a finer map."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._points import DOUBTED, DRAWN, Points, at

DOUBLINGS = 2  # from the mask head's 28 cells a side to 112
NAMED = 28 * 28  # cells of an object that are named again after each doubling
LEARNT = 14 * 14  # and those it learns from
FADING = 0.25  # share of the range of doubt in which what they are named then counts less and less
LEAST = 0.05  # logits; that range is not narrower
IN_DOUBT = int(DOUBTED * LEARNT)

Seen = Tuple[Tensor, Tensor, List[Tensor]]  # features of the boxes, the finest map, the boxes of each image


def refine(heads: Any, depth: int, classes: int, stride: int) -> None:
    """Have torchvision's RoIHeads draw masks through PointRend.

    `depth` and `stride` are those of the finest map, `classes` with background.
    """
    heads.mask_roi_pool = _Pool(heads.mask_roi_pool)
    heads.mask_predictor = _Predictor(heads.mask_head, heads.mask_predictor, Points(depth, classes), stride)
    heads.mask_head = nn.Identity()


def sureness(logits: Tensor) -> Tensor:
    """(n, classes, cells) -> (n, cells): how far the class that is surest of least is from half and half, in logits."""
    return logits[:, 1:].abs().amin(dim=1)


class _Pool(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: "Dict[str, Tensor]", boxes: "List[Tensor]", sizes: "List[Tuple[int, int]]") -> Seen:
        return self.pool(features, boxes, sizes), next(iter(features.values())), boxes


class _Predictor(nn.Module):
    def __init__(self, head: nn.Module, predictor: nn.Module, points: Points, stride: int) -> None:
        super().__init__()
        self.head, self.predictor, self.points, self.stride = head, predictor, points, stride

    def forward(self, seen: Seen) -> Tensor:
        """Logits of each box (n, classes, 112, 112)."""
        pooled, finest, boxes = seen
        logits: Tensor = self.predictor(self.head(pooled)).float()
        for doubling in range(DOUBLINGS):
            logits = interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
            if not self.training or doubling == DOUBLINGS - 1:
                logits = self._renamed(logits, finest, boxes)
        return logits

    def _renamed(self, logits: Tensor, finest: Tensor, boxes: "Sequence[Tensor]") -> Tensor:
        side, flat = logits.shape[-1], logits.flatten(2)
        picked = self._drawn if self.training else self._doubted
        cells, trust = picked(sureness(flat.detach()))
        of_each_class = cells[:, None].expand(-1, flat.shape[1], -1)
        within = (torch.stack([cells % side, cells // side], dim=2) + 0.5) / side
        before = flat.gather(2, of_each_class).transpose(1, 2)
        fine = self._found(finest, boxes, within)
        better = self.points(fine.flatten(0, 1), before.flatten(0, 1)).reshape(before.shape)
        if self.training and better.requires_grad:
            # torchvision's loss is the mean of all cells: the few that were named again count as much as the rest
            share = cells.shape[1] / side**2
            better.register_hook(lambda gradient: gradient / share)
        named = before + trust[..., None] * (better - before)
        return flat.scatter(2, of_each_class, named.transpose(1, 2)).reshape(logits.shape)

    def _doubted(self, sure: Tensor) -> "Tuple[Tensor, Tensor]":
        """(n, cells) -> the cells of each box to name again, and the weight of what they are named then.

        Those of which the mask is nearly as sure as of the first that is left out weigh less and less: which ones they
        are may hang on the last digit.
        """
        least, cells = sure.topk(NAMED, dim=1, largest=False)
        last = least[:, -1:]
        return cells, ((last - least) / (FADING * last).clamp(min=LEAST)).clamp(max=1)

    def _drawn(self, sure: Tensor) -> "Tuple[Tensor, Tensor]":
        """(n, cells) -> the cells of each box to learn from, a quarter of them any, and their weight, which is one."""
        any_of, rest = torch.rand_like(sure).topk(DRAWN * LEARNT, dim=1)[1].tensor_split([LEARNT - IN_DOUBT], dim=1)
        order = sure.gather(1, rest).topk(IN_DOUBT, dim=1, largest=False)[1]
        cells = torch.cat([rest.gather(1, order), any_of], dim=1)
        return cells, torch.ones_like(cells, dtype=sure.dtype)

    def _found(self, finest: Tensor, boxes: "Sequence[Tensor]", within: Tensor) -> Tensor:
        """The finest map (n, places, depth) at places x, y of the boxes, from 0 to 1."""
        size = torch.as_tensor([finest.shape[3], finest.shape[2]], device=finest.device) * self.stride
        found = []
        for image, of_image, places in zip(finest, boxes, torch.split(within, [b.shape[0] for b in boxes])):
            pixels = of_image[:, None, :2] + places * (of_image[:, None, 2:] - of_image[:, None, :2])
            there = at(image[None].float(), (2 * pixels / size - 1).reshape(1, -1, 2))
            found.append(there[0].t().reshape(*places.shape[:2], image.shape[0]))
        return torch.cat(found)
