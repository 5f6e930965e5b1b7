"""A transformer that answers each object once, without NMS, in the manner of RT-DETR (Zhao et al. 2023).

    backbone -> attention over the coarsest map, pyramid -> the likeliest cells become queries -> decoder layers,
    each looks at a few points of every map (Zhu et al. 2020), talks with the other queries, and mends its boxes

Inside, boxes are cx cy w h as shares of the image; targets and answers are xmin ymin xmax ymax in pixels.
"""

import math
from collections import OrderedDict
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, grid_sample, logsigmoid, pad
from torchvision.ops import (
    MLP,
    FeaturePyramidNetwork,
    box_convert,
    box_iou,
    generalized_box_iou,
    generalized_box_iou_loss,
)

from ._backbone import Backbone
from ._detection import LEAST_SCORE, Target, strides_from, suggest_pyramid

SERVES = ("detect_objects",)
HEADS, POINTS = 8, 4  # of the attention; places that a head looks at, on each map
COPIES = 4  # cells that learn of one object: many teach faster, the decoder then chooses one
CLASS, DISTANCE, SHAPE = 1.0, 5.0, 2.0  # weights of the losses
suggest = suggest_pyramid

Stage = Tuple[Tensor, Tensor]  # logits (n, queries, classes), boxes (n, queries, 4)


def build(
    bands: int,
    classes: int,
    backbone: str = "resnet18",
    finest: int = 8,
    anchor: float = 16.0,
    depth: int = 128,
    layers: int = 3,
    queries: int = 200,
    detections: int = 300,
) -> nn.Module:
    """`finest`: stride of the first map, 4 or 8. `anchor`: side in pixels at which its boxes begin.

    `depth`: of maps and queries, a multiple of 8. `layers`: of the decoder. `queries`: objects that can be found in a
    tile. `detections`: answers at most; a query may answer for several classes.
    """
    return RtDetr(bands, classes, backbone, finest, anchor, depth, layers, queries, detections)


class RtDetr(nn.Module):
    def __init__(
        self,
        bands: int,
        classes: int,
        backbone: str,
        finest: int,
        anchor: float,
        depth: int,
        layers: int,
        queries: int,
        detections: int,
    ) -> None:
        super().__init__()
        levels = len(strides_from(finest))
        self.queries, self.detections, self.cells = queries, detections, anchor / finest
        self.encoder = _Encoder(Backbone(backbone, bands), levels, depth)
        self.memory = nn.Sequential(nn.Linear(depth, depth), nn.LayerNorm(depth))
        self.position = MLP(4, [depth, depth])
        self.decoder = nn.ModuleList(_DecoderLayer(depth, levels) for _ in range(layers))
        self.heads = nn.ModuleList(_Head(depth, classes) for _ in range(layers + 1))  # the first is for the cells

    @property
    def backbone(self) -> Backbone:
        return self.encoder.backbone

    def forward(self, images: Tensor) -> "List[Target]":
        padded = _padded(images)
        logits, boxes = self._stages(padded)[-1]
        corners = box_convert(boxes, "cxcywh", "xyxy") * _size(padded)
        limits = _size(images)
        return [self._answer(one, where.clamp(min=0).minimum(limits)) for one, where in zip(logits, corners)]

    def loss(self, images: Tensor, targets: "List[Target]") -> Tensor:
        """Sum over the cells and every decoder layer, per object."""
        padded = _padded(images)
        truths = [
            {"boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / _size(padded), "labels": t["labels"] - 1}
            for t in targets
        ]
        cells, *decoded = self._stages(padded)
        losses = [_set_loss(cells, truths, COPIES), *(_set_loss(stage, truths, 1) for stage in decoded)]
        return torch.stack(losses).sum()

    def _stages(self, images: Tensor) -> "List[Stage]":
        """What all cells say, then what each decoder layer says of the best of them."""
        maps = self.encoder(images)
        memory = self.memory(torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1))
        begin = torch.cat([_grid(m, self.cells) for m in maps]).expand(len(images), -1, -1)
        stages = [self.heads[0](memory, begin)]
        best = stages[0][0].amax(dim=2).topk(min(self.queries, memory.shape[1]), dim=1)[1].unsqueeze(2)
        queries = memory.gather(1, best.expand(-1, -1, memory.shape[2]))
        boxes = stages[0][1].gather(1, best.expand(-1, -1, 4))
        for layer, head in zip(self.decoder, list(self.heads)[1:]):
            boxes = boxes.detach()
            queries = layer(queries, self.position(boxes), boxes, maps)
            logits, boxes = head(queries, boxes)
            stages.append((logits, boxes))
        return [(logits.float(), boxes.float()) for logits, boxes in stages]

    def _answer(self, logits: Tensor, boxes: Tensor) -> Target:
        chances = logits.sigmoid().flatten()
        scores, at = chances.topk(min(self.detections, len(chances)))
        at, scores = at[scores > LEAST_SCORE], scores[scores > LEAST_SCORE]
        classes = logits.shape[1]
        query = torch.div(at, classes, rounding_mode="floor")
        return {"boxes": boxes[query], "scores": scores, "labels": at % classes + 1}


