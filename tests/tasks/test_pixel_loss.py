"""The loss of networks for pixels, by hand."""

import math

import pytest
import torch

from tasks.networks._segmentation import PixelLoss, dice_loss

TRUTH = torch.tensor([[[0, 1, 1, 2, 9]]])  # 9 is no class


def shares(*of_each_pixel: tuple[float, float, float]) -> torch.Tensor:
    """Logits (1, 3, 1, 5) of these probabilities."""
    return torch.tensor(of_each_pixel).T[None, :, None].log()


SEEN = shares((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.5, 0.25, 0.25), (0.25, 0.25, 0.5), (0.9, 0.05, 0.05))


def test_dice_is_the_mean_of_the_classes() -> None:
    each = [1 - (2 * 0.5 + 1) / (1.5 + 1 + 1), 1 - (2 * 0.75 + 1) / (1.25 + 2 + 1), 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)]
    loss = dice_loss(SEEN, TRUTH.where(TRUTH < 9, 0), TRUTH < 9)
    assert sum(each) / 3 == pytest.approx(loss.item())


def test_dice_is_that_of_all_pixels_with_a_class() -> None:
    loss = dice_loss(SEEN, TRUTH.where(TRUTH < 9, 0), TRUTH < 9, "micro")
    assert 1 - (2 * 1.25 + 1) / (2.5 + 3 + 1) == pytest.approx(loss.item())


def test_a_class_that_does_not_occur_does_not_count() -> None:
    truth = torch.tensor([[[0, 1, 1, 0, 9]]])
    each = [1 - (2 * 0.75 + 1) / (1.5 + 2 + 1), 1 - (2 * 0.75 + 1) / (1.25 + 2 + 1)]
    assert sum(each) / 2 == pytest.approx(dice_loss(SEEN, truth.where(truth < 9, 0), truth < 9).item())


@pytest.mark.parametrize(("focal", "each"), [(0.0, [2, 2, 4, 2]), (2.0, [2, 2, 4, 2])])
def test_entropy_is_the_mean_of_the_pixels_by_their_weights(focal: float, each: list[float]) -> None:
    weights = [1.0, 3.0, 2.0]
    entropy = [torch.tensor(n).log() * (1 - 1 / n) ** focal for n in each]
    expected = sum(w * e for w, e in zip([1, 3, 3, 2], entropy, strict=True)) / 9
    assert float(expected) == pytest.approx(PixelLoss(0, focal, weights)(SEEN, TRUTH).item())


def test_dice_comes_on_top_by_its_weight() -> None:
    entropy, both = PixelLoss(0)(SEEN, TRUTH), PixelLoss(0.3, dice_average="micro")(SEEN, TRUTH)
    dice = dice_loss(SEEN, TRUTH.where(TRUTH < 9, 0), TRUTH < 9, "micro")
    assert (entropy + 0.3 * dice).item() == pytest.approx(both.item())


@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_smoothed_labels_are_spread_over_all_classes(focal: float) -> None:
    each = []
    for truth, classes in [
        (0.5, (0.5, 0.25, 0.25)),
        (0.5, (0.25, 0.5, 0.25)),
        (0.25, (0.5, 0.25, 0.25)),
        (0.5, (0.25, 0.25, 0.5)),
    ]:
        entropy = 0.9 * -math.log(truth) + 0.1 * sum(-math.log(share) for share in classes) / 3
        each.append(entropy * (1 - truth) ** focal)
    loss = PixelLoss(0, focal, label_smoothing=0.1)(SEEN, TRUTH)
    assert sum(each) / 4 == pytest.approx(loss.item())


def test_nothing_to_learn_from_is_no_loss() -> None:
    assert PixelLoss()(SEEN, torch.full_like(TRUTH, 9)).item() == pytest.approx(0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_another_share_to_smooth_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing is from 0 to less than 1"):
        PixelLoss(label_smoothing=share)


def test_another_average_is_refused() -> None:
    with pytest.raises(ValueError, match="dice_average is one of macro, micro, not 'mean'"):
        PixelLoss(dice_average="mean")
