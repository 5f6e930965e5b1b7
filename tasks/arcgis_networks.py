"""The networks of ArcGIS's models that we have, too: how each is built here and what its tensors are called (A.5)."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.emd import Emd, ModelType

EXTENSION = "_model_extension_inferencing"  # ModelConfiguration of models that bring a class for arcgis.learn
OVERLAP = 0.1  # its default of nms_overlap
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
FAMILY = (*RESNETS, "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")  # built as they are
Names = tuple[tuple[str, str | None], ...]  # how a tensor's name begins -> ours, None: of the training; the first fits
INNER: Names = (("", "model."),)
WHOLE: Names = (("", "network."),)
SSD: Names = ((r"0\.", "body."), (r"1\.", "head."))
STANET: Names = ((r"netA\.Self_Att\.gamma", None), (r"netA\.Self_Att\.", "attention."), (r"netF\.module\.", ""))
DEEPLAB: Names = ((r"aux_classifier\.", None),)


def _steps_up(first: int, count: int) -> tuple[tuple[str, str], ...]:
    """Of fastai's U-Net, each with the map that it joins."""
    steps = [(rf"layers\.{first + k}\.", f"blocks.{k}.") for k in range(count)]
    return tuple(
        (theirs + part, ours + name)
        for theirs, ours in steps
        for part, name in (
            *((r"shuf\.conv\.0\.", "up."), (r"bn\.", "norm.")),
            *((r"conv1\.", "convolve.0."), (r"conv2\.", "convolve.1.")),
        )
    )


UNET: Names = (  # the last layers are one further where one that resizes lies before them
    (r"layers\.0\.", "encoder."),
    (r"layers\.1\.", "norm."),
    (r"layers\.3\.", "middle."),
    *_steps_up(4, 4),
    (r"layers\.8\.conv\.0\.", "last."),
    (r"layers\.1[01]\.layers\.0\.0\.", "inner."),
    (r"layers\.1[01]\.layers\.1\.0\.", "outer."),
    (r"layers\.1[12]\.0\.", "scores."),
)
PSPNET: Names = (  # with fastai's decoder, itself a part of a model or not, and without
    (r"aux_logits\.", None),
    (r"(model\.)?layers\.0\.8\.", "ppm."),
    (r"(model\.)?layers\.0\.9\.", "narrow."),
    (r"(model\.)?layers\.0\.", "backbone."),
    (r"(model\.)?layers\.1\.", "norm."),
    (r"(model\.)?layers\.3\.", "middle."),
    *((rf"(model\.)?{theirs}", ours) for theirs, ours in _steps_up(4, 2)),
    (r"(model\.)?layers\.6\.conv\.0\.", "last."),
    (r"(model\.)?layers\.7\.", "final."),
)


@dataclass(frozen=True)
class Known:
    """A model of ArcGIS whose network is known here."""

    backbones: tuple[str, ...]
    network: str  # file of tasks/networks
    function: str  # raster function that runs it
    arguments: Callable[[Emd, str], dict[str, Any]]  # definition, backbone -> of the network's build()
    renamed: Callable[[str], str | None]  # tensors of its weights -> ours, None = only of the training
    keys: Mapping[str, Any]  # of the new definition, where the old one has none
    dates: int = 1  # rasters whose bands it reads, one behind the other
    brings: str = ""  # the file of the model that makes its network: a stranger's code, so its weights are not tried


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


def _pooled(emd: Emd, backbone: str) -> dict[str, Any]:
    parameters = emd.document["ModelParameters"]
    told = {name: parameters[name] for name in ("pyramid_sizes", "use_unet") if name in parameters}
    return {**_pixels(emd, backbone), **told}


def of_extension(emd: Emd) -> Known | None:
    """A model that extends arcgis.learn by a class of its own (B.5), where a raster function of ours can run it."""
    function = {ModelType.OBJECT_DETECTION: "DetectObjects", ModelType.IMAGE_CLASSIFICATION: "ClassifyPixels"}
    if emd.document.get("ModelConfiguration") != EXTENSION or emd.model_type not in function:
        return None
    file, keys = str(emd.document.get("ModelConfigurationFile", "ModelConfiguration.py")), {"Threshold": 0.5}
    runs = function[emd.model_type]
    detects = runs == "DetectObjects"
    return Known((), "_configured", runs, _configured, _renamed(INNER), keys if detects else {}, brings=file)