class _Encoder(nn.Module):
    """Attention where maps are small, then a pyramid that carries what it saw to the fine ones."""

    def __init__(self, backbone: Backbone, levels: int, depth: int) -> None:
        super().__init__()
        self.backbone, self.levels = backbone, levels
        channels = backbone.channels[-levels:]
        self.top = nn.Sequential(nn.Conv2d(channels[-1], depth, 1, bias=False), nn.BatchNorm2d(depth))
        self.attention = nn.TransformerEncoderLayer(depth, HEADS, 2 * depth, 0.0, "gelu", batch_first=True)
        self.fpn = FeaturePyramidNetwork([*channels[:-1], depth], depth, norm_layer=nn.BatchNorm2d)

    def forward(self, images: Tensor) -> "List[Tensor]":
        *fine, top = self.backbone(images)[-self.levels :]
        top = self.top(top)
        seen = self.attention(top.flatten(2).transpose(1, 2) + _waves(top))
        maps = [*fine, seen.transpose(1, 2).reshape(top.shape)]
        named = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return list(self.fpn(named).values())


class _DecoderLayer(nn.Module):
    def __init__(self, depth: int, levels: int) -> None:
        super().__init__()
        self.talk = nn.MultiheadAttention(depth, HEADS, batch_first=True)
        self.look = _Look(depth, levels)
        self.think = nn.Sequential(nn.Linear(depth, 4 * depth), nn.ReLU(), nn.Linear(4 * depth, depth))
        self.norms = nn.ModuleList(nn.LayerNorm(depth) for _ in range(3))

    def forward(self, queries: Tensor, position: Tensor, boxes: Tensor, maps: "List[Tensor]") -> Tensor:
        placed = queries + position
        queries = self.norms[0](queries + self.talk(placed, placed, queries, need_weights=False)[0])
        queries = self.norms[1](queries + self.look(queries + position, boxes, maps))
        out: Tensor = self.norms[2](queries + self.think(queries))
        return out


