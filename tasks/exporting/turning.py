"""Pixels of a turned chip: resampled once, from the smallest window around it."""

from typing import Any

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from tasks.imagery import Block
from tasks.windows import Place

KINDS = ("uint8", "uint16", "int16", "float32", "float64")  # what OpenCV resamples as it is; others go by float64


def turn_block(block: Block, place: Place) -> Block:
    """Bilinear; a pixel is valid where all that it is made of is valid."""
    valid = _turn(block.valid.astype(np.float32), place, cv2.INTER_LINEAR) > 0.999
    pixels = np.stack([turn(band, place) for band in block.pixels])
    np.copyto(pixels, 0, where=~valid)
    return Block(pixels, valid)


def turn(band: NDArray[Any], place: Place) -> NDArray[Any]:
    """(rows, cols) of the place's reach -> (rows, cols) of the chip, in the same type."""
    if str(band.dtype) in KINDS:
        return _turn(band, place, cv2.INTER_LINEAR)
    turned = _turn(band.astype(np.float64), place, cv2.INTER_LINEAR)
    return np.round(turned).astype(band.dtype)


def turn_classes(index: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """The same for class indexes: nearest neighbour."""
    return _turn(index, place, cv2.INTER_NEAREST).astype(np.uint8)


def _turn(band: NDArray[Any], place: Place, how: int) -> NDArray[Any]:
    """OpenCV counts from the middle of a pixel, the working grid from its corner."""
    left, top = place.reach[:2]
    affine = Affine.translation(-left - 0.5, -top - 0.5) @ place.from_chip @ Affine.translation(0.5, 0.5)
    a, b, c, d, e, f, *_ = affine
    matrix = np.array([[a, b, c], [d, e, f]])
    flags = how | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(band, matrix, place.size, flags=flags, borderMode=cv2.BORDER_REPLICATE))
