"""Imagery for the eye, with what was drawn and what was found on it, in the colours of the definition."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from registry.emd import ClassLabel
from tasks.matching import IOUS, iou, mask_iou, match

TRUE_COLOUR = (("red", "green", "blue"), ("b04", "b03", "b02"))  # by band name; the second is Sentinel-2
STRETCH = (2, 98)  # percentiles that become black and white
GREY = (0.5, 0.5, 0.5)
LETTERS = 36  # of a line that fits on the smallest picture
INVENTED, MISSED = "#ff2fd0", "#ffe600"  # found but not there, there but not found: no roof, field or water has these


class Labelled(Protocol):
    """What was drawn or found on a picture, as a `Chip` holds it."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...  # (n, 4) xmin ymin xmax ymax, pixels

    @property
    def labels(self) -> NDArray[np.int64]: ...  # (n,) class index from 1

    @property
    def mask(self) -> NDArray[np.uint8] | None: ...  # (rows, cols) class index, 0 = background or unlabelled

    @property
    def masks(self) -> NDArray[np.bool_] | None: ...  # (n, rows, cols) of each object


@dataclass(frozen=True)
class ResultSample:
    """One picture with what people drew and what the model found."""

    image: NDArray[np.generic]  # (bands, rows, cols) raw sensor values
    band_names: tuple[str, ...]
    truth: Labelled
    prediction: Labelled
    name: str = ""
    image2: NDArray[np.generic] | None = None  # the later date
    valid: NDArray[np.bool_] | None = None  # (rows, cols) False = nodata, shown as pale grey
    judged: NDArray[np.bool_] | None = None  # (rows, cols) where the truth counts; None: everywhere


def show(axes: Axes, image: NDArray[np.generic], sample: ResultSample) -> None:
    """One of the sample's pictures; what is drawn later cannot make room for itself outside of it."""
    pixels = picture(image, sample.band_names, sample.valid)
    if sample.valid is not None:
        pixels[~sample.valid] = 238
    axes.imshow(pixels, interpolation="nearest")
    axes.autoscale(enable=False)


def picture(
    image: NDArray[np.generic], band_names: Sequence[str], valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """(rows, cols, 3) uint8 for the eye: true colour where the names tell, else the first three bands, else grey.

    What is not `valid` (rows, cols) does not count for the stretch.
    """
    shown = np.stack([image[i] for i in shown_bands(image.shape[0], band_names)]).astype(np.float64)
    if image.dtype != np.uint8:
        shown = np.stack([_stretched(band, valid) for band in shown])
    return np.moveaxis(np.nan_to_num(shown).clip(0, 255).astype(np.uint8), 0, 2)


def shown_bands(bands: int, names: Sequence[str]) -> tuple[int, int, int]:
    """Which bands are shown as red, green and blue."""
    lower = [name.lower() for name in names]
    for trio in TRUE_COLOUR:
        if all(name in lower for name in trio):
            return lower.index(trio[0]), lower.index(trio[1]), lower.index(trio[2])
    return (0, 1, 2) if bands >= 3 else (0, 0, 0)


def _stretched(band: NDArray[np.float64], valid: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Stretched to 0-255; 0 is nodata more often than not, so it does not count."""
    measured = band[np.isfinite(band) & (band != 0) & (True if valid is None else valid)]
    if not measured.size:
        return np.zeros_like(band)
    low, high = np.percentile(measured, STRETCH)
    return np.asarray((band - low) / max(high - low, 1e-9) * 255)


def rgb(label: ClassLabel) -> tuple[float, float, float]:
    red, green, blue = label.color
    return (red / 255, green / 255, blue / 255) if min(label.color) >= 0 else GREY


def draw(axes: Axes, labelled: Labelled, classes: Sequence[ClassLabel]) -> None:
    """Masks as a veil, objects as boxes or filled outlines, a label alone as words."""
    if labelled.mask is not None:
        _veil(axes, {rgb(label): labelled.mask == i for i, label in enumerate(classes, start=1)})
    if labelled.masks is not None and len(labelled.masks):
        kinds = {i: labelled.masks[labelled.labels == i].any(axis=0) for i in np.unique(labelled.labels).tolist()}
        _veil(axes, {rgb(classes[i - 1]): covered for i, covered in kinds.items()})
    for box, index in zip(labelled.boxes, labelled.labels, strict=False):
        _box(axes, box, rgb(classes[int(index) - 1]))
    if _of_the_whole(labelled):
        _name(axes, labelled, classes)


def draw_truth(axes: Axes, sample: ResultSample, classes: Sequence[ClassLabel]) -> None:
    """Also in words where the model answers so: many classes share a colour."""
    draw(axes, sample.truth, classes)
    if _of_the_whole(sample.prediction) and not _of_the_whole(sample.truth):
        _name(axes, sample.truth, classes)


def _of_the_whole(labelled: Labelled) -> bool:
    """What the picture shows, not where."""
    return labelled.mask is None and not len(labelled.boxes) and len(labelled.labels) > 0


def _name(axes: Axes, labelled: Labelled, classes: Sequence[ClassLabel]) -> None:
    words = fill(", ".join(classes[int(i) - 1].name for i in labelled.labels), LETTERS)
    text = axes.text(0.03, 0.03, words, transform=axes.transAxes, fontsize=8, color="black", backgroundcolor="white")
    text.set_in_layout(False)  # it lies on the picture, which needs make no room for it


def draw_mistakes(axes: Axes, sample: ResultSample) -> None:
    """What was invented and what was missed; for pixels also what was taken for another class."""
    truth, found = sample.truth, sample.prediction
    if truth.mask is not None and found.mask is not None:
        wrong = (truth.mask != found.mask) & (True if sample.judged is None else sample.judged)
        _veil(axes, {INVENTED: wrong & (found.mask > 0), MISSED: wrong & (found.mask == 0)})
        return
    right, met = _pairs(truth, found)
    for box, good in zip(found.boxes, right, strict=False):
        _box(axes, box, "white" if good else INVENTED, thin=bool(good))
    for box, good in zip(truth.boxes, met, strict=False):
        if not good:
            _box(axes, box, MISSED)


def _pairs(truth: Labelled, found: Labelled) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which found objects are true and which true ones were found, at IoU 0.5 and of the same class."""
    masked = truth.masks is not None and found.masks is not None
    overlaps = mask_iou(found.masks, truth.masks) if masked else iou(found.boxes, truth.boxes)  # type: ignore[arg-type]
    same = found.labels[: len(overlaps), None] == truth.labels[None, : overlaps.shape[1]]
    taken = match(np.where(same, overlaps, 0), np.zeros(len(overlaps), np.float32), IOUS[:1])[:, 0]
    met = np.zeros(overlaps.shape[1], bool)
    met[taken[taken >= 0]] = True
    return taken >= 0, met


def _veil(axes: Axes, parts: dict[tuple[float, float, float] | str, NDArray[np.bool_]]) -> None:
    from matplotlib.colors import to_rgb

    for colour, covered in parts.items():
        overlay = np.zeros((*covered.shape, 4))
        overlay[covered] = (*to_rgb(colour), 0.55)
        axes.imshow(overlay, interpolation="nearest")


def _box(axes: Axes, box: NDArray[np.float32], colour: tuple[float, float, float] | str, *, thin: bool = False) -> None:
    xmin, ymin, xmax, ymax = box
    width = 0.7 if thin else 1.1
    corner = (xmin - 0.5, ymin - 0.5)
    axes.add_patch(Rectangle(corner, xmax - xmin, ymax - ymin, fill=False, edgecolor=colour, linewidth=width))
