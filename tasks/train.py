"""Train Deep Learning Model: a folder of exported chips in, a model folder out.

    model/  name.pth  name.emd (last)  the raster function's and the network's source  augmentation.json
            model_metrics.html  ModelCharacteristics/{loss_graph.png, show_results.png, training_validation_loss.json}

The folder's name is the model's name, as in ArcGIS. What lies in the folder is what is evaluated, packaged and run.
"""

import inspect
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.dlpk import ModelFolder, open_model
from registry.emd import background_name
from registry.errors import OptionsError, TrainingError
from registry.files import atomic, sha256, sweep_folder
from tasks import receipt
from tasks.chips import OF_CHIPS, OF_PIXELS, ChipFolder
from tasks.progress import OnEpoch, OnProgress, ignore
from tasks.train_options import CHECKPOINTS, TrainOptions
from tasks.travelling import travelling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.loading import Loading
    from tasks.scores import Scores

__all__ = ["TrainOptions", "train_model"]

log = logging.getLogger("dlpk.train")

ASKED = ("weights", "focal", "mixup", "multilabel")  # arguments of build() that each training asks for by itself
LEARNING = (  # how the names begin of those that change how a network learns or how much it answers, not what it is
    *("dice", "drop", "focal", "label_smoothing", "location_loss_factor", "mixup", "smoothing", "weights"),
    *("box_", "detections", "rpn_"),
)


def train_model(
    chips: ChipFolder, out: Path, options: TrainOptions, *, on_epoch: OnEpoch = ignore, on_progress: OnProgress = ignore
) -> ModelFolder:
    """Train on chips, as Train Deep Learning Model does (ArcGIS formats C, F.2).

    A killed training goes on at its last epoch; a finished one of the same chips and options is returned as it is.
    Raises OptionsError, LabelError, TrainingError, NotFound (weights), Conflict (another model lies there, or another
    process trains there).
    """
    from tasks import augment

    out = out if out.name not in ("", "..") else out.resolve()  # "." would be a model without a name
    facts = _facts(chips, options)
    receipt.check(out, "train", facts)
    if (out / f"{out.name}.emd").is_file():
        return _finished(out)
    plan = _plan(chips, options)
    start = _start(chips, plan)
    receipt.claim(out, "train", facts)  # only now: options that do not fit leave nothing behind
    with receipt.hold(out) if _holds(options) else nullcontext():
        if (out / f"{out.name}.emd").is_file():  # another process has just finished it
            return _finished(out)
        augment.save(plan.loading.augment, out)
        fitted = _fit_what_fits(chips, out, plan, start, (on_epoch, on_progress))
        return _write(chips, out, plan, fitted)


def _holds(options: TrainOptions) -> bool:
    """Of several processes that write to the folder together the first of a machine; on several machines none."""
    return options.num_nodes == 1 and os.environ.get("LOCAL_RANK", "0") == "0"


def _facts(chips: ChipFolder, options: TrainOptions) -> receipt.Facts:
    """What makes it this training: with other content a file that the options name makes another one."""
    named = [Path(name) for name in (options.augmentation_file, options.pretrained_weights) if name]
    if options.pretrained_model and (model := Path(options.pretrained_model)).exists():
        folder = open_model(model)
        named += [folder.emd_path, folder.weights]
    files = {str(path): sha256(path) for path in named if path.is_file()}
    facts = {"chips": chips.digest, "options": options.model_dump(mode="json")}
    return {**facts, "files": files} if files else facts


@dataclass(frozen=True)
class _Plan:
    """What is to be trained, before the first weight is drawn."""

    options: TrainOptions
    carries: str  # key of `tasks.goals.GOALS`
    network: str
    arguments: dict[str, Any]  # of its build()
    monitor: str  # our name of what decides the best epoch, "" = the last one is it
    loading: "Loading"
    training: list[str]  # names of chips
    validation: list[str]
    trained_on: dict[str, int | str]  # what the chips of `training` show, by name of the class
    validated_on: dict[str, int | str]
    pretrained: ModelFolder | None  # a model to go on from

    @property
    def bands(self) -> tuple[int, ...]:
        """Of `Chip.dates`, those that the network sees."""
        assert self.loading.bands is not None
        return self.loading.bands


