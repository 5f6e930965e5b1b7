"""Evaluate: a model runs on chips that it has never seen, and is told how well it did.

The raster function is taken out of the model folder and called as ArcGIS calls it, so what is scored is what is
published. Adds show_results.png and the scores to the folder's page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from registry.dlpk import ModelFolder
from registry.emd import ModelType
from registry.errors import OptionsError
from tasks.chips import Chip, ChipFolder
from tasks.feature_sets import Detection
from tasks.host import RasterFunction
from tasks.progress import OnProgress, Progress, ignore
from tasks.report import ResultSample, write_metrics_page, write_show_results
from tasks.scores import DetectionScores, PixelScores, Scores

LOWEST = 0.05  # confidence, 0-1: average precision needs the doubtful detections too
SHOWN = 4  # chips in the picture of sample results


@dataclass(frozen=True)
class Outcome:
    """A held-out chip and what the model made of it, labelled in the same way."""

    truth: Chip
    prediction: Chip


def evaluate_model(
    model: ModelFolder, chips: ChipFolder, *, device: int = -1, on_progress: OnProgress = ignore
) -> Scores:
    """Score a model on held-out chips (ArcGIS formats F.6). `device`: -1 CPU, else the GPU's number.

    Raises OptionsError when chips and model do not fit, RasterFunctionError when the function fails.
    """
    _check(model, chips)
    tested = _detect if model.emd.model_type == ModelType.OBJECT_DETECTION else _classify
    shown: list[Outcome] = []
    scores = tested(model, chips, device, _watched(chips, shown, on_progress))
    scores = replace(scores, facts={"data_digest": chips.digest})
    names = tuple(s.name for s in chips.band_statistics)
    samples = [ResultSample(o.truth.image, names, o.truth, o.prediction) for o in shown]
    write_show_results(model.path, samples, model.emd.classes)
    write_metrics_page(model.path, model.emd, name=model.name, scores=scores.document())
    return scores


Watch = Callable[[Outcome], None]


def _detect(model: ModelFolder, chips: ChipFolder, device: int, watch: Watch) -> Scores:
    arguments = {"padding": 0, "batch_size": 1, "threshold": LOWEST}
    function = RasterFunction.load(model, device=device, arguments=arguments)
    threshold = float(model.emd.document.get("Threshold", 0.5))
    scores = DetectionScores(chips.classes)
    index = {label.name: i for i, label in enumerate(chips.classes, start=1)}
    for name in chips.names:
        chip = chips.read(name)
        found = [d for d in function.vectorize(chip.image, chip.valid) if d.class_name in index]
        boxes = np.array([_box(d) for d in found], np.float32).reshape(-1, 4)
        labels = np.array([index[d.class_name] for d in found], np.int64)
        confidence = np.array([d.confidence / 100 for d in found], np.float32)
        scores.add(boxes, labels, confidence, chip.boxes, chip.labels)
        sure = confidence >= threshold
        watch(Outcome(chip, replace(chip, boxes=boxes[sure], labels=labels[sure])))
    return scores.compute(threshold)


def _classify(model: ModelFolder, chips: ChipFolder, device: int, watch: Watch) -> Scores:
    function = RasterFunction.load(model, device=device, arguments={"padding": 0, "batch_size": 1})
    background = bool(model.emd.document.get("PredictBackground", True))
    scores = PixelScores(chips.classes, background=background)
    values = np.array([0, *(label.value for label in chips.classes)])  # sorted; a position is a class index
    for name in chips.names:
        chip = chips.read(name)
        assert chip.mask is not None
        found = function.update_pixels(chip.image, chip.valid)[0]
        predicted = np.searchsorted(values, found).clip(max=len(values) - 1).astype(np.uint8)
        predicted[values[predicted] != found] = 0  # a class that these chips do not have
        truth = np.where(chip.valid, chip.mask.astype(np.int16), -1)
        scores.add(predicted, truth if background else np.where(truth == 0, -1, truth))
        watch(Outcome(chip, replace(chip, mask=predicted)))
    return scores.compute()


def _watched(chips: ChipFolder, shown: list[Outcome], tell: OnProgress) -> Watch:
    """Count chips, and keep a few that are spread over the scene."""
    wanted = {int(i) for i in np.linspace(0, len(chips.names) - 1, min(SHOWN, len(chips.names)))}
    done = 0

    def watch(outcome: Outcome) -> None:
        nonlocal done
        if done in wanted:
            shown.append(outcome)
        done += 1
        tell(Progress("evaluate", done, len(chips.names), "chips"))

    return watch


def _box(detection: Detection) -> Sequence[float]:
    xs, ys = zip(*detection.rings[0], strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _check(model: ModelFolder, chips: ChipFolder) -> None:
    carries = {ModelType.OBJECT_DETECTION: "boxes", ModelType.IMAGE_CLASSIFICATION: "mask"}
    if carries.get(model.emd.model_type) != chips.format.CARRIES:
        what = f"a model of type {model.emd.model_type} cannot be scored on {chips.definition.metadata_format} chips"
        raise OptionsError(what, where=model.path, do="export chips of the other metadata format")
    if model.emd.tile_size != chips.tile_size:
        what = f"expected chips of {model.emd.tile_size} pixels, the model's tile size"
        raise OptionsError(what, where=chips.path, got=chips.tile_size, do="export them again with that tile_size")
    theirs, ours = {c.name for c in model.emd.classes}, {c.name for c in chips.classes}
    if not ours <= theirs:
        do = f"the model knows {', '.join(sorted(theirs))}"
        raise OptionsError(
            "chips hold classes that the model does not know", where=chips.path, got=sorted(ours - theirs), do=do
        )
    if (bands := len(chips.band_statistics)) <= max(int(b) for b in model.emd.extract_bands):
        raise OptionsError(
            f"expected chips with the model's {len(model.emd.extract_bands)} bands", where=chips.path, got=bands
        )
