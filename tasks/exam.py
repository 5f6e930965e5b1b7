"""A model takes a test: it runs on labelled chips, and what it answers is counted.

The raster function is taken out of the model folder and called as ArcGIS calls it (ArcGIS formats E), so what is scored
is what is published. `evaluate` tells how one model did, `compare` which of two did better.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.dlpk import ModelFolder
from registry.emd import ModelType
from registry.errors import OptionsError
from tasks.band_choice import Bands, band_indexes, pair_indexes
from tasks.chips import OF_CHIPS, Chip, ChipFolder, indexes_of
from tasks.feature_sets import Detection
from tasks.inference import AnyFunction, load_function
from tasks.inference_options import InferenceOptions
from tasks.progress import OnProgress, Progress
from tasks.scores import ChangeScores, DetectionScores, ObjectScores, PixelScores, Tally

LOWEST = 0.05  # confidence, 0-1: average precision needs the doubtful detections too
CALIBRATED = 32  # chips, spread evenly, whose pixels are asked for their confidence: it costs a second look
TASKS = {  # type of a model -> what chips must carry for it
    ModelType.OBJECT_DETECTION: ("boxes", "instances"),
    ModelType.INSTANCE_DETECTION: ("instances", "panoptic"),
    ModelType.IMAGE_CLASSIFICATION: ("mask", "panoptic"),
    ModelType.OBJECT_CLASSIFICATION: OF_CHIPS,
}
Load = Callable[..., AnyFunction]  # of arguments of the raster function


@dataclass(frozen=True)
class Answer:
    """What a model made of a chip, labelled as the chip itself is."""

    chip: Chip
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # 0-1, beside `labels`
    values: NDArray[Any] | None = None  # of a model for pixels: the class values that `mask` was made of

    def above(self, threshold: float) -> Chip:
        """With the objects only that are as sure."""
        keep, chip = self.confidence >= threshold, self.chip
        masks = None if chip.masks is None else chip.masks[keep]
        return replace(chip, boxes=chip.boxes[keep], labels=chip.labels[keep], masks=masks)


@dataclass(frozen=True)
class Exam:
    """A model, the chips that it is asked about, and what it got so far."""

    tally: Tally
    threshold: float | None  # confidence, 0-1, that the model's definition asks of an object; None: it has none
    ask: Callable[[Chip], Answer]
    count: Callable[[Chip, Answer], None]
    chips: ChipFolder
    names: tuple[str, ...]
    ignored: tuple[int, ...] = ()  # class indexes of the chips that do not count

    def sit(self, step: str, on_progress: OnProgress) -> "Exam":
        """Ask about every chip."""
        for done, name in enumerate(self.names, start=1):
            chip = self.chips.read(name)
            self.count(chip, self.ask(chip))
            on_progress(Progress(step, done, len(self.names), "chips"))
        if isinstance(self.tally, DetectionScores):
            self.tally.settle()
        return self


def examine(
    model: ModelFolder, chips: ChipFolder, *, device: int = -1, trust: bool = False, calibrate: bool = False
) -> Exam:
    """The exam that fits the model's type. `device`: -1 CPU, else the GPU's number.

    `calibrate`: a model for pixels is asked how sure it is, too; of others it is known.
    `trust`: a package whose code this registry did not publish is run, too, confined in a process of its own.
    Raises OptionsError or ImageryError when chips and model do not fit, OptionsError when the code is a stranger's,
    RasterFunctionError when the function fails.
    """
    _check(model, chips)
    names = chips.splits.get("test") or chips.names
    kind = model.emd.model_type

    def load(**arguments: object) -> AnyFunction:
        given = {name: str(value) for name, value in arguments.items()}
        return load_function(model, InferenceOptions(arguments=given, device=device, trust=trust))

    if kind in (ModelType.OBJECT_DETECTION, ModelType.INSTANCE_DETECTION):
        return _detection(model, chips, names, load)
    if kind == ModelType.OBJECT_CLASSIFICATION:
        return _objects(model, chips, names, load)
    return _pixels(model, chips, names, load, calibrate=calibrate)


# -- detection -------------------------------------------------------------------------------------------------------
def _detection(model: ModelFolder, chips: ChipFolder, names: tuple[str, ...], load: Load) -> Exam:
    function = load(padding=0, batch_size=1, threshold=LOWEST)
    bands = _bands(function, chips)
    tally = DetectionScores(chips.classes)
    ignored = _ignored(model, chips)
    index = {label.name: i for i, label in enumerate(chips.classes, start=1) if i not in ignored}
    by_masks = model.emd.model_type == ModelType.INSTANCE_DETECTION

    def ask(chip: Chip) -> Answer:
        found = [d for d in _detections(function, chip.image[bands], chip.valid) if d.class_name in index]
        boxes = _inside(np.array([_box(d) for d in found], np.float32).reshape(-1, 4), chip.valid)
        labels = np.array([index[d.class_name] for d in found], np.int64)
        masks = _masks(found, chip.valid.shape) if by_masks else None
        answer = replace(chip, boxes=boxes, labels=labels, masks=masks, mask=None)
        return Answer(answer, np.array([d.confidence / tally.whole for d in found], np.float32))

    def count(chip: Chip, answer: Answer) -> None:
        chip = chip.without(ignored)
        masks = {"masks": answer.chip.masks, "true_masks": chip.masks} if by_masks else {}
        tally.add(answer.chip.boxes, answer.chip.labels, answer.confidence, chip.boxes, chip.labels, **masks)

    return Exam(tally, float(model.emd.document.get("Threshold", 0.5)), ask, count, chips, names, ignored)


def _detections(function: AnyFunction, image: NDArray[Any], valid: NDArray[np.bool_]) -> Iterator[Detection]:
    """A chip that is wider than high is no tile: its tiles overlap by half or more, and each tells of its middle."""
    tile, cols = valid.shape
    starts = sorted({*range(0, cols - tile, max(1, tile // 2)), max(0, cols - tile)})
    seams = [(left + right + tile) / 2 for left, right in pairwise(starts)]
    for start, low, high in zip(starts, (-np.inf, *seams), (*seams, np.inf), strict=True):
        part = slice(start, start + tile)
        for found in function.vectorize(image[:, :, part], valid[:, part]):
            xmin, _, xmax, _ = _box(found)
            if low <= start + (xmin + xmax) / 2 < high:
                rings = tuple(tuple((x + start, y) for x, y in ring) for ring in found.rings)
                yield replace(found, rings=rings)


def _box(detection: Detection) -> Sequence[float]:
    xs, ys = zip(*detection.rings[0], strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _inside(boxes: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Cut where the picture ends, as the truth is; what reaches over nodata can be neither right nor wrong there."""
    if not valid.any():
        return boxes
    cols, rows = np.flatnonzero(valid.any(axis=0)), np.flatnonzero(valid.any(axis=1))
    low, high = (cols[0], rows[0]), (cols[-1] + 1, rows[-1] + 1)
    return np.asarray(boxes.clip((*low, *low), (*high, *high)), np.float32)