@dataclass(frozen=True)
class _Start:
    """The network with the weights that it begins with."""

    network: Any
    origin: str  # of the weights; "random"


@dataclass(frozen=True)
class _Fitted:
    """What came of it."""

    network: Any
    scores: "Scores"  # of the validation chips
    epochs: list[Any]
    best: int  # number of the epoch that is kept
    rate: float
    origin: str  # of the weights that it began with


def _plan(chips: ChipFolder, options: TrainOptions) -> _Plan:
    from tasks import loading
    from tasks.augment import pipeline
    from tasks.goals import carried

    pretrained = open_model(Path(options.pretrained_model)) if options.pretrained_model else None
    carries, name, module = _network(chips, carried(chips), options, pretrained)
    if chips.unlabelled:
        log.warning("%d of %d chips have no label file and are left out", len(chips.unlabelled), len(chips.pictures))
    ignored = _ignored(chips, options)
    augment = pipeline(
        options,
        map_space=chips.definition.document.get("ImageSpaceUsed", "MAP_SPACE") == "MAP_SPACE",
        square=carries in OF_CHIPS or len(set(chips.tile_shape)) == 1,
        dates=2 if carries == "change" else 1,
        whole=carries in OF_CHIPS,
    )
    bands = _extracted(chips, options, pretrained)
    names = loading.usable(chips)
    counted, boxes = loading.look(chips, names, ignored)  # reads all: a broken chip is told now
    held = loading.holdings(names, counted, ignored)
    training, validation = loading.divide(chips, options.validation_percentage / 100, held)
    monitor = _monitor(carries, options, judges=any(held[name].any() for name in validation))
    row = {name: i for i, name in enumerate(names)}
    unseen = counted[[row[name] for name in validation]]
    counted, boxes = counted[[row[name] for name in training]], [boxes[row[name]] for name in training]
    shown = partial(_shown, chips, ignored=ignored, pixels=carries in OF_PIXELS)
    loading.check_classes(chips, counted, ignored)
    load = loading.Loading(
        batch_size=options.batch_size,
        carries=carries,
        bands=bands,
        ignored=ignored,
        augment=augment,
        rarity=loading.rarity(counted, ignored) if options.oversample else None,
        seed=options.seed,
        workers=options.workers,
    )
    arguments = _known(pretrained, module, options) if pretrained else _suggested(chips, boxes, module, options)
    balance = loading.balance(counted) if options.class_balancing else []
    arguments |= options.network_options | _asked(carries, options, balance, module)
    loading.check_augmentation(chips, training, load)
    return _Plan(
        options,
        carries,
        name,
        arguments,
        monitor,
        load,
        training,
        validation,
        shown(counted),
        shown(unseen),
        pretrained,
    )


def _extracted(chips: ChipFolder, options: TrainOptions, pretrained: ModelFolder | None) -> tuple[int, ...]:
    """Of `Chip.dates`, the bands to learn from; those of both dates.

    A model to go on from that read some of its bands goes on with those: the same names, else the same places.
    Raises OptionsError for one that is not there.
    """
    from tasks.band_choice import places
    from tasks.targets import statistics

    names = [band.name for band in chips.band_statistics]
    wanted = tuple(int(b) if str(b).isdecimal() else b for b in options.extract_bands)
    if pretrained and not wanted and len(pretrained.emd.extract_bands) < len(pretrained.emd.band_statistics):
        named = _read(pretrained, 2 if chips.paired else 1)
        wanted = named if len({*named} & {*names}) == len(named) else pretrained.emd.extract_bands[: len(named)]
    found = places(wanted, names) if wanted else list(range(len(names)))
    if -1 in found or len(set(found)) < len(found):
        do = f"name each once, of {', '.join(f'{i} {name}' for i, name in enumerate(names))}"
        raise OptionsError("extract_bands: no such bands, or one twice", where=chips.path, got=list(wanted), do=do)
    return tuple(date + band for date in range(0, len(statistics(chips)), len(names)) for band in found)


