"""How far a network for pixels looks, measured: what its tiles need at their borders follows from it.

A network that looks only so far, whatever the size of the picture, gives a pixel the same class in every tile that
holds what it looks at. Squeeze-and-excitation, global pooling and attention look at everything: then there is no such
distance, and tiles stay as they are.
"""

import torch
from torch import Tensor, nn

LENGTH, HEIGHT = 2048, 32  # pixels of the strip that is looked at: longer than the field of common backbones
STRIDES = (32, 64)  # those of backbones; whoever can be moved by less can be moved by these, too
UP = 1e20  # what is far counts so little that a CPU would crawl through denormal numbers
NEAR = 1e-4  # of logits: float32 adds in another order when a picture has another size


def reach(network: nn.Module, bands: int) -> dict[str, int]:
    """`ReceptiveField`, the pixels beside each other that a pixel's logits depend on, and `OutputStride`.

    By the second a picture may be moved, and its logits only move along. Nothing of a network that looks everywhere.
    `network`: (n, bands, rows, cols) -> (n, k, rows, cols), ready for inference.
    """
    width = _width(network, bands)
    if width > LENGTH - 256:
        return {}
    stride = _stride(network, bands)
    return {"ReceptiveField": width, "OutputStride": stride} if stride else {}


def _width(network: nn.Module, bands: int) -> int:
    """Pixels of the strip whose gradient is not 0 for a step of logits in its middle, without that step's own."""
    middle, step = LENGTH // 2, STRIDES[-1]
    strip = _strip(bands, LENGTH).requires_grad_()
    with torch.enable_grad():
        (UP * network(strip)[..., middle : middle + step].sum()).backward()
    assert strip.grad is not None
    seen = strip.grad.abs().amax(dim=(0, 1, 2)).nonzero()
    return max(1, int(seen.max() - seen.min()) + 2 - step) if len(seen) else 1


def _stride(network: nn.Module, bands: int) -> int | None:
    """The first of STRIDES by which the middle of the strip can be moved."""
    strip = _strip(bands, LENGTH)
    with torch.inference_mode():
        whole = network(strip)
        for stride in STRIDES:
            moved = network(strip[..., stride : stride + LENGTH - STRIDES[-1]])
            middle = slice(moved.shape[-1] // 2 - STRIDES[-1], moved.shape[-1] // 2 + STRIDES[-1])
            if _alike(whole[..., stride:][..., middle], moved[..., middle]):
                return stride
    return None


def _strip(bands: int, length: int) -> Tensor:
    return torch.randn(1, bands, HEIGHT, length, generator=torch.Generator().manual_seed(1))


def _alike(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).abs().max() <= NEAR * max(1.0, float(one.abs().max())))
