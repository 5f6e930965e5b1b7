"""albumentations' home: one pipeline that moves pixels, boxes and masks together, for any number of bands.

It works on normalised float32 images, so 8-bit, 16-bit and float imagery are changed alike and nothing is clipped.
"""

import os
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

IGNORED = -1  # mask value of a pixel that does not count


class SensorJitter(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Another day: gain and offset of the whole image, and a little of each band."""

    def __init__(self, gain: float = 0.1, offset: float = 0.1, band: float = 0.05, p: float = 0.8) -> None:
        """Half widths of uniform distributions, in standard deviations of the bands."""
        super().__init__(p=p)
        self.gain, self.offset, self.band = gain, offset, band

    def apply(
        self, img: NDArray[np.float32], scale: NDArray[np.float32], shift: NDArray[np.float32], **_: Any
    ) -> NDArray[np.float32]:
        return img * scale + shift

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        bands = params["shape"][2]
        draw = self.random_generator.uniform
        scale = 1 + draw(-self.gain, self.gain) + draw(-self.band, self.band, bands)
        shift = draw(-self.offset, self.offset) + draw(-self.band, self.band, bands)
        return {"scale": np.float32(scale), "shift": np.float32(shift)}


def pipeline(kind: str) -> albumentations.Compose | None:
    """DEFAULT: eight turns and flips of map space, zoom 0.85-1.2, brightness and contrast. NONE: None (F.2)."""
    if kind == "NONE":
        return None
    zoom = albumentations.Affine(
        scale=(0.85, 1.2), keep_ratio=True, p=0.25, interpolation=cv2.INTER_LINEAR, fill=0, fill_mask=IGNORED
    )
    boxes = albumentations.BboxParams(
        format="pascal_voc", label_fields=["labels"], min_visibility=0.3, clip=True, filter_invalid_bboxes=True
    )
    return albumentations.Compose([albumentations.SquareSymmetry(p=1.0), zoom, SensorJitter()], bbox_params=boxes)
