"""albumentations' home: one pipeline that moves pixels, boxes and masks together, for any number of bands.

It works on normalised float32 images, so 8-bit, 16-bit and float imagery are changed alike and nothing is clipped.
The pipeline of a training lies in the model folder as `albumentations.save` writes it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from registry.errors import OptionsError
from registry.files import atomic

if TYPE_CHECKING:
    from tasks.train_options import TrainOptions

IGNORED = -1  # mask value of a pixel that does not count
FILE = "augmentation.json"
LABELS = ("labels", "objects")  # what follows the boxes: class indexes, and the places of their masks


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


def pipeline(options: "TrainOptions", *, map_space: bool = True) -> albumentations.Compose | None:
    """What chips go through in training (F.2), None when nothing changes them. Raises OptionsError.

    DEFAULT: the eight turns and flips of map space (elsewhere only left and right change), zoom 0.85-1.2, brightness
    and contrast.
    """
    steps = [*_steps(options, map_space), *_crop(options.chip_size)]
    if not steps:
        return None
    boxes = albumentations.BboxParams(
        format="pascal_voc", label_fields=list(LABELS), min_visibility=0.3, clip=True, filter_invalid_bboxes=True
    )
    return albumentations.Compose(steps, bbox_params=boxes)


def save(steps: albumentations.Compose | None, folder: Path) -> None:
    """Beside the model, so that what was done to its chips can be read, and done again with FILE."""
    if steps is not None:
        with atomic(folder / FILE) as part:
            albumentations.save(steps, part)


def _steps(options: "TrainOptions", map_space: bool) -> list[Any]:
    if options.augmentation == "NONE":
        return []
    if options.augmentation == "CUSTOM":
        return _custom(options)
    if options.augmentation == "FILE":
        return list(_from_file(Path(options.augmentation_file)).transforms)
    turns = albumentations.SquareSymmetry(p=1.0) if map_space else albumentations.HorizontalFlip()
    return [turns, _zoom((0.85, 1.2), 0.25), SensorJitter()]


def _zoom(scale: tuple[float, float], p: float) -> Any:
    return albumentations.Affine(
        scale=scale, keep_ratio=True, p=p, interpolation=cv2.INTER_LINEAR, fill=0, fill_mask=IGNORED
    )


def _crop(size: int | None, p: float = 1.0) -> list[Any]:
    if size is None:
        return []
    return [albumentations.RandomCrop(size, size, pad_if_needed=True, fill=0, fill_mask=IGNORED, p=p)]


def _rotate(value: str, p: float) -> Any:
    degrees = float(value)
    return albumentations.Rotate((-degrees, degrees), fill=0, fill_mask=IGNORED, p=p)


def _light(value: str, p: float) -> Any:
    """ArcGIS counts brightness from 0 to 1, with 0.5 as it is; one deviation of the bands is its 0.25."""
    low, high = _pair(value)
    return SensorJitter(gain=0, offset=4 * max(abs(low - 0.5), abs(high - 0.5)), band=0, p=p)


def _contrast(value: str, p: float) -> Any:
    low, high = _pair(value)
    return SensorJitter(gain=max(1 - low, high - 1), offset=0, band=0, p=p)


CUSTOM: dict[str, Callable[[str, float], Any]] = {  # of augmentation_parameters: value, probability -> transform
    "rotate": _rotate,
    "brightness": _light,
    "contrast": _contrast,
    "zoom": lambda value, p: _zoom(_pair(value), p),
    "crop": lambda value, p: _crop(int(value), p)[0],
}


def _custom(options: "TrainOptions") -> list[Any]:
    """Each as ArcGIS writes it, `value;probability` with more behind it for crop."""
    steps = []
    for name, text in options.augmentation_parameters.items():
        value, p, *_ = [*text.split(";"), "1.0"]
        try:
            steps.append(CUSTOM[name](value, float(p)))
        except KeyError as error:
            do = f"choose among {', '.join(CUSTOM)}"
            raise OptionsError("unknown augmentation parameter", got=name, do=do) from error
        except ValueError as error:
            do = 'write it as value;probability, e.g. "30.0;0.5" or "(0.75,1.5);1.0"'
            raise OptionsError(f"augmentation parameter {name} cannot be read", got=text, do=do) from error
    return steps


def _pair(value: str) -> tuple[float, float]:
    low, high = (float(part) for part in value.strip("() ").split(","))
    return low, high


def _from_file(path: Path) -> albumentations.Compose:
    form = "yaml" if path.suffix in (".yaml", ".yml") else "json"
    do = "write it with albumentations.save, or take augmentation.json of an earlier model"
    try:
        found = albumentations.load(path, data_format=form)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionsError(f"augmentation_file cannot be read ({error})", where=path, do=do) from error
    if not isinstance(found, albumentations.Compose):
        raise OptionsError("augmentation_file holds no pipeline", where=path, got=type(found).__name__, do=do)
    return found
