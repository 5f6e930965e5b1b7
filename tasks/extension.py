"""The extension flavour of a package: a model of ours that arcgis.learn opens, runs and trains on (ArcGIS formats B.5).

    roofs.emd  roofs.pth  ModelConfiguration.py  model_metrics.html  ModelCharacteristics/

In place of our raster function it names ArcGIS's own, which runs the class in ModelConfiguration.py.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment

from registry.dlpk import ModelFolder
from registry.emd import Emd, ModelType
from registry.errors import OptionsError
from registry.files import write_text
from tasks.travelling import RELATIVE, with_siblings

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATE = Path(__file__).with_name("templates") / "model_configuration.py.jinja"
NETWORKS = Path(__file__).with_name("networks")
MODULE, NAME = "ModelConfiguration.py", "DlpkNetwork"
DATA = {ModelType.OBJECT_DETECTION: "PASCAL_VOC_rectangles", ModelType.IMAGE_CLASSIFICATION: "Classified_Tiles"}
FUNCTIONS = {
    ModelType.OBJECT_DETECTION: "ArcGISObjectDetector",
    ModelType.IMAGE_CLASSIFICATION: "ArcGISImageClassifier",
}
WRITTEN_FOR = "2.4.1"  # arcgis.learn, whose code it was tried with
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation by which 8-bit colours come, of 0-1
OURS = ("NetworkOptions", "resize_to", "test_time_augmentation")  # keys that ArcGIS's functions would read otherwise


def extension_of(model: ModelFolder, folder: Path) -> ModelFolder:
    """Write a model folder of ours again as an extension, into `folder`, which is made.

    Raises OptionsError for a model that arcgis.learn has no place for: it extends detectors of boxes and pixel
    classifiers of one date.
    """
    import torch

    from tasks.weights import read_weights, write_weights

    _check(model)
    emd, scale, offset = model.emd, *_normalisation(model.emd)
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns("*.py", "*.emd", "*.pth", "*.dlpk", "augment*"))
    state: dict[str, Tensor] = {f"network.{key}": tensor for key, tensor in read_weights(model.weights).items()}
    state |= {key: torch.tensor(v).reshape(-1, 1, 1) for key, v in (("scale", scale), ("offset", offset))}
    write_weights(folder / emd.model_file, state)
    write_text(folder / MODULE, _configuration(emd, scale, offset))
    _definition(emd).validate(folder).write(folder / model.emd_path.name)
    return ModelFolder(folder)


def _check(model: ModelFolder) -> None:
    emd = model.emd
    converted = "Normalization" in emd.document
    if "NetworkOptions" not in emd.document or converted or emd.document.get("MetaDataMode") == "Panoptic_Segmentation":
        do = "take the package that it was converted from" if converted else "package it with --flavour self-contained"
        raise OptionsError("only a model that was trained here becomes an extension", where=model.path, do=do)
    change = emd.document.get("InferenceFunction") == "DetectChange.py"
    if emd.model_type not in DATA or change:
        what = "arcgis.learn extends detectors of boxes and pixel classifiers only"
        do = "package it with --flavour self-contained"
        raise OptionsError(what, where=model.path, got=f"{emd.model_type}{' of two dates' if change else ''}", do=do)


def _normalisation(emd: Emd) -> tuple[list[float], list[float]]:
    """Per band, what turns numbers as arcgis.learn normalises them into deviations from the mean, as we do."""
    stats = [emd.document["AllTilesStats"][band] for band in emd.document["ExtractBands"]]
    if emd.document.get("IsMultispectral"):
        return [1.0] * len(stats), [0.0] * len(stats)  # the same, by way of minimum and maximum (A.4)
    deviations = [float(s["StdDev"]) or 1.0 for s in stats]
    scale = [255 * s / d for s, d in zip(IMAGENET[1], deviations, strict=True)]
    offset = [(255 * m - float(s["Mean"])) / d for m, s, d in zip(IMAGENET[0], stats, deviations, strict=True)]
    return scale, offset


def _definition(emd: Emd) -> Emd:
    kept = {key: value for key, value in emd.document.items() if key not in OURS}
    function = FUNCTIONS[emd.model_type]
    document = {
        **kept,
        "Framework": "arcgis.learn.models._inferencing",
        "ModelConfiguration": "_model_extension_inferencing",
        "InferenceFunction": f"[Functions]System\\DeepLearning\\ArcGISLearn\\{function}.py",
        "ModelName": "ModelExtension",
        "ModelParameters": {"backbone": None, "backend": "pytorch"},
        "ModelConfigurationFile": MODULE,
        "ModelFileConfigurationClass": NAME,
        "DatasetType": DATA[emd.model_type],
        "IsEdgeDetection": False,
        "Kwargs": {},
        "resize_to": None,  # the network does it itself; arcgis.learn reads it where chips have another size
        "ArcGISLearnVersion": WRITTEN_FOR,
    }
    return Emd(document, where=emd.where)


def _configuration(emd: Emd, scale: list[float], offset: list[float]) -> str:
    """The class with its constants filled in."""
    network, resize = str(emd.document["ModelConfiguration"]), emd.document.get("resize_to")
    values = {
        "network": network,
        "arguments": emd.document["NetworkOptions"],
        "resize_to": resize,
        "detects": emd.model_type == ModelType.OBJECT_DETECTION,
        "classes": [one.name for one in emd.classes],
        "scale": scale,
        "offset": offset,
    }
    sources = [(repr(name), _literal(text)) for name, text in _sources([network, "_resized"] if resize else [network])]
    page = Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701  # it is no HTML
    template = page.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render({key: repr(value) for key, value in values.items()}, sources=sources)


def _sources(networks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and texts of the networks' files, each after those that it imports."""
    found = {file for name in networks for file in with_siblings(NETWORKS / f"{name}.py")}
    files = {file.stem: file.read_text(encoding="utf-8") for file in sorted(found)}
    return ((name, files[name]) for name in _ordered(files))


def _ordered(files: dict[str, str]) -> Iterator[str]:
    needs = {name: {m for m, _ in RELATIVE.findall(text) if m in files} for name, text in files.items()}
    done: set[str] = set()
    while len(done) < len(needs):
        ready = sorted(name for name, wanted in needs.items() if name not in done and wanted <= done)
        assert ready, "networks import each other in a ring"
        yield from ready
        done |= set(ready)


def _literal(text: str) -> str:
    """As people can read it where that is possible."""
    plain = "'''" not in text and "\\" not in text
    return f"'''{text}'''" if plain else repr(text)
