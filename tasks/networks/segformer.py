"""SegFormer (Xie et al. 2021): its all-MLP decoder over any backbone, or over its own transformer, mit_b0 to mit_b2.

The transformer's tensors are named as the authors published them, so a file of their weights fits.
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ._backbone import COLOURS, Backbone
from ._segmentation import Segmenter, conv, scaled

SERVES = ("classify_pixels",)
SIZES = {  # depth of the maps at stride 4, 8, 16, 32; blocks on each
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # a side of the map over that of the keys that its pixels look at


def build(
    bands: int, classes: int, backbone: str = "mit_b0", depth: int = 128, dropout: float = 0.1, **loss: Any
) -> nn.Module:
    """`backbone`: one of SIZES, or as Backbone takes it. `depth`: of the decoder. `dropout`: 0-1, of whole features.

    `loss`: mixup, and the options of PixelLoss.
    """
    return SegFormer(bands, classes, backbone, depth, dropout, **loss)


class SegFormer(Segmenter):
    def __init__(self, bands: int, classes: int, backbone: str, depth: int, dropout: float, **loss: Any) -> None:
        super().__init__(**loss)
        self.backbone = MixTransformer(bands, *SIZES[backbone]) if backbone in SIZES else Backbone(backbone, bands)
        self.project = nn.ModuleList(nn.Conv2d(c, depth, 1) for c in self.backbone.channels[-4:])
        self.fuse = nn.Sequential(*conv(4 * depth, depth, 1), nn.Dropout2d(dropout))
        self.head = nn.Conv2d(depth, classes + 1, 1)

    def logits(self, images: Tensor) -> Tensor:
        maps = [project(m) for project, m in zip(self.project, self.backbone(images)[-4:])]
        logits: Tensor = self.head(self.fuse(torch.cat([scaled(m, maps[0]) for m in maps], dim=1)))
        return logits


class MixTransformer(nn.Module):
    """A hierarchical transformer without position codes: maps at stride 4, 8, 16, 32, as a Backbone gives them."""

    def __init__(self, bands: int, depths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.bands = list(depths), bands
        for i, (before, depth, count) in enumerate(zip([bands, *depths], depths, blocks)):
            heads, reduction = HEADS[i], REDUCTIONS[i]
            self.add_module("patch_embed%d" % (i + 1), _Patches(before, depth, *((3, 2) if i else (7, 4))))
            self.add_module("block%d" % (i + 1), nn.ModuleList(_Block(depth, heads, reduction) for _ in range(count)))
            self.add_module("norm%d" % (i + 1), nn.LayerNorm(depth, eps=1e-6))

    @property
    def body(self) -> nn.Module:
        """What pretrained weights go into."""
        return self

    def forward(self, x: Tensor) -> "list[Tensor]":
        maps = []
        for i in range(1, 5):
            patches, blocks, norm = (getattr(self, "%s%d" % (part, i)) for part in ("patch_embed", "block", "norm"))
            tokens, rows, cols = patches(x)
            for block in blocks:
                tokens = block(tokens, rows, cols)
            x = _as_map(norm(tokens), rows, cols)
            maps.append(x)
        return maps

    def freeze(self, adapted: bool = False) -> None:
        """Keep what is before stride 8 as it was trained; the first convolution learns where the bands are others."""
        for name in ("patch_embed1", "block1", "norm1"):
            getattr(self, name).requires_grad_(False)
        if adapted or self.bands != COLOURS:
            self.get_submodule("patch_embed1.proj").requires_grad_(True)


class _Patches(nn.Module):
    """Overlapping patches as tokens (n, rows * cols, depth)."""

    def __init__(self, channels: int, depth: int, side: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, depth, side, stride, padding=side // 2)
        self.norm = nn.LayerNorm(depth)

    def forward(self, x: Tensor) -> "tuple[Tensor, int, int]":
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[2], x.shape[3]


class _Block(nn.Module):
    def __init__(self, depth: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(depth, eps=1e-6)
        self.attn = _Attention(depth, heads, reduction)
        self.norm2 = nn.LayerNorm(depth, eps=1e-6)
        self.mlp = _Mlp(depth, 4 * depth)

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        x = x + self.attn(self.norm1(x), rows, cols)
        out: Tensor = x + self.mlp(self.norm2(x), rows, cols)
        return out


class _Attention(nn.Module):
    """Every pixel looks at all others, in a map that is `reduction` times smaller on each side."""

    def __init__(self, depth: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv, self.proj = nn.Linear(depth, depth), nn.Linear(depth, 2 * depth), nn.Linear(depth, depth)
        if reduction > 1:
            self.sr = nn.Conv2d(depth, depth, reduction, reduction)
            self.norm = nn.LayerNorm(depth)

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        seen = x
        if self.reduction > 1:
            seen = self.norm(self.sr(_as_map(x, rows, cols)).flatten(2).transpose(1, 2))
        keys, values = self.kv(seen).chunk(2, dim=-1)
        answer = scaled_dot_product_attention(self._split(self.q(x)), self._split(keys), self._split(values))
        out: Tensor = self.proj(answer.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class _Mlp(nn.Module):
    """A small network for each pixel; its depthwise convolution tells the pixels where they are."""

    def __init__(self, depth: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(depth, hidden), nn.Linear(hidden, depth)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        x = self.dwconv["dwconv"](_as_map(self.fc1(x), rows, cols)).flatten(2).transpose(1, 2)
        out: Tensor = self.fc2(nn.functional.gelu(x))
        return out


def _as_map(tokens: Tensor, rows: int, cols: int) -> Tensor:
    """(n, rows * cols, depth) -> (n, depth, rows, cols)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, rows, cols)
