"""Train Deep Learning Model: a folder of exported chips in, a model folder out.

    model/  name.pth  name.emd (last)  the raster function's and the network's source  augmentation.json
            model_metrics.html  ModelCharacteristics/{loss_graph.png, show_results.png, training_validation_loss.json}

The folder's name is the model's name, as in ArcGIS. What lies in the folder is what is evaluated, packaged and run.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.dlpk import ModelFolder, open_model
from registry.errors import OptionsError
from registry.files import atomic
from tasks.chips import ChipFolder
from tasks.progress import OnEpoch, OnProgress, ignore
from tasks.train_options import TrainOptions
from tasks.travelling import travelling

if TYPE_CHECKING:
    from tasks.loading import Loading
    from tasks.scores import Scores

__all__ = ["TrainOptions", "train_model"]


def train_model(
    chips: ChipFolder, out: Path, options: TrainOptions, *, on_epoch: OnEpoch = ignore, on_progress: OnProgress = ignore
) -> ModelFolder:
    """Train on chips, as Train Deep Learning Model does (ArcGIS formats C, F.2).

    A killed training goes on at its last epoch; a finished one of the same chips and options is returned as it is.
    Raises OptionsError, LabelError, TrainingError, NotFound (weights), Conflict (another model lies there).
    """
    from tasks import augment, fitting, receipt

    receipt.claim(out, "train", {"chips": chips.digest, "options": options.model_dump(mode="json")})
    if (out / f"{out.name}.emd").is_file():
        return ModelFolder(out)
    plan = _plan(chips, options)
    augment.save(plan.loading.augment, out)
    while True:
        size = fitting.batch_size(out, options.batch_size)
        try:
            fitted = _fit(
                chips, out, replace(plan, loading=replace(plan.loading, batch_size=size)), (on_epoch, on_progress)
            )
            break
        except (RuntimeError, MemoryError) as error:
            if not fitting.out_of_memory(error):
                raise
            fitting.less(out, size, error)
    return _write(chips, out, plan, fitted)


@dataclass(frozen=True)
class _Plan:
    """What is to be trained, before the first weight is drawn."""

    options: TrainOptions
    carries: str  # key of `tasks.goals.GOALS`
    network: str
    arguments: dict[str, Any]  # of its build()
    loading: "Loading"
    training: list[str]  # names of chips
    validation: list[str]
    pretrained: ModelFolder | None  # a model to go on from


@dataclass(frozen=True)
class _Fitted:
    """What came of it."""

    network: Any
    scores: "Scores"  # of the validation chips
    epochs: list[Any]
    rate: float
    origin: str  # of the weights that it began with


def _plan(chips: ChipFolder, options: TrainOptions) -> _Plan:
    from tasks import loading
    from tasks.augment import pipeline
    from tasks.chips import class_index
    from tasks.goals import carried

    pretrained = open_model(Path(options.pretrained_model)) if options.pretrained_model else None
    carries, name, module = _network(chips, carried(chips), options, pretrained)
    training, validation = loading.divide(chips, options.validation_percentage / 100)
    index = {0: 0, **class_index(chips.classes)}
    if unknown := sorted(set(options.ignore_classes) - set(index)):
        raise OptionsError("ignore_classes names values of no class", got=unknown, do=f"choose among {sorted(index)}")
    ignored = tuple(index[value] for value in options.ignore_classes)
    loading.check_classes(chips, training, ignored)
    map_space = chips.definition.document.get("ImageSpaceUsed", "MAP_SPACE") == "MAP_SPACE"
    load = loading.Loading(
        batch_size=options.batch_size,
        carries=carries,
        ignored=ignored,
        augment=pipeline(options, map_space=map_space),
        oversample=options.oversample,
        seed=options.seed,
        workers=options.workers,
    )
    arguments = _arguments(chips, training, module, carries, options)
    if pretrained:
        arguments = dict(pretrained.emd.document.get("NetworkOptions") or {})
    return _Plan(options, carries, name, arguments, load, training, validation, pretrained)


def _network(
    chips: ChipFolder, carries: str, options: TrainOptions, pretrained: ModelFolder | None
) -> tuple[str, str, Any]:
    """What is learned, by which network, and its module. A pretrained model decides by its ModelConfiguration.

    Of instances a network that draws no masks learns the boxes.
    """
    from registry import plugins
    from tasks import networks
    from tasks.goals import GOALS

    goal = GOALS[carries]
    name = options.network or goal.network
    if pretrained:
        name = str(pretrained.emd.document.get("ModelConfiguration"))
    module = plugins.load(networks, name)
    draws = getattr(module, "INSTANCES", False)
    if goal.name not in module.SERVES or (draws and carries != "instances"):
        known = {n: plugins.load(networks, n) for n in plugins.names(networks)}
        fits = [n for n, m in known.items() if goal.name in m.SERVES]
        fits = [n for n in fits if carries == "instances" or not getattr(known[n], "INSTANCES", False)]
        what = f"network {name!r} cannot learn from {chips.metadata_format} chips"
        raise OptionsError(what, do=f"choose one of {', '.join(fits)}")
    return "boxes" if carries == "instances" and not draws else carries, name, module


def _arguments(
    chips: ChipFolder, names: Sequence[str], module: Any, carries: str, options: TrainOptions
) -> dict[str, Any]:
    """Arguments of build(): the backbone, what data and options suggest, and what the user says."""
    suggested: dict[str, Any] = {}
    if hasattr(module, "suggest"):
        scale = (options.resize_to or chips.tile_size) / chips.tile_size
        boxes = [box for name in names for box in chips.read(name).boxes.tolist()]
        sides = [scale * ((x1 - x0) * (y1 - y0)) ** 0.5 for x0, y0, x1, y1 in boxes]
        suggested = module.suggest(sides) if sides else {}
    if carries == "labels":
        suggested["multilabel"] = True
    if carries in ("mask", "change"):
        suggested |= {"focal": 2.0} if options.focal_loss else {}
        suggested |= {"weights": _weights(chips, names)} if options.class_balancing else {}
    return {"backbone": options.backbone_model, **suggested, **options.network_options}


def _weights(chips: ChipFolder, names: Sequence[str]) -> list[float]:
    """Of the pixels of each class, background first: as ArcGIS weighs them, total / pixels (D.5), with mean 1."""
    from tasks.loading import counts

    pixels = counts(chips, names).sum(axis=0).clip(min=1)
    weights = (pixels.sum() / pixels) ** 0.5  # the root: a class of one pixel in a thousand would drown the others
    return [round(float(w), 4) for w in weights / weights.mean()]


def _fit(chips: ChipFolder, out: Path, plan: _Plan, told: tuple[OnEpoch, OnProgress]) -> _Fitted:
    """From the last checkpoint where there is one, to the best epoch."""
    from tasks import fitting, loading
    from tasks.goals import GOALS

    options, goal = plan.options, GOALS[plan.carries]
    fitting.prepare(options.seed)
    network, origin = _start(chips, plan)
    telling = fitting.Telling(out, *told)
    trainer = fitting.trainer(out, options, _monitor(plan), telling, plan.loading.batch_size)
    load = replace(plan.loading, part=trainer.global_rank, parts=trainer.world_size)
    train = loading.loader(chips, plan.training, load, train=True)
    validate = loading.loader(chips, plan.validation, load, train=False)
    rate = options.learning_rate or fitting.found_rate(out, network, train, told[1])
    fit = fitting.Fitting(network, chips.classes, goal, options, rate=rate, pretrained=origin != "random")
    fitting.run(trainer, fit, train, validate, fitting.resume_point(out))
    if not trainer.is_global_zero:
        raise SystemExit(0)  # one process writes the model, the others have done their part
    fitting.load_best(network, out)
    fit.average = None
    scores = fitting.score(out, fit, validate)
    return _Fitted(network, scores, telling.epochs, rate, origin)


def _start(chips: ChipFolder, plan: _Plan) -> tuple[Any, str]:
    """The network with the weights that it begins with, and where these came from."""
    import torch

    from registry import plugins
    from tasks import networks, weights
    from tasks.networks._resized import Resized
    from tasks.targets import statistics

    options, bands = plan.options, statistics(chips)
    dates = 2 if plan.carries == "change" else 1
    module = plugins.load(networks, plan.network)
    network = module.build(len(bands) // dates, len(chips.classes), **plan.arguments)
    if options.resize_to:
        network = Resized(network, options.resize_to)
    if plan.pretrained:
        anew = weights.load_model(network, plan.pretrained.weights)
        origin = f"{plan.pretrained.name}, without {len(anew)} tensors" if anew else plan.pretrained.name
    else:
        names = [band.name for band in bands[: len(bands) // dates]]
        scheme = weights.Bands(names, options.weight_init_scheme)
        origin = weights.load_backbone(network.backbone, options.backbone_model, options.pretrained_weights, scheme)
    if origin != "random" and options.freeze_model:
        network.backbone.freeze()
    return network.to(memory_format=torch.channels_last), origin


def _monitor(plan: _Plan) -> str:
    from tasks.goals import GOALS

    goal = GOALS[plan.carries]
    names = {"AUTO": next(iter(goal.monitors.values())), "VALID_LOSS": "validation_loss", **goal.monitors}
    if plan.options.monitor not in names:
        do = f"choose one of {', '.join(names)}"
        raise OptionsError(f"monitor does not fit {goal.name}", got=plan.options.monitor, do=do)
    return names[plan.options.monitor]


def _write(chips: ChipFolder, out: Path, plan: _Plan, fitted: _Fitted) -> ModelFolder:
    """Everything but the definition, then the definition: it means finished."""
    from tasks import report
    from tasks.definition import Training, definition
    from tasks.goals import GOALS
    from tasks.provenance import described, machine

    goal = GOALS[plan.carries]
    _write_weights(fitted.network, out / f"{out.name}.pth")
    for source in travelling(goal.function, plan.network, resized=bool(plan.options.resize_to)):
        with atomic(out / source.name) as part:
            shutil.copyfile(source, part)
    training = Training(out.name, goal, plan.carries, plan.network, plan.arguments, plan.options, fitted.rate)
    emd = definition(chips, training, fitted.scores)
    report.write_losses(out, fitted.epochs)
    report.write_loss_graph(out, fitted.epochs)
    report.write_metrics_page(
        out,
        emd,
        name=out.name,
        hyperparameters=plan.options.model_dump(mode="json"),
        provenance=_provenance(chips, fitted),
        epochs=fitted.epochs,
        data={"training": described(chips, plan.training), "validation": described(chips, plan.validation)},
        machine=machine(),
    )
    emd.validate(out).write(out / f"{out.name}.emd")
    shutil.rmtree(out / ".checkpoints", ignore_errors=True)
    return ModelFolder(out)


def _provenance(chips: ChipFolder, fitted: _Fitted) -> dict[str, Any]:
    return {
        "data_digest": chips.digest,
        "chips": len(chips.names),
        "weights_from": fitted.origin,
        "epochs": len(fitted.epochs),
    }


def _write_weights(network: Any, path: Path) -> None:
    """A plain state dict of float32 tensors, which every torch since 1.6 loads (ArcGIS formats C.3)."""
    import torch

    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    with atomic(path) as part, part.open("wb") as file:
        torch.save(state, file)
