"""The networks of ArcGIS's models that we have, too: how each is built here and what its tensors are called (A.5)."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.emd import Emd

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
UNET = (  # tensors of fastai's U-Net -> ours; the last layers are one further where one that resizes lies before them
    (r"layers\.0\.", "encoder."),
    (r"layers\.1\.", "norm."),
    (r"layers\.3\.0\.0\.", "middle.0."),
    (r"layers\.3\.1\.0\.", "middle.2."),
    *((rf"layers\.{4 + k}\.shuf\.conv\.0\.", f"blocks.{k}.up.") for k in range(4)),
    *((rf"layers\.{4 + k}\.bn\.", f"blocks.{k}.norm.") for k in range(4)),
    *((rf"layers\.{4 + k}\.conv1\.0\.", f"blocks.{k}.convolve.0.") for k in range(4)),
    *((rf"layers\.{4 + k}\.conv2\.0\.", f"blocks.{k}.convolve.2.") for k in range(4)),
    (r"layers\.8\.conv\.0\.", "last."),
    (r"layers\.1[01]\.layers\.0\.0\.", "inner."),
    (r"layers\.1[01]\.layers\.1\.0\.", "outer."),
    (r"layers\.1[12]\.0\.", "scores."),
)


@dataclass(frozen=True)
class Known:
    """A model of ArcGIS whose network is known here."""

    backbones: tuple[str, ...]
    network: str  # file of tasks/networks
    function: str  # raster function that runs it
    arguments: Callable[[Emd, str], dict[str, Any]]  # definition, backbone -> of the network's build()
    renamed: Callable[[str], str]  # tensors of its weights -> ours, "" = only of the training
    keys: Mapping[str, Any]  # of the new definition, where the old one has none


def _two_stages(kind: str, overlap: float) -> Callable[[Emd, str], dict[str, Any]]:
    """torchvision's, with the sizes and limits that ArcGIS gives them."""

    def arguments(emd: Emd, backbone: str) -> dict[str, Any]:
        from tasks.networks._detection import LEAST_SCORE

        sizes = {"min_size": 1.5 * emd.tile_size, "max_size": 2.0 * emd.tile_size}
        scores = {"box_score_thresh": LEAST_SCORE, "box_nms_thresh": overlap}
        given = emd.document.get("MaskRCNNkwargs") or emd.document.get("Kwargs") or {}
        told = dict(_options(given))
        options = {**scores, **told} if kind == "MaskRCNN" else {**told, **scores}  # it sets its own after building
        return {"kind": kind, "backbone": backbone, **sizes, **options}

    return arguments


def _options(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those that torchvision's class knows; the rest is of the training."""
    from torchvision.models.detection import FasterRCNN, MaskRCNN

    known = {*inspect.signature(FasterRCNN).parameters, *inspect.signature(MaskRCNN).parameters}
    known -= {"backbone", "num_classes", "kwargs", "min_size", "max_size", "image_mean", "image_std"}
    return ((name, value) for name, value in given.items() if name in known)


def _pixels(emd: Emd, backbone: str) -> dict[str, Any]:
    return {"backbone": backbone, "never": list(emd.document.get("ignore_mapped_class") or [])}


def _objects(_: Emd, backbone: str) -> dict[str, Any]:
    return {"backbone": backbone}


def _of_unet(name: str) -> str:
    for theirs, ours in UNET:
        if found := re.match(theirs, name):
            return ours + name[found.end() :]
    return name


def _of_detector(name: str) -> str:
    return f"network.{name}"


def _of_deeplab(name: str) -> str:
    return "" if name.startswith("aux_classifier.") else name


def _of_classifier(name: str) -> str:
    """0 is the ResNet, 1 the head; two layers of that pool, and have no weights."""
    part, number, *rest = name.split(".")
    return ".".join(["body", number, *rest] if part == "0" else ["head", str(int(number) - 2), *rest])


KNOWN = {  # ModelName ->
    "FasterRCNN": Known(
        ("resnet50", "resnet101", "resnet152"),
        "_torchvision",
        "DetectObjects",
        _two_stages("FasterRCNN", 0.1),
        _of_detector,
        {"Threshold": 0.5},
    ),
    "MaskRCNN": Known(
        RESNETS, "_torchvision", "DetectObjects", _two_stages("MaskRCNN", 0.5), _of_detector, {"Threshold": 0.9}
    ),
    "UnetClassifier": Known(RESNETS, "_dynamic_unet", "ClassifyPixels", _pixels, _of_unet, {}),
    "DeepLab": Known(RESNETS, "_dilated_deeplab", "ClassifyPixels", _pixels, _of_deeplab, {}),
    "FeatureClassifier": Known(RESNETS, "_fastai_classifier", "ClassifyObjects", _objects, _of_classifier, {}),
}