class _Look(nn.Module):
    """Deformable attention: each head samples a few points in and around the box of a query, on every map."""

    def __init__(self, depth: int, levels: int) -> None:
        super().__init__()
        self.shape = (HEADS, levels, POINTS)
        self.offsets, self.weights = (nn.Linear(depth, n * HEADS * levels * POINTS) for n in (2, 1))
        self.values, self.out = nn.Conv2d(depth, depth, 1), nn.Linear(depth, depth)
        angles = torch.arange(HEADS) * (2 * math.pi / HEADS)  # at first each head looks into a direction of its own
        rays = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(rays.expand(*self.shape, 2).flatten())

    def forward(self, queries: Tensor, boxes: Tensor, maps: "List[Tensor]") -> Tensor:
        count, asked, depth = queries.shape
        offsets = self.offsets(queries).view(count, asked, *self.shape, 2) / (2 * POINTS)
        weights = self.weights(queries).view(count, asked, HEADS, -1).softmax(-1).view(count, asked, *self.shape)
        placed = boxes[:, :, None, None, None]
        places = (
            (2 * (placed[..., :2] + offsets * placed[..., 2:]) - 1).transpose(1, 2).flatten(0, 1)
        )  # -1 to 1, as grid_sample counts
        shares = weights.transpose(1, 2).flatten(0, 1)
        seen = []
        for level, one in enumerate(maps):
            values = self.values(one).reshape(count * HEADS, depth // HEADS, *one.shape[-2:])
            sampled = grid_sample(values, places[:, :, level].to(values.dtype), align_corners=False)
            seen.append((sampled * shares[:, None, :, level]).sum(dim=3))
        gathered = torch.stack(seen).sum(dim=0).view(count, depth, asked)
        out: Tensor = self.out(gathered.transpose(1, 2))
        return out


class _Head(nn.Module):
    """Class logits, and boxes moved from where they were."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.scores, self.moves = nn.Linear(depth, classes), MLP(depth, [depth, depth, 4])
        nn.init.constant_(self.scores.bias, -math.log(99))  # one in a hundred is an object
        for tensor in list(self.moves.parameters())[-2:]:
            nn.init.zeros_(tensor)

    def forward(self, queries: Tensor, boxes: Tensor) -> Stage:
        return self.scores(queries), (torch.logit(boxes, 1e-4) + self.moves(queries)).sigmoid()


def _set_loss(stage: Stage, truths: "List[Target]", copies: int) -> Tensor:
    """Varifocal loss of the classes, whose aim is the IoU; L1 and generalised IoU of the boxes; per object."""
    logits, boxes = stage
    aim, distance = torch.zeros_like(logits), torch.mul(boxes.sum(), 0)
    for i, truth in enumerate(truths):
        mine, theirs = _match(logits[i].detach(), boxes[i].detach(), truth, copies)
        one, two = boxes[i, mine], truth["boxes"][theirs]
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (one, two)]
        shape = generalized_box_iou_loss(corners[0], corners[1], reduction="sum")
        distance = distance + DISTANCE * (one - two).abs().sum() + SHAPE * shape
        aim[i, mine, truth["labels"][theirs]] = box_iou(corners[0].detach(), corners[1]).diagonal()
    weight = torch.where(aim > 0, aim, 0.75 * logits.detach().sigmoid() ** 2)
    classes = binary_cross_entropy_with_logits(logits, aim, weight=weight, reduction="sum")
    return (CLASS * classes + distance) / max(1, copies * sum(len(truth["labels"]) for truth in truths))


def _match(logits: Tensor, boxes: Tensor, truth: Target, copies: int) -> "Tuple[Tensor, Tensor]":
    """Which queries answer for which objects, at the least total cost; an object is asked for `copies` times."""
    chosen = logits[:, truth["labels"]]
    yes, no = -logsigmoid(chosen), -logsigmoid(-chosen)
    chance = chosen.sigmoid()
    classes = 0.25 * (1 - chance) ** 2 * yes - 0.75 * chance**2 * no
    shape = generalized_box_iou(*(box_convert(b, "cxcywh", "xyxy") for b in (boxes, truth["boxes"])))
    cost = 2 * CLASS * classes + DISTANCE * torch.cdist(boxes, truth["boxes"], p=1) - SHAPE * shape
    rows, cols = _assign(torch.nan_to_num(cost, 1e6).repeat(1, copies).cpu())
    return rows.to(logits.device), (cols % max(1, len(truth["labels"]))).to(logits.device)


def _assign(cost: Tensor) -> "Tuple[Tensor, Tensor]":
    """Rows and columns of the assignment of least cost; without scipy a greedy one, which trains a little slower."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        pairs, cost = [], cost.clone()
        for _ in range(min(cost.shape)):
            row, col = divmod(int(cost.argmin()), cost.shape[1])
            pairs.append((row, col))
            cost[row], cost[:, col] = math.inf, math.inf
        found: Any = zip(*pairs) if pairs else ((), ())
    else:
        found = linear_sum_assignment(cost.numpy())
    rows, cols = (torch.as_tensor(side, dtype=torch.int64) for side in found)
    return rows, cols


def _padded(images: Tensor) -> Tensor:
    rows, cols = images.shape[-2:]
    return pad(images, (0, -cols % 32, 0, -rows % 32))  # the backbone halves five times


def _size(images: Tensor) -> Tensor:
    """(4,) width height width height, pixels."""
    rows, cols = images.shape[-2:]
    return torch.tensor([cols, rows, cols, rows], dtype=torch.float32, device=images.device)


def _grid(one: Tensor, cells: float) -> Tensor:
    """(rows * cols, 4): a box in the middle of every cell of a map, `cells` cells wide and high."""
    rows, cols = one.shape[-2:]
    y, x = torch.meshgrid(torch.arange(rows, device=one.device), torch.arange(cols, device=one.device), indexing="ij")
    x, y = (x.flatten() + 0.5) / cols, (y.flatten() + 0.5) / rows
    sides = [torch.full_like(x, min(0.9, cells / n)) for n in (cols, rows)]
    return torch.stack([x, y, *sides], dim=1)


def _waves(one: Tensor) -> Tensor:
    """(rows * cols, depth): sines and cosines that tell where a cell of a map lies (Vaswani et al. 2017)."""
    depth = one.shape[1] // 4
    boxes = _grid(one, 1.0)
    lengths = torch.pow(100.0, -torch.arange(depth, device=one.device) / depth) * 2 * math.pi
    x, y = (boxes[:, i : i + 1] * lengths for i in (0, 1))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
