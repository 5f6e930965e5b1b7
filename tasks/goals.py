"""What can be learned: one goal for each kind of labels that chips carry, and what follows from it.

ArcGIS's word for it is the type of a model; a network says in SERVES which goals it reaches (ArcGIS formats A.5, F.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.emd import ClassLabel, ModelType
from registry.errors import LabelError, OptionsError
from tasks.chips import ChipFolder
from tasks.scores import ChangeScores, DetectionScores, ObjectScores, PixelScores, Tally


@dataclass(frozen=True)
class Goal:
    """One row of the table below."""

    name: str  # as networks have it in SERVES
    model_type: ModelType
    function: str  # raster function that runs it
    network: str  # when none is chosen
    monitors: Mapping[str, str]  # F.2's monitor -> our name of the score; the first is AUTO
    told: Mapping[str, str]  # our name of a score -> ArcGIS's in training_validation_loss.json (C.2)
    tally: Callable[[Sequence[ClassLabel], bool], Tally]  # of classes, and whether background counts


OBJECTS = {"AVERAGE_PRECISION": "AP50", "PRECISION": "precision", "RECALL": "recall", "F1_SCORE": "f1"}
FOUND = {"AP50": "average_precision"}
GOALS = {  # what chips carry -> what is learned
    "boxes": Goal(
        "detect_objects",
        ModelType.OBJECT_DETECTION,
        "DetectObjects",
        "fcos",
        OBJECTS,
        FOUND,
        lambda classes, _: DetectionScores(classes),
    ),
    "instances": Goal(
        "detect_objects",
        ModelType.INSTANCE_DETECTION,
        "DetectObjects",
        "mask_rcnn",
        OBJECTS,
        FOUND,
        lambda classes, _: DetectionScores(classes),
    ),
    "mask": Goal(
        "classify_pixels",
        ModelType.IMAGE_CLASSIFICATION,
        "ClassifyPixels",
        "unet",
        {"MIOU": "mIoU", "ACCURACY": "accuracy", "DICE": "F1", "F1_SCORE": "F1"},
        {"accuracy": "accuracy", "F1": "Dice"},
        lambda classes, background: PixelScores(classes, background=background),
    ),
    "change": Goal(
        "detect_change",
        ModelType.IMAGE_CLASSIFICATION,
        "DetectChange",
        "change_detector",
        {"F1_SCORE": "f1_score", "DICE": "f1_score", "PRECISION": "precision", "RECALL": "recall", "MIOU": "IoU"},
        {"precision": "precision", "recall": "recall", "f1_score": "f1_score"},
        lambda classes, background: ChangeScores(classes, background=background),
    ),
    "label": Goal(
        "classify_objects",
        ModelType.OBJECT_CLASSIFICATION,
        "ClassifyObjects",
        "feature_classifier",
        {"ACCURACY": "accuracy", "F1_SCORE": "f1_score"},
        {"accuracy": "accuracy"},
        lambda classes, _: ObjectScores(classes),
    ),
    "labels": Goal(
        "classify_objects",
        ModelType.OBJECT_CLASSIFICATION,
        "ClassifyObjects",
        "feature_classifier",
        {"F1_SCORE": "f1_score", "MULTI_LABEL_FBETA": "f1_score", "ACCURACY": "accuracy"},
        {"accuracy": "accuracy", "f1_score": "multi_label_fbeta"},
        lambda classes, _: ObjectScores(classes, multilabel=True),
    ),
}


def carried(chips: ChipFolder) -> str:
    """The key of `GOALS` for a folder; masks of two dates are changes. Raises LabelError, OptionsError."""
    if not chips.names:
        raise LabelError("has no chip to learn from", where=chips.path, do="export again with labels over the imagery")
    carries = str(chips.format.CARRIES)
    if carries == "mask" and chips.paired:
        return "change"
    if carries not in GOALS:
        do = "export as rectangles, RCNN_Masks, Classified_Tiles, Labeled_Tiles, MultiLabeled_Tiles or Imagenet"
        raise OptionsError(f"no network here learns from {chips.metadata_format} chips", where=chips.path, do=do)
    return carries