def _masks(found: Sequence[Detection], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n, rows, cols) the pixels inside of each outline and outside of its holes."""
    from rasterio.features import rasterize
    from shapely import Polygon

    masks = np.zeros((len(found), *shape), bool)
    for mask, detection in zip(masks, found, strict=True):
        outline = Polygon(detection.rings[0], detection.rings[1:])
        mask[:] = rasterize([(outline, 1)], out_shape=shape, dtype=np.uint8).astype(bool)
    return masks


# -- pixels ----------------------------------------------------------------------------------------------------------
def _pixels(model: ModelFolder, chips: ChipFolder, names: tuple[str, ...], load: Load, *, calibrate: bool) -> Exam:
    function = load(padding=0, batch_size=1)
    bands = _bands(function, chips)
    background = bool(model.emd.document.get("PredictBackground", True))
    kind = ChangeScores if chips.paired else PixelScores
    tally, ignored = kind(chips.classes, background=background), _ignored(model, chips)
    named = {label.name: i for i, label in enumerate(chips.classes, start=1)}
    index = {0: 0, **{c.value: named.get(c.name, 0) for c in model.emd.classes}}  # the model's Value -> of the chips
    asked = set(names[:: -(-len(names) // CALIBRATED)] if calibrate else ())
    confidence = _confidence(model, chips, function, load) if asked else None

    def ask(chip: Chip) -> Answer:
        found = function.update_block(chip.dates[bands], chip.valid)[0][0]
        return Answer(replace(chip, mask=indexes_of(found, index)[0]), values=found)

    def count(chip: Chip, answer: Answer) -> None:
        assert chip.mask is not None
        assert answer.chip.mask is not None
        truth = np.where(chip.valid, chip.mask.astype(np.int16), -1)
        truth = truth if background else np.where(truth == 0, -1, truth)
        truth = np.where(np.isin(truth, ignored), -1, truth)
        sure = None
        if confidence and chip.name in asked:
            assert answer.values is not None
            sure = confidence(chip.dates[bands], chip.valid, answer.values)
        tally.add(answer.chip.mask, truth, sure)

    return Exam(tally, None, ask, count, chips, names, ignored)


def _confidence(
    model: ModelFolder, chips: ChipFolder, function: AnyFunction, load: Load
) -> Callable[[NDArray[Any], NDArray[np.bool_], NDArray[Any]], NDArray[np.float32]] | None:
    """Of a picture, where it is valid, and the values (rows, cols) found there: (rows, cols) how sure the model is.

    None of a function that tells no probabilities, as those of other makers.
    """
    if "probabilities" not in {p.name for p in getattr(function, "parameters", ())}:
        return None
    sure = load(padding=0, batch_size=1, probabilities=True)
    order = np.array([0, *(label.value for label in model.emd.classes if label.value or not chips.paired)])  # of bands
    ascending = np.argsort(order)

    def confidence(picture: NDArray[Any], valid: NDArray[np.bool_], found: NDArray[Any]) -> NDArray[np.float32]:
        shares = sure.update_block(picture, valid)[0]
        band = ascending[np.searchsorted(order, found, sorter=ascending)]
        answer: NDArray[np.float32] = np.take_along_axis(shares, band[None], axis=0)[0]
        return answer

    return confidence


# -- objects ---------------------------------------------------------------------------------------------------------
def _objects(model: ModelFolder, chips: ChipFolder, names: tuple[str, ...], load: Load) -> Exam:
    function = load()
    bands = _bands(function, chips)
    tally = ObjectScores(chips.classes, multilabel=chips.format.CARRIES == "labels")
    index = {label.name: i for i, label in enumerate(chips.classes, start=1)}
    position = {label.name: i for i, label in enumerate(model.emd.classes)}

    def ask(chip: Chip) -> Answer:
        told = function.classify([(chip.image[bands], chip.valid)])[0]
        sure = told.confidences
        if len(told.names) != len(sure):  # of several labels a function tells the confidence of every class
            sure = tuple(sure[position[name]] for name in told.names)
        pairs = [(index[name], c) for name, c in zip(told.names, sure, strict=True) if name in index]
        labels, confidence = np.array(pairs, float).reshape(-1, 2).T
        answer = replace(chip, labels=labels.astype(np.int64), boxes=chip.boxes[:0], masks=None, mask=None)
        return Answer(answer, confidence.astype(np.float32))

    def count(chip: Chip, answer: Answer) -> None:
        tally.add(answer.chip.labels, np.unique(chip.labels), answer.confidence)

    return Exam(tally, None, ask, count, chips, names)


# -- fit -------------------------------------------------------------------------------------------------------------
def _check(model: ModelFolder, chips: ChipFolder) -> None:
    emd: Any = model.emd
    if chips.format.CARRIES not in TASKS.get(emd.model_type, ()):
        what = f"a model of type {emd.model_type} cannot be scored on {chips.definition.metadata_format} chips"
        raise OptionsError(what, where=model.path, do="export chips of the other metadata format")
    if not chips.names:
        raise OptionsError("there are no chips to score on", where=chips.path, do="export again with another extent")
    if emd.tile_size != chips.tile_size and emd.model_type != ModelType.OBJECT_CLASSIFICATION:
        what = f"expected chips of {emd.tile_size} pixels, the model's tile size"
        raise OptionsError(what, where=chips.path, got=chips.tile_size, do="export them again with that tile_size")
    theirs, ours = {c.name for c in emd.classes}, {c.name for c in chips.classes}
    if not ours <= theirs:
        what, do = "chips hold classes that the model does not know", f"the model knows {', '.join(sorted(theirs))}"
        raise OptionsError(what, where=chips.path, got=sorted(ours - theirs), do=do)


def _ignored(model: ModelFolder, chips: ChipFolder) -> tuple[int, ...]:
    """Class indexes of the chips that the model had not to learn; of background PredictBackground tells it."""
    told = model.emd.document.get("ignore_mapped_class")
    positions = told if isinstance(told, list) else ()  # from 1
    names = {label.name for i, label in enumerate(model.emd.classes, start=1) if i in positions}
    return tuple(i for i, label in enumerate(chips.classes, start=1) if label.name in names)


def _bands(function: AnyFunction, chips: ChipFolder) -> list[int]:
    """Of the pictures of a chip, in the function's order. Raises ImageryError when they lack bands of the model."""
    chip = chips.read(chips.names[0])
    told = tuple(band.name for band in chips.definition.band_statistics)
    names = told if len(told) == len(chip.image) else tuple(f"band {i + 1}" for i in range(len(chip.image)))
    shown, wanted = Bands(chips.path, names), function.configuration
    found = pair_indexes(shown, shown, wanted) if chips.paired else band_indexes(shown, wanted)
    return list(range(len(chip.dates)) if found is None else found)
