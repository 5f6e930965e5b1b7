"""The faster gradient is torch's own, and only the layers that gain by it have it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks import convolutions
from tasks.convolutions import Faster


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "LEAST_PIXELS", 30)
    monkeypatch.setattr(convolutions, "LEAST_PAIRS", 12)


def layer(**settings: Any) -> nn.Conv2d:
    torch.manual_seed(1)
    made = nn.Conv2d(4, 6, **({"kernel_size": 3, "padding": 1} | settings))
    return made.to(memory_format=torch.channels_last)


def images(rows: int = 5, cols: int = 7) -> Tensor:
    drawn = torch.randn(3, 4, rows, cols, generator=torch.Generator().manual_seed(2))
    return drawn.contiguous(memory_format=torch.channels_last)


def is_faster(convolution: nn.Module, seen: Tensor) -> bool:
    with Faster():
        answer = convolution(seen)
    return answer.grad_fn is not None and "_Convolution" in type(answer.grad_fn).__name__


def learnt(convolution: nn.Conv2d, seen: Tensor) -> list[Tensor | None]:
    """The answer, and the gradients of image, weight and bias, for a loss in which each pixel counts differently."""
    convolution.zero_grad()
    seen = seen.detach().requires_grad_()
    answer = convolution(seen)
    (answer * torch.linspace(-1, 1, answer.numel()).view_as(answer)).sum().backward()
    return [answer.detach(), seen.grad, *(one.grad for one in convolution.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sides", [(5, 7), (6, 6), (1, 40)])
def test_its_gradients_are_those_of_torch(sides: tuple[int, int], bias: bool) -> None:
    convolution, seen = layer(bias=bias), images(*sides)
    assert is_faster(convolution, seen)
    expected = learnt(convolution, seen)
    with Faster():
        found = learnt(convolution, seen)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)


def test_weights_are_learnt_where_nobody_asks_for_the_gradient_of_the_image() -> None:
    convolution, seen = layer(), images()
    with Faster():
        convolution(seen).sum().backward()
    faster = convolution.weight.grad
    convolution.weight.grad = None
    convolution(seen).sum().backward()
    torch.testing.assert_close(faster, convolution.weight.grad)


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"padding": 2, "dilation": 2},
        {"groups": 2},
        {"kernel_size": 1, "padding": 0},
        {"padding_mode": "reflect"},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(settings: dict[str, Any]) -> None:
    assert not is_faster(layer(**settings), images())


def test_what_gains_nothing_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_faster(layer(), images(4, 7))
    assert not is_faster(layer(), images().contiguous())
    assert not is_faster(layer().double(), images().double())
    assert not is_faster(layer().requires_grad_(False), images().requires_grad_())
    with torch.inference_mode():
        assert not is_faster(layer(), images())
    monkeypatch.setattr(convolutions, "LEAST_PAIRS", 25)
    assert not is_faster(layer(), images())


@pytest.mark.parametrize(
    ("device", "capability", "faster"), [("cpu", "AVX2", True), ("cpu", "AVX512", False), ("cuda", "AVX2", False)]
)
def test_where_onednn_is_fast_and_on_a_gpu_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: str, faster: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert isinstance(convolutions.fastest(torch.device(device)), Faster) == faster