def _read(model: ModelFolder, dates: int) -> tuple[str, ...]:
    """Names of the bands that a model reads, those of the first of its dates."""
    bands, known = model.emd.extract_bands, model.emd.band_statistics
    return tuple(known[band].name if isinstance(band, int) else band for band in bands[: len(bands) // dates])


def _shown(
    chips: ChipFolder, counted: "NDArray[np.int64]", ignored: Sequence[int], *, pixels: bool
) -> dict[str, int | str]:
    """By class that counts, of chips of (chips, classes + 1) objects or pixels: how many, or which share of them."""
    from tasks.provenance import shares

    total = counted.sum(axis=0)
    total[list(ignored)] = 0
    names = [label.name for label in chips.classes]
    names = [background_name(names), *names]
    found = {name: int(n) for name, n in zip(names, total, strict=True) if n}
    return shares(found) if pixels else {**found}


def _ignored(chips: ChipFolder, options: TrainOptions) -> tuple[int, ...]:
    """Class indexes of the Values in ignore_classes."""
    from tasks.chips import class_index

    index = class_index(chips.classes)
    if unknown := sorted(set(options.ignore_classes) - set(index)):
        raise OptionsError("ignore_classes names values of no class", got=unknown, do=f"choose among {sorted(index)}")
    return tuple(index[value] for value in options.ignore_classes)


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
    name = _known_as(options.network) or goal.network
    if pretrained and (name := pretrained.emd.model_configuration) not in plugins.names(networks):
        do = "go on from a model that was trained here; of a package of the extension flavour, from its model folder"
        raise OptionsError("pretrained_model is of none of the networks here", where=pretrained.path, got=name, do=do)
    module = plugins.load(networks, name)
    draws = getattr(module, "INSTANCES", False)
    if goal.name not in module.SERVES or (draws and carries != "instances"):
        known = {n: plugins.load(networks, n) for n in plugins.names(networks)}
        fits = [n for n, m in known.items() if goal.name in m.SERVES]
        fits = [n for n in fits if carries == "instances" or not getattr(known[n], "INSTANCES", False)]
        what = f"network {name!r} cannot learn from {chips.metadata_format} chips"
        raise OptionsError(what, do=f"choose one of {', '.join(fits)}")
    return "boxes" if carries == "instances" and not draws else carries, name, module


def _known_as(network: str) -> str:
    """Our name of what ArcGIS calls FASTERRCNN or FEATURE_CLASSIFIER (F.2); any other as it is."""
    from registry import plugins
    from tasks import networks

    ours = {name.replace("_", ""): name for name in plugins.names(networks)}
    return ours.get(network.lower().replace("_", ""), network)


def _known(model: ModelFolder, module: Any, options: TrainOptions) -> dict[str, Any]:
    """Arguments of build() of a model to go on from, without those that a training has to ask for.

    Raises OptionsError for a network option that would make another network of it.
    """
    known = dict(model.emd.document.get("NetworkOptions") or {})
    usual = {name: parameter.default for name, parameter in inspect.signature(module.build).parameters.items()}
    other = {
        key: value
        for key, value in options.network_options.items()
        if not key.startswith(LEARNING) and receipt.plain(value) != receipt.plain(known.get(key, usual.get(key)))
    }
    if other:
        what = f"the pretrained model keeps its {', '.join(other)}"
        raise OptionsError(what, where=model.path, got=other, do="leave it out of network_options, or train anew")
    return {key: value for key, value in known.items() if key not in ASKED}


def _suggested(chips: ChipFolder, boxes: Sequence[Any], module: Any, options: TrainOptions) -> dict[str, Any]:
    """Arguments of build(): the backbone, and what the network makes of the sizes of the objects."""
    sides: list[float] = []
    if hasattr(module, "suggest"):
        scale = (options.resize_to or chips.tile_size) / chips.tile_size
        sides = [scale * ((x1 - x0) * (y1 - y0)) ** 0.5 for own in boxes for x0, y0, x1, y1 in own.tolist()]
    return {"backbone": options.backbone_model, **(module.suggest(sides) if sides else {})}


def _asked(carries: str, options: TrainOptions, balance: list[float], module: Any) -> dict[str, Any]:
    """Arguments of build() that follow from chips and options of this training, whatever was trained before: ASKED.

    Raises OptionsError for a way to learn that labels of this kind, or the network, do not know.
    """
    pixels, objects = carries in OF_PIXELS, carries in OF_CHIPS
    focal = pixels or "focal" in inspect.signature(module.build).parameters
    fits = {"class_balancing": pixels, "focal_loss": focal, "mixup": pixels or objects, "ignore_classes": not objects}
    if vain := [name for name, fit in fits.items() if getattr(options, name) and not fit]:
        raise OptionsError(
            f"{', '.join(vain)} does nothing for {module.__name__.rpartition('.')[2]}", do="leave it out"
        )
    asked: dict[str, Any] = {"weights": balance} if pixels else {}
    asked |= {"focal": 2.0} if options.focal_loss else {}
    asked |= {"mixup": True} if options.mixup else {}
    asked |= {key: options.network_options[key] for key in asked if key in options.network_options}
    return {**asked, "multilabel": carries == "labels"} if objects else asked


def _monitor(carries: str, options: TrainOptions, *, judges: bool) -> str:
    """`judges`: the chips to validate with hold something to find; where they do not, the last epoch is the best."""
    from tasks.goals import GOALS

    goal = GOALS[carries]
    names = {"AUTO": next(iter(goal.monitors.values())), "VALID_LOSS": "validation_loss", "NONE": "", **goal.monitors}
    if options.monitor not in names:
        do = f"choose one of {', '.join(names)}"
        raise OptionsError(f"monitor does not fit {goal.name}", got=options.monitor, do=do)
    if names[options.monitor] and not judges:
        log.warning("no chip to validate with holds a class: none tells the best epoch, so the last one is kept")
        return ""
    return names[options.monitor]


def _start(chips: ChipFolder, plan: _Plan) -> _Start:
    import torch

    from tasks import fitting, weights
    from tasks.networks._resized import Resized
    from tasks.targets import statistics

    options, known = plan.options, statistics(chips)
    dates = 2 if plan.carries == "change" else 1
    bands = [known[band] for band in plan.bands[: len(plan.bands) // dates]]
    fitting.prepare(options.seed, options.devices)
    network = _built(plan, len(bands), len(chips.classes))
    scheme = weights.Bands([band.name for band in bands], options.weight_init_scheme)
    if plan.pretrained:
        scheme = scheme.after(_read(plan.pretrained, dates))
        names = [label.name for label in chips.classes]
        bare = replace(plan, arguments={key: value for key, value in plan.arguments.items() if key != "weights"})
        larger = partial(_built, bare, len(bands), len(names) + 1)
        anew = weights.load_model(network, plan.pretrained, scheme, names, larger)
        origin = f"{plan.pretrained.name}, without {len(anew)} tensors" if anew else plan.pretrained.name
    else:
        name = str(plan.arguments["backbone"])
        origin = weights.load_backbone(network.backbone, name, options.pretrained_weights, scheme)
    if origin != "random" and options.freeze_model:
        network.backbone.freeze(adapted=not scheme.plain(len(bands)))
    network = Resized(network, options.resize_to, chips.tile_size) if options.resize_to else network
    return _Start(network.to(memory_format=torch.channels_last), origin)


def _built(plan: _Plan, bands: int, classes: int) -> Any:
    """The bare network. Raises OptionsError for a backbone or arguments that it cannot be built with."""
    from registry import plugins
    from tasks import networks

    module, weights = plugins.load(networks, plan.network), plan.arguments.get("weights")
    if weights and len(weights) != classes + 1:
        do = f"give {classes + 1} numbers, that of the background first"
        raise OptionsError("network_options has too few or too many weights", got=weights, do=do)
    try:
        return module.build(bands, classes, **plan.arguments)
    except (ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:  # torchvision's, timm's and ours
        do = "choose another backbone_model, or look at network_options"
        raise OptionsError(f"network {plan.network} cannot be built ({error})", got=plan.arguments, do=do) from error


def _fit_what_fits(
    chips: ChipFolder, out: Path, plan: _Plan, start: _Start, told: tuple[OnEpoch, OnProgress]
) -> _Fitted:
    """`_fit`, with fewer chips in a batch when memory runs out.

    Raises TrainingError when one is too much, or too little: of 32 pixels nothing is left but one value of each map.
    """
    from tasks import checkpoints

    while True:
        size = checkpoints.batch_size(out, plan.options.batch_size)
        try:
            return _fit(chips, out, replace(plan, loading=replace(plan.loading, batch_size=size)), start, told)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            what = "a single chip of this size in a batch is too little to normalise"
            raise TrainingError(what, do="use a batch_size of 2 or more, or larger chips") from error
        except (RuntimeError, MemoryError) as error:
            if checkpoints.peer_is_gone(error):
                do = "look at what it said, then run the same command again: it goes on after the last whole epoch"
                raise TrainingError("one of the processes that train together has ended", do=do) from error
            if not checkpoints.out_of_memory(error):
                raise
            checkpoints.halve(out, size, error)
            if plan.options.devices * plan.options.num_nodes > 1:
                do = "run the same command again: it begins with half the chips in a batch"
                raise TrainingError("memory ran out in one of several processes", do=do) from error
        checkpoints.free_memory()
        start = _start(chips, plan)


def _fit(chips: ChipFolder, out: Path, plan: _Plan, start: _Start, told: tuple[OnEpoch, OnProgress]) -> _Fitted:
    """From the last checkpoint where there is one, to the best epoch."""
    from tasks import checkpoints, fitting, loading
    from tasks.goals import GOALS
    from tasks.telling import Telling

    options, goal, network = plan.options, GOALS[plan.carries], start.network
    telling = Telling(out, goal.told.values(), *told)
    trainer = fitting.trainer(out, options, plan.monitor, telling, plan.loading.batch_size)
    load = replace(plan.loading, part=trainer.global_rank, parts=trainer.world_size)
    train = loading.loader(chips, plan.training, load, train=True)
    validate = loading.loader(chips, plan.validation, load, train=False)
    rate = options.learning_rate or _found_rate(chips, out, plan, network, told[1])
    known, never = start.origin != "random", plan.loading.ignored
    fit = fitting.Fitting(network, chips.classes, goal, options, rate=rate, pretrained=known, never=never)
    fitting.run(trainer, fit, train, validate, checkpoints.resume_point(out))
    if not trainer.is_global_zero:
        raise SystemExit(0)  # one process writes the model, the others have done their part
    best = checkpoints.load_best(network, out)
    fit.average = None
    return _Fitted(network, fitting.score(out, fit, validate), telling.epochs, best, rate, start.origin)


def _found_rate(chips: ChipFolder, out: Path, plan: _Plan, network: Any, on_progress: OnProgress) -> float:
    """By a range test over the chips of all processes, so that each of them finds the same."""
    import torch

    from tasks import checkpoints, loading
    from tasks.rate_test import find_rate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = loading.loader(chips, plan.training, plan.loading, train=True)
    return checkpoints.found_rate(out, lambda: find_rate(network, batches, device=device, on_progress=on_progress))


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
    looks = _looks(fitted.network, plan)
    settled = (out.name, goal, plan.carries, plan.network, plan.arguments, plan.options, fitted.rate, plan.bands)
    emd = definition(chips, Training(*settled, looks), fitted.scores)
    report.write_loss_graph(out, fitted.epochs, fitted.best)
    training = described(chips, plan.training, plan.trained_on)
    validation = described(chips, plan.validation, plan.validated_on)
    report.write_metrics_page(
        out,
        emd,
        name=out.name,
        hyperparameters=plan.options.model_dump(mode="json"),
        provenance=_provenance(chips, fitted),
        epochs=fitted.epochs,
        data={"training": training, "validation": validation},
        machine=machine(),
    )
    emd.validate(out).write(out / f"{out.name}.emd")
    return _finished(out)


def _finished(out: Path) -> ModelFolder:
    """A model that is whole, without what it took to train it, or what a kill has left of that."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    with suppress(OSError):  # a model that may not be written stays as it is
        sweep_folder(out)
    return ModelFolder(out)


def _provenance(chips: ChipFolder, fitted: _Fitted) -> dict[str, Any]:
    return {
        "data_digest": chips.digest,
        "chips": len(chips.names),
        "weights_from": fitted.origin,
        "epochs": len(fitted.epochs),
    }


def _looks(network: Any, plan: _Plan) -> dict[str, int]:
    """Of a network for pixels; one that scales its tiles sees no picture of another size as it is."""
    from tasks.receptive_field import reach

    if plan.carries not in OF_PIXELS or plan.options.resize_to:
        return {}
    return reach(network.cpu().eval(), len(plan.bands))


def _write_weights(network: Any, path: Path) -> None:
    """A plain state dict of float32 tensors, which every torch since 1.6 loads (ArcGIS formats C.3)."""
    from tasks.weights import write_weights

    write_weights(path, {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()})
