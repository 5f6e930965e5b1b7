"""PointRend for masks: where the finest map is looked at, and that outlines come out of it."""

import pytest
import torch
from torch import nn

from tasks.networks._mask_points import IN_DOUBT, LEARNT, NAMED, _Predictor, sureness
from tasks.networks._points import Points

STRIDE = 4


def predictor(depth: int = 2, classes: int = 2) -> _Predictor:
    """Over a head that knows nothing."""
    torch.manual_seed(0)
    coarse = nn.Sequential(nn.Conv2d(1, classes, 1), nn.Upsample(scale_factor=2.0))
    return _Predictor(nn.Identity(), coarse, Points(depth, classes), STRIDE)


def test_the_finest_map_is_read_where_the_boxes_lie() -> None:
    rows, cols = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    finest = torch.stack([cols, rows])[None].repeat(2, 1, 1, 1) * STRIDE  # it holds x and y of its pixels
    boxes = [torch.tensor([[20.0, 30, 60, 110], [8, 8, 10, 10]]), torch.tensor([[100.0, 40, 200, 90]])]
    within = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).repeat(3, 1, 1)
    found = predictor()._found(finest, boxes, within)
    expected = torch.tensor([[[40.0, 70], [24, 102]], [[9, 9], [8.2, 9.8]], [[150, 65], [110, 85]]])
    torch.testing.assert_close(found, expected)


def test_no_object_has_no_mask() -> None:
    seen = torch.zeros(0, 1, 14, 14), torch.zeros(2, 2, 16, 16), [torch.zeros(0, 4)] * 2
    assert (0, 2, 112, 112) == predictor().eval()(seen).shape
    assert (0, 2, 112, 112) == predictor().train()(seen).shape


def test_cells_in_doubt_are_looked_at_and_a_quarter_of_those_learnt_from_are_any() -> None:
    logits = torch.full((1, 3, 112 * 112), 5.0)
    logits[0, 2, :5000] = torch.linspace(0, 1, 5000)
    cells, trust = predictor()._doubted(sureness(logits))
    assert list(range(NAMED)) == cells[0].tolist()
    assert [1, 1, 0] == trust[0, [0, NAMED // 2, -1]].tolist()
    (learnt,), trust = predictor()._drawn(sureness(logits))
    assert (trust == 1).all()
    assert LEARNT == len(set(learnt.tolist()))
    assert (learnt[:IN_DOUBT] < 5000).all()
    assert (learnt[IN_DOUBT:] >= 5000).sum() > (LEARNT - IN_DOUBT) / 3


@pytest.mark.slow
def test_a_rim_that_the_mask_head_sees_blurred_is_drawn_out_of_the_finest_map() -> None:
    rows, cols = torch.meshgrid(torch.arange(112) + 0.5, torch.arange(112) + 0.5, indexing="ij")
    truth = torch.hypot(rows - 56, cols - 56) + 6 * torch.sin(8 * torch.atan2(rows - 56, cols - 56)) < 40
    shares = truth[None, None].float()
    finest = nn.functional.interpolate(torch.cat([shares, 1 - shares], 1), size=(64, 64), mode="area")
    pooled = nn.functional.interpolate(shares, size=(14, 14), mode="area")
    drawing = predictor().train()
    seen = pooled, finest, [torch.tensor([[0.0, 0, 256, 256]])]
    optimizer = torch.optim.AdamW(drawing.parameters(), 0.02)
    for _ in range(80):
        loss = nn.functional.binary_cross_entropy_with_logits(drawing(seen)[:, 1], truth[None].float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.inference_mode():
        coarse = nn.functional.interpolate(drawing.predictor(pooled), size=(112, 112), mode="bilinear")
        wrong = [int(((logits[0, 1] > 0) != truth).sum()) for logits in (coarse, drawing.eval()(seen))]
    assert wrong[1] < wrong[0] / 3
