"""PointRend (Kirillov et al. 2020): pixels that are in doubt are named again, out of a finer map. It travels, too."""

from typing import Any, Dict, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

DOUBT = 0.5  # between the two likeliest classes: pixels that are less apart are looked at
DRAWN = 3  # places that are drawn for each that is learnt from
DOUBTED = 0.75  # of the places to learn from: those in doubt; the rest are any
SHARE = 32  # pixels for each place to learn from


class Points(nn.Module):
    def __init__(self, fine: int, classes: int, depths: Sequence[int] = (64, 64, 64)) -> None:
        """`fine`: depth of the finer map. `classes`: with background."""
        super().__init__()
        before = [fine, *depths]
        self.layers = nn.ModuleList(nn.Linear(a + classes, b) for a, b in zip(before, depths))
        self.head = nn.Linear(depths[-1] + classes, classes)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(places, depth), and the logits there (places, classes) -> better logits."""
        x = fine
        for layer in self.layers:
            x = layer(torch.cat([x, coarse], 1)).relu()
        logits: Tensor = self.head(torch.cat([x, coarse], 1))
        return logits

    def refined(self, maps: "Dict[str, Tensor]", like: Tensor) -> Tensor:
        """Logits in the size of `like`: twice as fine at a time, what is in doubt named again.

        It is told by the pixel alone who is in doubt: a fixed number of pixels would depend on the tile.
        """
        logits, fine = maps["logits"].float(), maps["fine"].float()
        while logits.shape[-1] < like.shape[-1]:
            logits = interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
            best = logits.softmax(dim=1).topk(2, dim=1)[0]
            doubted = (best[:, 0] - best[:, 1]) < DOUBT
            named = []
            for one, of, where in zip(logits, fine, doubted):
                rows, cols = where.nonzero(as_tuple=True)
                side = torch.as_tensor([where.shape[1], where.shape[0]], dtype=torch.float32, device=of.device)
                places = 2 * (torch.stack([cols, rows], 1) + 0.5) / side - 1
                before = one[:, rows, cols]
                better = self(at(of[None], places[None])[0].t(), before.t()).t()
                named.append(one.index_put((torch.arange(len(one), device=of.device)[:, None], rows, cols), better))
            logits = torch.stack(named)
        return logits

    def loss(self, maps: "Dict[str, Tensor]", targets: Tensor, criterion: Any) -> Tensor:
        """Of places that are drawn, most of them where the map is in doubt."""
        logits, fine = maps["logits"].float(), maps["fine"].float()
        count = targets.shape[1] * targets.shape[2] // SHARE
        with torch.no_grad():
            drawn = 2 * torch.rand(len(targets), DRAWN * count, 2, device=logits.device) - 1
            best = at(logits, drawn).softmax(dim=1).topk(2, dim=1)[0]
            order = (best[:, 0] - best[:, 1]).argsort(dim=1)[:, : int(DOUBTED * count)]
            doubted = drawn.gather(1, order[..., None].expand(-1, -1, 2))
            places = torch.cat([doubted, drawn[:, : count - doubted.shape[1]]], 1)
            truth = at(targets[:, None].float(), places, "nearest").long()
        coarse = at(logits, places)
        n, depth = coarse.shape[0], fine.shape[1]
        flat = self(at(fine, places).transpose(1, 2).reshape(-1, depth), coarse.transpose(1, 2).flatten(0, 1))
        found: Tensor = flat.reshape(n, count, -1).transpose(1, 2)[:, :, None]
        loss: Tensor = criterion(found, truth)
        return loss


def at(maps: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """(n, depth, rows, cols), and x, y from -1 to 1 (n, places, 2) -> (n, depth, places)."""
    found: Tensor = grid_sample(maps, places[:, :, None], mode=mode, padding_mode="border", align_corners=False)[..., 0]
    return found