def _configured(emd: Emd, backbone: str) -> dict[str, Any]:
    document = emd.document
    detects = emd.model_type == ModelType.OBJECT_DETECTION
    return {
        "file": str(document.get("ModelConfigurationFile", "ModelConfiguration.py")),
        "kind": str(document.get("ModelFileConfigurationClass")),
        "detects": detects,
        **({"box_nms_thresh": OVERLAP} if detects else {}),
        "edges": bool(document.get("IsEdgeDetection")),
        "side": emd.tile_size,
        "multispectral": "NormalizationStats" in document,
        "names": [one.name for one in emd.classes],
        "read": list(document["ExtractBands"]),
        "backbone": None if backbone == "None" else backbone,
        "options": {
            **(document.get("Kwargs") or {}),
            "ArcGISLearnVersion": str(document.get("ArcGISLearnVersion", "1.0.0")),
        },
    }


def _two_dates(emd: Emd, backbone: str) -> dict[str, Any]:
    return {"backbone": backbone, "attention": emd.document["ModelParameters"].get("attention_type", "PAM")}


def _objects(_: Emd, backbone: str) -> dict[str, Any]:
    return {"backbone": backbone}


def _on_grids(emd: Emd, backbone: str) -> dict[str, Any]:
    grids = {"grids": emd.document["Grids"], "zooms": emd.document["Zooms"], "ratios": emd.document["Ratios"]}
    version = int(emd.document.get("SSDVersion", 1))
    return {"backbone": backbone, "side": emd.tile_size, **grids, "version": version, "box_nms_thresh": OVERLAP}


def _on_levels(emd: Emd, backbone: str) -> dict[str, Any]:
    parameters = emd.document["ModelParameters"]
    sizes = {name: parameters[name] for name in ("scales", "ratios")}
    return {"backbone": backbone, **sizes, "box_nms_thresh": OVERLAP}


def _renamed(table: Names) -> Callable[[str], str | None]:
    def renamed(name: str) -> str | None:
        for theirs, ours in table:
            if found := re.match(theirs, name):
                return None if ours is None else ours + name[found.end() :]
        return name

    return renamed


def _of_classifier(name: str) -> str:
    """0 is the ResNet, 1 the head; two layers of that pool, and have no weights."""
    part, number, *rest = name.split(".")
    return ".".join(["body", number, *rest] if part == "0" else ["head", str(int(number) - 2), *rest])


KNOWN = {  # ModelName ->
    "FasterRCNN": Known(
        ("resnet50", "resnet101", "resnet152"),
        "_torchvision",
        "DetectObjects",
        _two_stages("FasterRCNN", OVERLAP),
        _renamed(WHOLE),
        {"Threshold": 0.5},
    ),
    "MaskRCNN": Known(
        RESNETS, "_torchvision", "DetectObjects", _two_stages("MaskRCNN", 0.5), _renamed(WHOLE), {"Threshold": 0.9}
    ),
    "SingleShotDetector": Known(FAMILY, "_grid_ssd", "DetectObjects", _on_grids, _renamed(SSD), {"Threshold": 0.5}),
    "RetinaNet": Known(FAMILY, "_fastai_retinanet", "DetectObjects", _on_levels, _renamed(()), {"Threshold": 0.5}),
    "UnetClassifier": Known(FAMILY, "_dynamic_unet", "ClassifyPixels", _pixels, _renamed(UNET), {}),
    "PSPNetClassifier": Known(FAMILY, "_pyramid_pooling", "ClassifyPixels", _pooled, _renamed(PSPNET), {}),
    "DeepLab": Known(FAMILY, "_dilated_deeplab", "ClassifyPixels", _pixels, _renamed(DEEPLAB), {}),
    "FeatureClassifier": Known(FAMILY, "_fastai_classifier", "ClassifyObjects", _objects, _of_classifier, {}),
    "ChangeDetector": Known(RESNETS, "_stanet", "DetectChange", _two_dates, _renamed(STANET), {}, dates=2),
}
