"""What the options of SSD change about its loss and its first answers."""

from typing import Any

import pytest
import torch

from tasks.networks.ssd import build, focal_loss

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TRUTH = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2])}]


def built(**options: Any) -> Any:
    torch.manual_seed(0)
    return build(3, 2, **options).eval()


@torch.inference_mode()
def loss(**options: Any) -> float:
    return float(built(**options).loss(IMAGES, TRUTH))


def test_the_location_loss_factor_weighs_boxes_against_classes() -> None:
    boxes, classes = loss(location_loss_factor=1.0), loss(location_loss_factor=0.0)
    assert min(boxes, classes) > 0
    assert loss() == pytest.approx(boxes + classes)
    assert loss(location_loss_factor=0.3) == pytest.approx(0.3 * boxes + 0.7 * classes)
    with pytest.raises(ValueError, match="from 0 to 1, not 1.5"):
        built(location_loss_factor=1.5)


def test_the_focal_loss_is_of_all_anchors_per_anchor_that_has_an_object() -> None:
    logits = torch.zeros(2, 3, 3)
    logits[0, 1, 2] = torch.tensor(2.0).log()  # 2, label of the only object of the first image, is named by a half
    matched = [torch.tensor([-1, 0, -2]), torch.tensor([-1, -1, 1])]
    targets = [TRUTH[0], {"labels": torch.tensor([1, 1])}]
    third, half = torch.tensor(3.0).log(), torch.tensor(2.0).log()
    expected = (5 * (2 / 3) ** 2 * third + (1 / 2) ** 2 * half) / 2
    torch.testing.assert_close(focal_loss(logits, targets, matched, 2.0), expected)
    assert loss(focal=2.0) != loss()


def test_no_object_has_a_focal_loss() -> None:
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    assert torch.isfinite(built(focal=2.0).loss(IMAGES, nothing))


def test_the_bias_is_that_of_every_class_but_the_background() -> None:
    maps = [torch.zeros(1, 128, 2, 2)] * 4
    first = built(bias=-4.0).network.head(maps)["cls_logits"]
    assert first.shape[1] == 4 * 2 * 2 * 6  # maps, rows, columns, anchors of each
    assert torch.equal(torch.tensor([0.0, -4, -4]).expand_as(first), first)


def test_drop_hides_from_the_head_in_training_alone() -> None:
    network = built(drop=0.5)
    head, maps = network.network.head, [torch.ones(1, 128, 2, 2)] * 4
    assert torch.equal(head(maps)["cls_logits"], head(maps)["cls_logits"])
    head.train()
    assert not torch.equal(head(maps)["cls_logits"], head(maps)["cls_logits"])
