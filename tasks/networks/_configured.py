"""A network that its package brings: the class by which a model extends arcgis.learn (ArcGIS formats B.5). It travels.

The class makes the network, and knows how pixels go in and what the answers mean; boxes are -1 to 1 over the tile.
"""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

LEAST_SCORE = 0.05  # what is asked of it at all; the raster function's threshold comes on top
OVERLAP = 0.1  # ArcGIS's own default
SURE = 30.0  # logit of a class where the answer is a class


def build(
    bands: int,
    classes: int,
    file: str = "ModelConfiguration.py",
    kind: str = "",
    detects: bool = False,
    edges: bool = False,
    side: int = 256,
    multispectral: bool = False,
    names: Sequence[str] = (),
    read: Sequence[int] = (0, 1, 2),
    backbone: Optional[str] = None,
    options: Optional[Mapping[str, Any]] = None,
    box_nms_thresh: float = OVERLAP,
) -> nn.Module:
    """`kind`: the class in `file`, which lies beside this one. `edges`: it draws edges of objects.

    `side`: of the tiles, in pixels. `read`: the bands that are read. `options`: further ones of its get_model.
    """
    data = SimpleNamespace(
        c=classes + 1,
        classes=["background", *names],
        chip_size=side,
        _is_multispectral=multispectral,
        _extract_bands=list(read),
    )
    configuration = _class_of(Path(__file__).with_name(file), kind)()
    network = configuration.get_model(data, backbone, **{**(options or {}), "pretrained_backbone": False})
    return Configured(network, configuration, classes + 1, detects, edges, multispectral, box_nms_thresh)


def _class_of(path: Path, kind: str) -> Any:
    name = f"{__name__}_{kind}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # where the class looks for its own source
    spec.loader.exec_module(module)
    return getattr(module, kind)


class Configured(nn.Module):
    def __init__(
        self,
        model: nn.Module,
        configuration: Any,
        classes: int,
        detects: bool,
        edges: bool,
        multispectral: bool,
        overlap: float,
    ) -> None:
        super().__init__()
        self.model, self.configuration, self.classes = model, configuration, classes
        self.detects, self.edges, self.overlap = detects, edges, overlap
        self.transform = configuration.transform_input_multispectral if multispectral else configuration.transform_input

    def suppress(self, overlap: float) -> None:
        self.overlap = overlap

    def forward(self, images: Tensor) -> Any:
        """Per image boxes in pixels, scores and labels; or logits (n, background and classes, rows, cols)."""
        known = inspect.signature(self.transform).parameters
        told = {"thresh": LEAST_SCORE, "nms_overlap": self.overlap} if self.detects else {}
        answers = self.model(self.transform(images, **{name: told[name] for name in told if name in known}))
        return self._objects(answers, images) if self.detects else self._pixels(answers)

    def _objects(self, answers: Any, images: Tensor) -> "List[Dict[str, Tensor]]":
        rows, cols = images.shape[-2:]
        size, found = images.new_tensor([cols, rows, cols, rows]), []
        answers = self.configuration.post_process(answers, self.overlap, LEAST_SCORE, rows, images.device)
        for corners, labels, scores in answers:
            boxes = (corners.reshape(-1, 4)[:, [1, 0, 3, 2]].to(images.device) + 1) / 2 * size
            found.append({"boxes": boxes, "labels": labels.reshape(-1), "scores": scores.reshape(-1)})
        return found

    def _pixels(self, answers: Any) -> Tensor:
        """Of what it calls a class: its answer is no probability."""
        how = {"thres": 0.5, "thinning": False} if self.edges else {}
        classes = self.configuration.post_process(answers, **how)
        classes = torch.stack(tuple(classes)) if isinstance(classes, (tuple, list)) else classes
        return SURE * one_hot(classes[:, 0].long(), self.classes).permute(0, 3, 1, 2).float()
