"""A model of ours as one ONNX file: for the Deepness plugin of QGIS, and for whatever else runs ONNX.

    pixels   (1, bands, S, S)         float32, the raster's values / 255, as Deepness feeds them; the graph takes that
                                      back and normalises with the statistics of the training chips
    shares   (1, classes + 1, S, S)   of Classify Pixels and Detect Change: 0-1, the first is background
    objects  (1, 4 + classes, n)      of Detect Objects: centre and size in pixels, then a score for each class
    masks    (1, n, S, S)             of instances, as logits; objects then have n more rows, each picks its mask
    chances  (1, classes)             of Classify Objects: 0-1, of the whole tile

What Deepness needs to know stands in the file's metadata: the kind of model, classes, cell size, tile, thresholds.
"""

import ctypes
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from torch import Tensor, nn

from registry.dlpk import ModelFolder
from registry.emd import Emd, ModelType, background_name
from registry.errors import OptionsError, RasterFunctionError
from registry.files import atomic
from tasks.host import RasterFunction
from tasks.trust import is_trusted, refuse_stranger

FULL = 255.0  # what Deepness divides by, whatever the pixel type
OPSET = 18
IR_VERSION = 8  # the oldest of that opset, so that older runtimes read it
EARTH = 6_371_008.8  # metres, mean radius
ALIKE = 2e-3  # largest difference between torch and the file, of shares, scores, or places as shares of the tile
ENOUGH = 0.98  # share of the objects that must be the same
Answer = tuple[Tensor, ...]


@dataclass(frozen=True)
class OnnxModel:
    """What was written."""

    path: Path
    input: tuple[int, ...]  # shape of `pixels`
    outputs: dict[str, list[int | str]]  # name -> shape, a word where it is open
    deepness: str  # Segmentor or Detector, "" where the plugin knows no such kind
    difference: float  # largest between the file's answers and the network's own, on made-up pixels

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def export_onnx(model: ModelFolder, out: Path) -> OnnxModel:
    """Write the network of a model folder as ONNX and compare its answers with those of torch.

    Raises OptionsError for a model that is not ours or not trusted, RasterFunctionError when the answers differ.
    """
    if not is_trusted(model):
        refuse_stranger(model)
    if not (model.path / "_tiles.py").is_file():
        do = "only models that were trained here have a network that can be written"
        raise OptionsError("is no model of this system", where=model.name, do=do)
    with RasterFunction.load(model).inside() as function, atomic(out) as part:
        graph, names = _graph(function.model, model.emd)
        samples = list(_samples(graph))
        _write(graph, samples[0], part, names)
        difference = _checked(graph, samples, part, model.name)
        outputs = _shapes(graph, samples[0], names)
        kind = _describe(part, model.emd, outputs)
        shape = (1, len(graph.mean), graph.size, graph.size)
    return OnnxModel(out, shape, outputs, kind, difference)


# -- the graph ---------------------------------------------------------------------------------------------------------
class Graph(nn.Module):
    """Pixels as they are fed -> what is answered."""

    def __init__(self, network: nn.Module, mean: Tensor, deviation: Tensor, size: int, finish: Callable[[Any], Answer]):
        super().__init__()
        self.network, self.size, self.finish = network, size, finish
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)

    def forward(self, pixels: Tensor) -> Answer:
        return self.finish(self.network((pixels * FULL - self.mean) / self.deviation))


def _graph(known: Any, emd: Emd) -> tuple[Graph, list[str]]:
    """With the network out of the model's own folder, as inference loads it; `known`: `_tiles.Model` of that folder."""
    known.run(np.zeros((1, len(known.bands), known.size, known.size), np.float32), lambda answer: answer)
    mean, deviation = (torch.from_numpy(numbers) for numbers in known._scale)  # noqa: SLF001  (a file of ours)
    finish, names = _finish(emd, len(known.classes))
    return Graph(known._network, mean, deviation, known.size, finish).eval(), names  # noqa: SLF001


def _finish(emd: Emd, classes: int) -> tuple[Callable[[Any], Answer], list[str]]:
    match emd.model_type:
        case ModelType.OBJECT_DETECTION:
            return lambda answers: (_objects(answers[0], classes),), ["objects"]
        case ModelType.INSTANCE_DETECTION:
            return lambda answers: _instances(answers[0], classes), ["objects", "masks"]
        case ModelType.OBJECT_CLASSIFICATION:
            several = emd.metadata_format == "MultiLabeled_Tiles"
            return lambda logits: (logits.sigmoid() if several else logits.softmax(1),), ["chances"]
        case _:
            never = [k for k in emd.document.get("ignore_mapped_class") or () if k]
            never += [] if emd.document.get("PredictBackground", True) else [0]
            return lambda logits: (_shares(logits, never),), ["shares"]


