"""How far networks look whose fields can be computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from tasks.networks import unet
from tasks.receptive_field import reach


class Everywhere(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(dim=(2, 3), keepdim=True)


class ByPlace(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + torch.arange(images.shape[-1])


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (nn.Conv2d(3, 2, 1), 1),
        (nn.Conv2d(3, 2, 5, padding=2), 5),
        (nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))), 9),
        (nn.Conv2d(3, 2, 3, padding=8, dilation=8), 17),
    ],
)
def test_the_field_of_convolutions_is_their_sum(network: nn.Module, field: int) -> None:
    assert {"ReceptiveField": field, "OutputStride": 32} == reach(network.eval(), bands=3)


def test_a_network_that_looks_everywhere_or_knows_the_place_has_no_field() -> None:
    assert {} == reach(Everywhere(), bands=3)
    assert {} == reach(ByPlace(), bands=3)


@pytest.mark.slow
def test_a_unet_on_resnet18_looks_at_532_pixels() -> None:
    torch.manual_seed(1)
    assert {"ReceptiveField": 532, "OutputStride": 32} == reach(unet.build(bands=4, classes=2).eval(), bands=4)
