"""Models that ArcGIS trained, written again so that they run without it (ArcGIS formats A.4 to A.6).

Their raster function is a part of ArcGIS, but the network of some is torchvision's own and their weights are its state:
FasterRCNN and MaskRCNN over a ResNet's feature pyramid. Numbers are normalised as there, tiles are scaled as there, so
the same tile gives the same objects.
"""

import inspect
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import OptionsError
from registry.files import atomic
from tasks.travelling import travelling

if TYPE_CHECKING:
    from torch import Tensor

NETWORK, FUNCTION = "_torchvision", "DetectObjects"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of 8-bit colours, as parts of 255
PYRAMIDS = {  # ModelName -> backbones that have one there
    "FasterRCNN": ("resnet50", "resnet101", "resnet152"),
    "MaskRCNN": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}
NMS = {"FasterRCNN": 0.1, "MaskRCNN": 0.5}  # overlap that its function asks of the network
THRESHOLD = {"FasterRCNN": 0.5, "MaskRCNN": 0.9}
LEAST_SCORE = 0.05  # what the network tells at all; the threshold comes on top
OF_ARCGIS = (  # keys that only its own functions read
    *("ArcGISLearnVersion", "ModelConfigurationFile", "ModelFileConfigurationClass", "DatasetType", "Kwargs"),
    *("MaskRCNNkwargs", "backend", "IsEdgeDetection", "resize_to"),
)
CODE = ("*.py", "*.emd", "*.dlpk", "*.pth", "__pycache__")


@dataclass(frozen=True)
class Origin:
    """What the definition tells of the network that ArcGIS trained."""

    kind: str  # FasterRCNN, MaskRCNN
    backbone: str
    options: Mapping[str, Any]  # of torchvision's class

    @classmethod
    def of(cls, emd: Emd) -> "Origin":
        """Raises OptionsError for a model whose network is not torchvision's own."""
        document = emd.document
        kind, parameters = str(document.get("ModelName")), document.get("ModelParameters") or {}
        backbone = str(parameters.get("backbone"))
        resized = document.get("resize_to") not in (None, emd.tile_size, [emd.tile_size, emd.tile_size])
        known = "ArcGISLearnVersion" in document and backbone in PYRAMIDS.get(kind, ())
        if not known or parameters.get("pointrend") or resized:
            able = "; ".join(f"{name} over {', '.join(backbones)}" for name, backbones in PYRAMIDS.items())
            extras = ", tiles resized" * resized + ", PointRend" * bool(parameters.get("pointrend"))
            got = f"{kind} over {backbone}{extras}"
            do = "run it in ArcGIS, or where the arcgis library of Python is installed"
            raise OptionsError(
                f"only these of ArcGIS's models can be converted: {able}", where=emd.where, got=got, do=do
            )
        given = document.get("MaskRCNNkwargs") or document.get("Kwargs") or {}
        return cls(kind, backbone, dict(_options(given)))

    def arguments(self, tile: int) -> dict[str, Any]:
        """Of `build` in `networks/_torchvision.py`, for tiles of that side in pixels."""
        sizes = {"min_size": 1.5 * tile, "max_size": 2.0 * tile}
        scores = {"box_score_thresh": LEAST_SCORE, "box_nms_thresh": NMS[self.kind]}
        told = {**scores, **self.options} if self.kind == "MaskRCNN" else {**self.options, **scores}
        return {"kind": self.kind, "backbone": self.backbone, **sizes, **told}


def convert(model: ModelFolder, folder: Path) -> ModelFolder:
    """Write a model that ArcGIS trained again, into `folder`, which is made; it then runs here and in ArcGIS Pro.

    Raises OptionsError for a model whose network is not torchvision's own, or whose weights are of another network.
    """
    emd = model.emd
    origin = Origin.of(emd)
    arguments = origin.arguments(emd.tile_size)
    state = _state(model, arguments)
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns(*CODE))
    with atomic(folder / emd.model_file) as part, part.open("wb") as file:
        import torch

        torch.save(state, file)
    for source in travelling(FUNCTION, NETWORK):
        shutil.copyfile(source, folder / source.name)
    _definition(emd, origin, arguments, folder.name).validate(folder).write(folder / f"{folder.name}.emd")
    return ModelFolder(folder)


def _options(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those that torchvision's class knows; the rest is of the training."""
    from torchvision.models.detection import FasterRCNN, MaskRCNN

    known = {*inspect.signature(FasterRCNN).parameters, *inspect.signature(MaskRCNN).parameters}
    known -= {"backbone", "num_classes", "kwargs", "min_size", "max_size", "image_mean", "image_std"}
    return ((name, value) for name, value in given.items() if name in known)


def _state(model: ModelFolder, arguments: Mapping[str, Any]) -> "dict[str, Tensor]":
    """The weights under the names of our network; checked against it, tensor by tensor."""
    import torch

    from tasks.networks import _torchvision

    known = torch.load(model.weights, map_location="cpu", weights_only=True)
    known = known.get("model", known)  # a checkpoint that kept its optimiser
    emd = model.emd
    wanted = _torchvision.build(len(_normalisation(emd)[0]), len(emd.classes), **arguments).state_dict()
    state = {f"network.{name}": tensor for name, tensor in known.items()}
    state |= {name: t for name, t in wanted.items() if name not in state and name.endswith("num_batches_tracked")}
    odd = [name for name in {**wanted, **state} if _shape(wanted, name) != _shape(state, name)]
    if odd:
        do = "convert a model whose definition and weights belong together"
        where, got = model.weights, sorted(odd)[:3]
        raise OptionsError(f"{len(odd)} tensors are not those of the network", where=where, got=got, do=do)
    return state


def _shape(state: "Mapping[str, Tensor]", name: str) -> "tuple[int, ...] | None":
    return tuple(state[name].shape) if name in state else None


def _normalisation(emd: Emd) -> tuple[list[float], list[float]]:
    """What is taken from the pixels of each band that is read, and what they are divided by then (A.4)."""
    stats = emd.document.get("NormalizationStats")
    if not stats:
        return [255 * mean for mean in IMAGENET[0]], [255 * deviation for deviation in IMAGENET[1]]
    names = ("band_min_values", "band_max_values", "scaled_mean_values", "scaled_std_values")
    columns = [[float(stats[name][band]) for name in names] for band in emd.document["ExtractBands"]]
    means = [low + mean * (high - low) for low, high, mean, _ in columns]
    return means, [(high - low) * deviation for low, high, _, deviation in columns]


def _definition(emd: Emd, origin: Origin, arguments: Mapping[str, Any], name: str) -> Emd:
    means, deviations = _normalisation(emd)
    kept = {key: value for key, value in emd.document.items() if key not in OF_ARCGIS}
    made = f"{origin.kind} of ArcGIS, written again for torchvision"
    document = {
        **kept,
        "Framework": "PyTorch",
        "ModelConfiguration": NETWORK,
        "InferenceFunction": f"{FUNCTION}.py",
        "ModelName": name,
        "NetworkOptions": dict(arguments),
        "Normalization": {"Mean": means, "StdDev": deviations},
        "Threshold": emd.document.get("Threshold", THRESHOLD[origin.kind]),
        "Description": emd.document.get("Description") or made,
    }
    return Emd(document, where=emd.where)
