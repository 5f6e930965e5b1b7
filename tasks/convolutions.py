"""A faster gradient for the weights of large 3 x 3 convolutions on a CPU.

Where a processor has no AVX512, oneDNN takes twice as long for it as for the convolution itself if images are
channels_last. Here it is nine matrix products for each image: laid in a frame of empty pixels, it is shifted by another
start in memory. With AVX512 oneDNN is twice as fast as these.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

LEAST_PIXELS = 40 * 40  # of an image; where it has less, or the layer fewer maps, oneDNN is as fast or faster
LEAST_PAIRS = 64 * 64  # of maps in and maps out


def fastest(device: torch.device) -> AbstractContextManager[Any]:
    """`Faster` where it is. By the kind of processor and not by time: a resumed training must choose as before."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return Faster() if slow else nullcontext()


class Faster(TorchFunctionMode):
    """Inside it, large convolutions learn so; the others stay as they are.

    Answers are the same, gradients of weights but for the last digits. A step of FCOS takes 6 to 10 % less. Python
    looks at every call of torch, which only costs on a GPU.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.conv2d and not kwargs and _gains(*args):
            return _Convolution.apply(*args[:3])
        return function(*args, **(kwargs or {}))


def _gains(image: Tensor, weight: Tensor, bias: Any = None, *settings: Any) -> bool:
    """`settings`: stride, padding, dilation and groups, as torch.nn.Conv2d gives them."""
    return (
        settings == ((1, 1), (1, 1), (1, 1), 1)
        and weight.shape[2:] == (3, 3)
        and weight.shape[0] * weight.shape[1] >= LEAST_PAIRS
        and image.shape[2] * image.shape[3] >= LEAST_PIXELS
        and weight.requires_grad
        and torch.is_grad_enabled()
        and image.dtype == weight.dtype == torch.float32
        and image.is_contiguous(memory_format=torch.channels_last)
    )


class _Convolution(torch.autograd.Function):
    """Of stride 1 and with a border of one empty pixel, so that the image keeps its size."""

    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(image, weight)
        return torch.conv2d(image, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Any:
        image, weight = context.saved_tensors
        asked = context.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return (
            torch.conv_transpose2d(gradient, weight, padding=1) if asked[0] else None,
            _of_weights(image, gradient) if asked[1] else None,
            gradient.sum(dim=(0, 2, 3)) if asked[2] else None,
        )


def _of_weights(images: Tensor, gradients: Tensor) -> Tensor:
    """(out, in, 3, 3), of images (n, in, rows, cols) and gradients (n, out, rows, cols)."""
    cols = images.shape[3]
    framed = pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).flatten(1, 2)
    corner = pad(gradients.permute(0, 2, 3, 1), (0, 0, 0, 2)).flatten(1, 2)[:, :-2].transpose(1, 2)
    shifts = [row * (cols + 2) + col for row in range(3) for col in range(3)]
    products = [torch.bmm(corner, framed[:, start : start + corner.shape[2]]).sum(0) for start in shifts]
    return torch.stack(products).view(3, 3, *products[0].shape).permute(2, 3, 0, 1)
