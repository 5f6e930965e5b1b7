"""The definition (.emd) of a trained model, from its chips, its training and its scores (ArcGIS formats A, C.4)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.emd import BandStatistics, ClassLabel, Emd
from tasks.chips import ChipFolder, class_index
from tasks.goals import Goal
from tasks.targets import statistics

if TYPE_CHECKING:
    from tasks.scores import Scores
    from tasks.train_options import TrainOptions

FROM_EXPORT = ("ImageSpaceUsed", "MetaDataMode", "MinCellSize", "MaxCellSize", "InputRastersProps")
CHANGE = {"precision": "precision", "recall": "recall", "f1": "f1_score"}  # key of the definition -> our score
NO_CHANGE = ClassLabel(0, "NoChange", (0, 0, 0))


@dataclass(frozen=True)
class Training:
    """What a training has settled: beside the chips and the scores, all that a definition tells."""

    name: str  # of the model
    goal: Goal
    carries: str  # key of `tasks.goals.GOALS`
    network: str  # file of `tasks/networks`
    arguments: Mapping[str, Any]  # of its build()
    options: "TrainOptions"
    rate: float  # highest learning rate
    bands: tuple[int, ...]  # that its network sees; of two dates, those of the second behind them
    looks: Mapping[str, int] = field(default_factory=dict)  # how far its network looks, see `tasks.receptive_field`


def definition(chips: ChipFolder, training: Training, scores: "Scores") -> Emd:
    """Of a model that lies beside its raster function; checked by `Emd.validate` when it is written."""
    facts, bands = chips.definition.document, statistics(chips)
    document = {
        "Framework": "PyTorch",
        "ModelConfiguration": training.network,
        "ModelType": str(training.goal.model_type),
        "ModelName": training.name,
        "ModelFile": f"{training.name}.pth",
        "InferenceFunction": f"{training.goal.function}.py",
        "ModelFormat": "NCHW",
        "ImageHeight": chips.tile_size,
        "ImageWidth": chips.tile_size,
        "ExtractBands": list(training.bands),
        "ImageSpaceUsed": "MAP_SPACE",
        "MetaDataMode": chips.metadata_format,
        **{key: facts[key] for key in FROM_EXPORT if facts.get(key) is not None},
        "AllTilesStats": [s.document() for s in bands],
        "SupportsVariableTileSize": False,
        "Classes": [label.document() for label in _classes(chips, training)],
        **_spectral(bands, training.bands),
        "NetworkOptions": dict(training.arguments),
        **training.looks,
        **_behaviour(chips, training, scores),
        "test_time_augmentation": training.options.test_time_augmentation or None,
        "LearningRate": f"{training.rate:.4e}",
        "resize_to": training.options.resize_to,
        **_metrics(training, scores),
    }
    return Emd({key: value for key, value in document.items() if value is not None}, where=f"{training.name}.emd")


def coloured(classes: Sequence[ClassLabel]) -> list[ClassLabel]:
    """Export definitions may have classes without a colour; a model may not (ArcGIS formats A.3)."""
    from tasks.labels import colour

    return [c if min(c.color) >= 0 else ClassLabel(c.value, c.name, colour(i)) for i, c in enumerate(classes)]


def _classes(chips: ChipFolder, training: Training) -> list[ClassLabel]:
    """Of a change the first is that there is none (ArcGIS formats D.6)."""
    classes = coloured(chips.classes)
    return [NO_CHANGE, *classes] if training.carries == "change" else classes


def _spectral(bands: Sequence[BandStatistics], read: Sequence[int]) -> dict[str, Any]:
    """Keys of imagery that is more than 8-bit colour (ArcGIS formats A.4, D.4); of all bands, whichever are `read`."""
    if len(bands) == 3 and list(read) == [0, 1, 2] and all(s.min >= 0 and s.max <= 255 for s in bands):
        return {"IsMultispectral": False}
    spans = [(s.max - s.min) or 1.0 for s in bands]
    stats = {
        "band_min_values": [s.min for s in bands],
        "band_max_values": [s.max for s in bands],
        "band_mean_values": [s.mean for s in bands],
        "band_std_values": [s.std for s in bands],
        "scaled_min_values": [0.0 for _ in bands],
        "scaled_max_values": [1.0 for _ in bands],
        "scaled_mean_values": [(s.mean - s.min) / span for s, span in zip(bands, spans, strict=True)],
        "scaled_std_values": [s.std / span for s, span in zip(bands, spans, strict=True)],
    }
    names = [s.name for s in bands]
    return {"IsMultispectral": True, "Bands": names, "ImageryType": "ms", "NormalizationStats": stats}


def _behaviour(chips: ChipFolder, training: Training, scores: "Scores") -> dict[str, Any]:
    """Defaults of the raster function's arguments that follow from chips and training."""
    index = class_index(chips.classes)
    ignored = {"ignore_mapped_class": [index[value] for value in training.options.ignore_classes] or None}
    if training.goal.name == "detect_objects":
        return {"Threshold": scores.threshold, **ignored}
    if training.goal.name == "classify_pixels":
        return {"PredictBackground": 0 not in training.options.ignore_classes, **ignored}
    if training.goal.name == "detect_change":
        return {"Threshold": 0.5}
    facts = chips.definition.document
    fixed = facts.get("CropTileMode", "Fixed_Size") == "Fixed_Size"
    return {
        "CropSizeFixed": int(fixed),
        "BlackenAroundFeature": int(bool(facts.get("BlackenAroundFeature", False))),
        **({"Threshold": 0.5} if training.carries == "labels" else {}),
    }


def _metrics(training: Training, scores: "Scores") -> dict[str, Any]:
    """Of the validation chips, under ArcGIS's names (ArcGIS formats C.4)."""
    if training.goal.name == "detect_objects":
        return {"average_precision_score": {name: row["AP"] for name, row in scores.per_class.items()}}
    if training.goal.name == "detect_change":
        return {key: scores.values[name] for key, name in CHANGE.items()}
    rows = {
        n: {"precision": r["Precision"], "recall": r["Recall"], "f1": r["F1_Score"]}
        for n, r in scores.per_class.items()
    }
    mean = {"mIoU": scores.values["mIoU"]} if "mIoU" in scores.values else {}
    return {"accuracy": f"{scores.values['accuracy']:.4e}", **mean, "per_class_metrics": json.dumps(rows)}
