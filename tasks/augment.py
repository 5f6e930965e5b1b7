"""albumentations' home: one pipeline that moves pixels, boxes and masks together, for any number of bands.

It works on normalised float32 images, so 8-bit, 16-bit and float imagery are changed alike and nothing is clipped.
The pipeline of a training lies in the model folder as `albumentations.save` writes it.
"""

import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Sequence
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

Span = float | tuple[float, float]
IGNORED = -1  # mask value of a pixel that does not count
FILE = "augmentation.json"
log = logging.getLogger("dlpk.train")
LABELS = ("labels", "objects")  # what follows the boxes: class indexes, and the places of their masks


class SensorJitter(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Another day: gain and offset of the whole image, and a little of each band; for each of `dates` by itself."""

    def __init__(
        self, gain: Span = 0.1, offset: Span = 0.1, band: float = 0.05, dates: int = 1, p: float = 0.8
    ) -> None:
        """Uniform distributions, in standard deviations of the bands: of the change, or of its size to either side."""
        super().__init__(p=p)
        self.gain, self.offset, self.band, self.dates = gain, offset, band, dates

    def apply(
        self, img: NDArray[np.float32], scale: NDArray[np.float32], shift: NDArray[np.float32], **_: Any
    ) -> NDArray[np.float32]:
        rows, cols, _ = img.shape  # of whole rows: numpy is slow where the last axis is short
        changed = img.reshape(rows, -1) * np.tile(scale, cols) + np.tile(shift, cols)
        return np.asarray(changed.reshape(img.shape), np.float32)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        bands = params["shape"][2]
        draw = self.random_generator.uniform
        each = bands // self.dates
        scale = 1 + draw(*_ends(self.gain), self.dates).repeat(each) + draw(-self.band, self.band, bands)
        shift = draw(*_ends(self.offset), self.dates).repeat(each) + draw(-self.band, self.band, bands)
        return {"scale": np.float32(scale), "shift": np.float32(shift)}


def _ends(span: Span) -> tuple[float, float]:
    low, high = (-span, span) if isinstance(span, int | float) else span
    return low, high


class SwapDates(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """A change is one whichever date comes first: the bands of the second before those of the first."""

    def apply(self, img: NDArray[np.float32], **_: Any) -> NDArray[np.float32]:
        return np.roll(img, img.shape[2] // 2, axis=2)


class Stretched(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """One of albumentations' own, which cuts off what is not 0 to 1: it sees each picture between its own limits."""

    def __init__(self, step: dict[str, Any], p: float = 0.5) -> None:
        """`step`: as albumentations writes it."""
        super().__init__(p=p)
        self.step: Any = step
        self.inner: Any = albumentations.from_dict({"transform": step})

    def set_random_state(self, random_generator: Any, py_random: Any) -> None:
        super().set_random_state(random_generator, py_random)
        self.inner.set_random_state(random_generator, py_random)

    def apply(self, img: NDArray[np.float32], **_: Any) -> NDArray[np.float32]:
        low = img.min()
        span = (img.max() - low) or np.float32(1)
        changed = self.inner(image=(img - low) / span, force_apply=True)["image"]
        return np.asarray(changed * span + low, np.float32)


def pipeline(
    options: "TrainOptions", *, map_space: bool = True, square: bool = True, dates: int = 1, whole: bool = False
) -> albumentations.Compose | None:
    """What chips go through in training (F.2), None when nothing changes them. Raises OptionsError.

    DEFAULT: the eight turns and flips of map space, of chips that are not `square` those that keep their form
    (elsewhere only left and right change), zoom 0.85-1.2, brightness and contrast. Of two dates each has its own
    light, and either may come first. Pictures of `whole` objects are also shifted, and changed more: they are few.
    """
    turns = [albumentations.HorizontalFlip()]
    if map_space:
        turns = [albumentations.SquareSymmetry(p=1.0)] if square else [*turns, albumentations.VerticalFlip()]
    steps = [*_steps(options, turns, dates, whole, square), *_crop(options.chip_size)]
    if not steps:
        return None
    boxes = albumentations.BboxParams(
        format="pascal_voc", label_fields=list(LABELS), min_visibility=0.3, clip=True, filter_invalid_bboxes=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got processor for bboxes")  # some steps leave boxes where they are
        return albumentations.Compose(steps, bbox_params=boxes)


def seed(steps: albumentations.Compose, number: int) -> None:
    """Begin a stream of draws that all steps share; with albumentations' own way each of them would draw the same."""
    steps.set_random_state(np.random.default_rng(number), random.Random(number))


def change(steps: albumentations.Compose, name: str, **chip: Any) -> dict[str, Any]:
    """A chip as the steps leave it. Raises OptionsError where one of them does not know such chips."""
    try:
        changed: dict[str, Any] = steps(**chip)
    except (TypeError, ValueError, RuntimeError, cv2.error) as error:
        bands = chip["image"].shape[2]
        do = "leave that step out of the augmentation"
        raise OptionsError(f"a chip cannot be augmented ({error})", where=name, got=f"{bands} bands", do=do) from error
    return changed


def save(steps: albumentations.Compose | None, folder: Path) -> None:
    """Beside the model, so that what was done to its chips can be read, and done again with FILE."""
    if steps is not None:
        with atomic(folder / FILE) as part:
            albumentations.save(steps, part)


def _steps(options: "TrainOptions", turns: list[Any], dates: int, whole: bool, square: bool) -> list[Any]:
    if options.augmentation == "NONE":
        return []
    if options.augmentation == "CUSTOM":
        return _custom(options)
    if options.augmentation == "FILE":
        return _from_file(Path(options.augmentation_file), square)
    if whole:
        shift = albumentations.Affine(scale=(0.75, 1.3), translate_percent=(-0.1, 0.1), keep_ratio=True, p=1.0, fill=0)
        return [*turns, shift, SensorJitter(gain=0.2, offset=0.2)]
    swap = [SwapDates(p=0.5)] if dates == 2 else []
    return [*turns, _zoom((0.85, 1.2), 0.25), SensorJitter(dates=dates), *swap]


def _zoom(scale: tuple[float, float], p: float) -> Any:
    return albumentations.Affine(
        scale=scale, keep_ratio=True, p=p, interpolation=cv2.INTER_LINEAR, fill=0, fill_mask=IGNORED
    )


def _crop(size: int | None, p: float = 1.0) -> list[Any]:
    """Anywhere, or with probability 1 - p in the middle: all pictures of a batch are of one size."""
    if size is None:
        return []
    pad: dict[str, Any] = {"pad_if_needed": True, "fill": 0, "fill_mask": IGNORED}
    anywhere = albumentations.RandomCrop(size, size, p=p, **pad)
    middle = albumentations.CenterCrop(size, size, p=1 - p, **pad)
    return [anywhere if p == 1 else albumentations.OneOf([anywhere, middle], p=1.0)]


def _flips(p: float) -> Any:
    """Those of the eight turns and flips that keep the form of a chip which is no square."""
    return albumentations.Sequential([albumentations.HorizontalFlip(), albumentations.VerticalFlip()], p=p)


def _rotate(degrees: tuple[float, float], p: float) -> Any:
    return albumentations.Rotate(degrees, fill=0, fill_mask=IGNORED, p=p)


def _light(change: tuple[float, float], p: float) -> Any:
    """ArcGIS counts brightness from 0 to 1, with 0.5 as it is; one deviation of the bands is its 0.25."""
    low, high = change
    return SensorJitter(gain=0, offset=(4 * (low - 0.5), 4 * (high - 0.5)), band=0, p=p)


def _contrast(scale: tuple[float, float], p: float) -> Any:
    low, high = scale
    return SensorJitter(gain=(low - 1, high - 1), offset=0, band=0, p=p)


CUSTOM: dict[str, Callable[[str, float], Any]] = {  # of augmentation_parameters: value, probability -> transform
    "rotate": lambda value, p: _rotate((-float(value), float(value)), p),
    "brightness": lambda value, p: _light(_pair(value), p),
    "contrast": lambda value, p: _contrast(_pair(value), p),
    "zoom": lambda value, p: _zoom(_pair(value), p),
    "crop": lambda value, p: _crop(int(value), p)[0],
}
FASTAI: dict[str, Callable[[Any, float], Any]] = {  # of transforms.json: its first parameter, probability -> transform
    "rotate": lambda degrees, p: _rotate(_span(degrees), p),
    "brightness": lambda change, p: _light(_span(change), p),
    "contrast": lambda scale, p: _contrast(_span(scale), p),
    "zoom": lambda scale, p: _zoom(_span(scale), p),
    "rand_zoom": lambda scale, p: _zoom(_span(scale), p),
    "crop": lambda size, p: _crop(int(size), p)[0],
    "rand_crop": lambda size, p: _crop(int(size), p)[0],
    "flip_lr": lambda _, p: albumentations.HorizontalFlip(p=p),
    "flip_affine": lambda _, p: albumentations.HorizontalFlip(p=p),
    "dihedral": lambda _, p: albumentations.SquareSymmetry(p=p),
    "dihedral_affine": lambda _, p: albumentations.SquareSymmetry(p=p),
}
LONG = {name: lambda _, p: _flips(p) for name in ("dihedral", "dihedral_affine")}  # of chips that are no square
UNFIT = ("FromFloat", "Normalize", "ToFloat", "ToTensor3D", "ToTensorV2")  # chips come normalised, and go on by us
FIRST = {"rotate": "degrees", "brightness": "change", "crop": "size", "rand_crop": "size"}  # of the others: scale


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


def _transforms(path: Path, words: dict[str, Any], square: bool) -> list[Any]:
    """Of `Training` in ArcGIS's transforms.json, fastai's transforms (F.2); p is 1 where it is not said, as there."""
    if words.get("Validation"):
        log.warning("%s: chips to validate with stay as they are; Validation is left out", path)
    steps, known = [], FASTAI if square else FASTAI | LONG
    for name, given in words["Training"].items():
        if name not in known:
            raise OptionsError("unknown transform", where=path, got=name, do=f"choose among {', '.join(known)}")
        try:
            steps.append(known[name](given.get(FIRST.get(name, "scale")), float(given.get("p", 1.0))))
        except (AttributeError, TypeError, ValueError) as error:
            do = 'write it as in {"Training": {"rotate": {"degrees": [-30, 30], "p": 0.5}}}'
            raise OptionsError(f"transform {name} cannot be read ({error})", where=path, got=given, do=do) from error
    return steps


def _span(value: float | Sequence[float]) -> tuple[float, float]:
    """Of a number itself, as fastai takes one."""
    low, high = [value, value] if isinstance(value, int | float) else value
    return float(low), float(high)


def _pair(value: str) -> tuple[float, float]:
    low, high = (float(part) for part in value.strip("() ").split(","))
    return low, high


def _from_file(path: Path, square: bool) -> list[Any]:
    """The steps of a pipeline of albumentations, or of ArcGIS's transforms.json."""
    form = "yaml" if path.suffix in (".yaml", ".yml") else "json"
    do = "write it with albumentations.save, or take augmentation.json of an earlier model or transforms.json of ArcGIS"
    try:
        words = json.loads(path.read_text(encoding="utf-8-sig")) if form == "json" else {}
        found = None if "Training" in words else albumentations.load(path, data_format=form)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionsError(f"augmentation_file cannot be read ({error})", where=path, do=do) from error
    if found is None:
        return _transforms(path, words, square)
    if not isinstance(found, albumentations.Compose):
        raise OptionsError("augmentation_file holds no pipeline", where=path, got=type(found).__name__, do=do)
    return [_fitted(step, path) for step in found.transforms]


def _fitted(step: Any, path: Path) -> Any:
    """A step, or those in it, with what changes light as `Stretched`; what it moves in from outside has no class.

    Raises OptionsError for one of UNFIT.
    """
    name = type(step).__name__
    if name in UNFIT:
        what = "a step of the pipeline does not fit normalised chips"
        raise OptionsError(what, where=path, got=name, do="leave it out")
    if hasattr(step, "transforms"):
        step.transforms = [_fitted(one, path) for one in step.transforms]
    elif isinstance(step, albumentations.ImageOnlyTransform) and type(step).__module__ != __name__:
        return Stretched(albumentations.to_dict(step)["transform"], p=step.p)
    elif getattr(step, "fill_mask", None) == 0:  # albumentations' own default, which is the background here
        step.fill_mask = IGNORED
    return step
