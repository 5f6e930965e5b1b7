"""Models that ArcGIS trained, written again so that they run without it (ArcGIS formats A.4 to A.6).

Their raster function is a part of ArcGIS, but the networks of some are known (`tasks.arcgis_networks`), and their
weights are ours to load; others bring the class that makes them. Numbers are normalised as there, so the same tile
gives the same result. No code of the model is run to write it again.
"""

import importlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import OptionsError
from tasks.arcgis_networks import KNOWN, Known, of_extension
from tasks.extension import IMAGENET
from tasks.travelling import travelling

if TYPE_CHECKING:
    from torch import Tensor

OF_ARCGIS = (  # keys that only its own functions read
    *("ArcGISLearnVersion", "ModelConfigurationFile", "ModelFileConfigurationClass", "DatasetType", "Kwargs"),
    *("MaskRCNNkwargs", "backend", "IsEdgeDetection", "ignore_mapped_class"),
    "resize_to",  # of the training: its functions show the network the tile as it is
)
WHOLE = "convert the model as ArcGIS saved it"
CODE = ("*.py", "*.[eE][mM][dD]", "*.dlpk", "*.pth", "__pycache__")


def convert(model: ModelFolder, folder: Path) -> ModelFolder:
    """Write a model that ArcGIS trained again, into `folder`, which is made; it then runs as our own models do.

    Raises OptionsError for a model whose network is not known here, or whose weights are of another network.
    """
    from tasks.weights import write_weights

    emd = model.emd
    known, backbone = known_network(emd)
    try:
        arguments = known.arguments(emd, backbone)
    except (KeyError, TypeError, ValueError) as error:
        raise OptionsError("tells its network in part only", where=emd.where, got=f"{error!r}", do=WHOLE) from error
    state = _state(model, known, arguments)
    brought = [_brought(model, known.brings)] if known.brings else []
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns(*CODE))
    write_weights(folder / emd.model_file, state)
    for source in [*brought, *travelling(known.function, known.network)]:
        shutil.copyfile(source, folder / source.name)
    _definition(emd, known, arguments, folder.name).validate(folder).write(folder / f"{folder.name}.emd")
    return ModelFolder(folder)


def known_network(emd: Emd) -> tuple[Known, str]:
    """What the model is here, and its backbone. Raises OptionsError where its network is not known."""
    document = emd.document
    name, parameters = str(document.get("ModelName")), document.get("ModelParameters") or {}
    backbone = str(parameters.get("backbone"))
    pointed = bool(parameters.get("pointrend"))
    if name not in KNOWN and (extension := of_extension(emd)):
        return extension, backbone
    known = KNOWN.get(name)
    if known and backbone in known.backbones and "ArcGISLearnVersion" in document and not pointed:
        return known, backbone
    able = "models that bring a class for arcgis.learn; " + "; ".join(
        f"{name} over {', '.join(known.backbones)}" for name, known in KNOWN.items()
    )
    got = f"{name} over {backbone}{', PointRend' * pointed}"
    do = "run it in ArcGIS, or where the arcgis library of Python is installed"
    raise OptionsError(f"only these of ArcGIS's models can be converted: {able}", where=emd.where, got=got, do=do)


def _brought(model: ModelFolder, name: str) -> Path:
    """The file of the package that makes the network."""
    file, kind = model.path / name, model.emd.document.get("ModelFileConfigurationClass")
    if file.parent == model.path and file.suffix == ".py" and file.is_file() and kind:
        return file
    what = "the class that makes the network is not in the package"
    do = "give the class in ModelFileConfigurationClass, its file in ModelConfigurationFile, and add the file"
    raise OptionsError(what, where=model.emd.where, got=f"{kind} of {name}", do=do)


def _state(model: ModelFolder, known: Known, arguments: Mapping[str, Any]) -> "dict[str, Tensor]":
    """The weights under the names of our network; checked against it, tensor by tensor."""
    from tasks.weights import read_weights

    state = {ours: t for name, t in _folded(read_weights(model.weights)) if (ours := known.renamed(name))}
    if known.brings:
        return state
    emd, network = model.emd, importlib.import_module(f"tasks.networks.{known.network}")
    bands = len(_normalisation(emd, known)[0]) // known.dates
    classes = sum(known.dates == 1 or one.value != 0 for one in emd.classes)  # of change, not of none
    try:
        wanted = network.build(bands, classes, **arguments).state_dict()
    except Exception as error:  # whatever torch makes of odd numbers
        raise OptionsError(
            f"no network is of this kind ({error!r})", where=emd.where, got=arguments, do=WHOLE
        ) from error
    state |= {name: t for name, t in wanted.items() if name not in state and name.endswith("num_batches_tracked")}
    odd = [name for name in {**wanted, **state} if _shape(wanted, name) != _shape(state, name)]
    if odd:
        do = "convert a model whose definition and weights belong together"
        where, got = model.weights, sorted(odd)[:3]
        raise OptionsError(f"{len(odd)} tensors are not those of the network", where=where, got=got, do=do)
    return state


def _folded(state: "Mapping[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    """Weights kept as length and direction (torch's weight_norm) as the one tensor that they stand for."""
    for name, tensor in state.items():
        if name.endswith(".weight_v") and (length := state.get(name[:-1] + "g")) is not None:
            yield name.removesuffix("_v"), tensor * (length / tensor.flatten(1).norm(dim=1).view_as(length))
        elif not name.endswith(".weight_g"):
            yield name, tensor


def _shape(state: "Mapping[str, Tensor]", name: str) -> "tuple[int, ...] | None":
    return tuple(state[name].shape) if name in state else None


def _normalisation(emd: Emd, known: Known) -> tuple[list[float], list[float]]:
    """What is taken from the pixels of each band that is read, and what they are divided by then (A.4)."""
    stats, read = emd.document.get("NormalizationStats"), emd.document["ExtractBands"]
    if known.dates == 2:  # to -1 at the least value and 1 at the greatest, on both dates by the statistics of one
        each = [_range(stats, band) if stats else (0.0, 255.0) for band in read[: len(read) // 2]]
        return [(low + high) / 2 for low, high in each] * 2, [(high - low) / 2 for low, high in each] * 2
    if not stats:
        return [255 * mean for mean in IMAGENET[0]], [255 * deviation for deviation in IMAGENET[1]]
    means, deviations = [], []
    for band in read:
        low, high = _range(stats, band)
        means.append(low + float(stats["scaled_mean_values"][band]) * (high - low))
        deviations.append((high - low) * float(stats["scaled_std_values"][band]))
    return means, deviations


def _range(stats: Mapping[str, Any], band: int) -> tuple[float, float]:
    return float(stats["band_min_values"][band]), float(stats["band_max_values"][band])


def _definition(emd: Emd, known: Known, arguments: Mapping[str, Any], name: str) -> Emd:
    means, deviations = _normalisation(emd, known)
    kept = {key: value for key, value in emd.document.items() if key not in OF_ARCGIS}
    document = {
        **known.keys,
        **kept,
        "Framework": "PyTorch",
        "ModelConfiguration": known.network,
        "InferenceFunction": f"{known.function}.py",
        "ModelName": name,
        "NetworkOptions": dict(arguments),
        "Normalization": {"Mean": means, "StdDev": deviations},
    }
    return Emd(document, where=emd.where)