def _shares(logits: Tensor, never: Sequence[int]) -> Tensor:
    """`never`: classes that no pixel gets."""
    barred = torch.zeros(1, logits.shape[1], 1, 1)
    barred[:, list(never)] = -float("inf")
    return (logits + barred).softmax(1)


def _objects(found: dict[str, Tensor], classes: int) -> Tensor:
    """As Ultralytics' networks answer: a column for each object."""
    low, high = found["boxes"][:, :2], found["boxes"][:, 2:]
    own = (found["labels"][:, None] - 1) == torch.arange(classes)
    columns = torch.cat([(low + high) / 2, high - low, own.to(low.dtype) * found["scores"][:, None]], dim=1)
    return columns.T[None]


def _instances(found: dict[str, Tensor], classes: int) -> Answer:
    """Deepness adds up masks by the rows behind the classes: here each object takes its own and no other."""
    objects = _objects(found, classes)
    count = torch.arange(found["scores"].shape[0])
    own = (count[:, None] == count).to(objects.dtype)
    return torch.cat([objects, own[None]], dim=1), found["masks"].clamp(1e-4, 1 - 1e-4).logit()[None]


# -- write and check ---------------------------------------------------------------------------------------------------
def _samples(graph: Graph) -> Iterator[NDArray[np.float32]]:
    """Made-up tiles in the range of the training imagery, coarse and fine, the same at every call."""
    dice = np.random.default_rng(0)
    mean, deviation = (numbers.numpy().astype(np.float64) for numbers in (graph.mean, graph.deviation))
    for cells in (8, 3, graph.size):
        noise = dice.normal(size=(len(mean), -(-graph.size // cells), -(-graph.size // cells)))
        noise = noise.repeat(cells, axis=1).repeat(cells, axis=2)[:, : graph.size, : graph.size]
        yield ((mean + 2 * deviation * noise)[None] / FULL).astype(np.float32)


def _write(graph: Graph, pixels: NDArray[np.float32], out: Path, names: list[str]) -> None:
    """By torch's older exporter, which watches a run; what that does not know (attention) by its newer one.

    The newer one cannot follow torchvision's detectors: they decide in Python.
    """
    given = (torch.from_numpy(pixels),)
    named: dict[str, Any] = {"input_names": ["pixels"], "output_names": names}
    axes = {"objects": {1: "rows", 2: "n"} if "masks" in names else {2: "n"}, "masks": {1: "n"}}
    open_axes = {name: axes[name] for name in names if name in axes}
    with _quiet(), torch.no_grad():
        try:
            torch.onnx.export(
                graph, given, str(out), opset_version=OPSET - 1, dynamo=False, dynamic_axes=open_axes, **named
            )
        except Exception:  # noqa: BLE001  (it raises what it likes; what the other one raises is told)
            new: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
            torch.onnx.export(graph, given, str(out), opset_version=OPSET, **new, **named)


@contextmanager
def _quiet() -> Iterator[None]:
    """What fails in the older exporter is printed by its C++, the whole graph, past Python's own stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # or what C has kept would come out later
        os.dup2(kept, 1)
        os.close(kept)


def _checked(graph: Graph, samples: list[NDArray[np.float32]], path: Path, name: str) -> float:
    """The largest difference between torch and ONNX Runtime on the samples."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it would warn of every mask that its own loop adds
    session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    worst = 0.0
    for pixels in samples:
        with torch.inference_mode():
            wanted = [tensor.numpy() for tensor in graph(torch.from_numpy(pixels))]
        got = session.run(None, {"pixels": pixels})
        alike = _of_objects if session.get_outputs()[0].name == "objects" else _of_shares
        differences = alike(wanted, got, pixels.shape[-1])
        worst = max(worst, float(np.abs(differences).max(initial=0)))
    if worst > ALIKE:
        do = "train it with another network, or report it"
        raise RasterFunctionError("its ONNX file answers otherwise than the network", where=name, got=worst, do=do)
    return worst


def _of_shares(wanted: list[NDArray[Any]], got: list[NDArray[Any]], _: int) -> NDArray[Any]:
    differences: NDArray[Any] = wanted[0] - got[0]
    return differences


def _of_objects(wanted: list[NDArray[Any]], got: list[NDArray[Any]], size: int) -> NDArray[Any]:
    """Differences of the objects that are the same, as shares of the tile; infinite where too many have no twin.

    A score that differs in its last digit may let another of two overlapping boxes win.
    """
    a, b = (np.concatenate([answer[0][0, :4] / size, answer[0][0, 4:]]) for answer in (wanted, got))
    if not (a.shape[1] and b.shape[1]):
        return np.full(1, 0.0 if a.shape[1] == b.shape[1] else np.inf)
    rows = len(a) - a.shape[1] if len(wanted) > 1 else len(a)
    apart = np.abs(a[:rows, :, None] - b[:rows, None, :]).max(axis=0)
    same = apart.min(axis=1) <= ALIKE
    if min(same.mean(), (apart.min(axis=0) <= ALIKE).mean()) < ENOUGH:
        return np.full(1, np.inf)
    found: NDArray[Any] = apart.min(axis=1)[same]
    if len(wanted) == 1:
        return found
    masks = _share(wanted[1][0, same]) - _share(got[1][0, apart.argmin(axis=1)[same]])
    return np.concatenate([found, masks.ravel()])


def _share(logits: NDArray[Any]) -> NDArray[Any]:
    shares: NDArray[Any] = 1 / (1 + np.exp(-logits))
    return shares


def _shapes(graph: Graph, pixels: NDArray[np.float32], names: list[str]) -> dict[str, list[int | str]]:
    """Of what is answered; what depends on the number of objects is a word."""
    with torch.inference_mode():
        known = {name: list(answer.shape) for name, answer in zip(names, graph(torch.from_numpy(pixels)), strict=True)}
    shapes: dict[str, list[int | str]] = {name: [*shape] for name, shape in known.items()}
    if "objects" in shapes:
        shapes["objects"][2] = "n"
    if "masks" in shapes:
        shapes["objects"][1], shapes["masks"][1] = "rows", "n"
    return shapes


# -- metadata ----------------------------------------------------------------------------------------------------------
def _describe(path: Path, emd: Emd, outputs: Mapping[str, list[int | str]]) -> str:
    """Put in the metadata and the shapes, which Deepness looks at, too; the kind of model in its words."""
    import onnx

    facts = deepness(emd, list(outputs))
    model = onnx.load(str(path))
    for one in model.graph.output:
        one.CopyFrom(onnx.helper.make_tensor_value_info(one.name, onnx.TensorProto.FLOAT, outputs[one.name]))
    for key, value in {**facts, "esri_model_definition": dict(emd.document)}.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    model.ir_version, model.producer_name = IR_VERSION, "dlpk-flows"
    onnx.save(model, str(path))
    return str(facts.get("model_type", ""))


def deepness(emd: Emd, names: list[str]) -> dict[str, Any]:
    """What the plugin reads: keys of its documentation, each value as JSON; {} for kinds that it does not know.

    Cell sizes are centimetres, overlap is percent of the tile; a class is named by its place, which counts from 0.
    """
    document = emd.document
    size, padding = emd.tile_size, document.get("Padding", emd.tile_size // 4)
    facts: dict[str, Any] = {"tile_size": size, "tiles_size": size, "tiles_overlap": round(200 * padding / size)}
    if centimetres := _centimetres(emd):
        facts["resolution"] = centimetres
    labels = [label.name for label in emd.classes]
    if names[0] == "objects":
        kind = "YOLO_Ultralytics_segmentation" if "masks" in names else "YOLO_Ultralytics"
        facts |= {"model_type": "Detector", "det_type": kind, "det_iou_thresh": 0.5}
        facts["det_conf"] = document.get("Threshold", 0.5)
    elif names[0] == "shares" and document.get("InferenceFunction") == "ClassifyPixels.py":
        labels = [background_name(labels), *labels]
        facts |= {"model_type": "Segmentor", "seg_thresh": 0.0, "seg_small_segment": 0}
    else:
        return {}
    return {**facts, "class_names": dict(enumerate(labels))}


def _centimetres(emd: Emd) -> float | None:
    """Of the smallest training cell; None where its reference is not known."""
    if emd.cell_size is None or emd.cell_size[2] is None:
        return None
    try:
        crs = CRS.from_user_input(emd.cell_size[2])
    except CRSError:
        return None
    metres = crs.units_factor[1] * (EARTH if crs.is_geographic else 1.0)
    return float(round(100 * emd.cell_size[0] * metres, 3))
