"""Model folders whose answers can be computed by hand: their networks look for brightness."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.settings import settings
from tasks import raster_functions
from tasks.travelling import with_siblings

FUNCTIONS = Path(raster_functions.__file__).parent
NETWORKS = {
    "squares": '''
import torch


class Squares(torch.nn.Module):
    """Every connected patch brighter than `level`, of class 2 when brighter than 2 * level; moved by up to `jitter`."""

    def __init__(self, jitter):
        super().__init__()
        self.jitter = jitter
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return [self.find(image[0]) for image in images]

    def find(self, image):
        todo = {(r, c) for r, c in (image > self.level).nonzero().tolist()}
        boxes, labels = [], []
        while todo:
            stack, patch = [todo.pop()], []
            while stack:
                r, c = stack.pop()
                patch.append((r, c))
                near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & todo
                todo -= near
                stack.extend(near)
            rows, cols = zip(*patch)
            boxes.append([min(cols), min(rows), max(cols) + 1, max(rows) + 1])
            labels.append(2 if image[rows[0], cols[0]] > 2 * self.level else 1)
        scores = torch.full((len(boxes),), 0.75)
        labels, boxes = torch.tensor(labels).long(), torch.tensor(boxes).reshape(-1, 4).float()
        chance = torch.Generator().manual_seed(int(image.sum()))  # another one for every tile
        shift = (2 * torch.rand((len(boxes), 2), generator=chance) - 1) * self.jitter
        return {"boxes": boxes + shift.repeat(1, 2), "scores": scores, "labels": labels}


def build(bands, classes, jitter=0):
    return Squares(jitter)
''',
    "constant": '''
import torch


class Constant(torch.nn.Module):
    """The same box in every tile, whatever it shows."""

    def __init__(self, box, score, label):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))
        boxes, scores, labels = torch.tensor([box]).float(), torch.tensor([score]), torch.tensor([label])
        self.answer = {"boxes": boxes, "scores": scores, "labels": labels}

    def forward(self, images):
        return [self.answer for _ in images]


def build(bands, classes, box, score=0.8, label=1):
    return Constant(box, score, label)
''',
    "neighbours": '''
import torch
from torchvision.ops import nms


class Neighbours(torch.nn.Module):
    """Three boxes in every tile; with the first, the second has an IoU of 0.6, the third of 1 / 3."""

    def __init__(self):
        super().__init__()
        self.level, self.overlap = torch.nn.Parameter(torch.zeros(())), 0.5

    def suppress(self, overlap):
        self.overlap = overlap

    def forward(self, images):
        boxes = torch.tensor([[20.0, 20, 36, 36], [24, 20, 40, 36], [12, 20, 28, 36]])
        scores = torch.tensor([0.9, 0.8, 0.7])
        kept = nms(boxes, scores, self.overlap)
        return [{"boxes": boxes[kept], "scores": scores[kept], "labels": torch.ones(3)[kept].long()} for _ in images]


def build(bands, classes, box_nms_thresh=None):
    return Neighbours()
''',
    "drawn": '''
import torch


class Drawn(torch.nn.Module):
    """Everything that is brighter than `level` is one object; its mask is as sure as it is bright."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return [self.draw((image[0] / self.level / 2).clamp(0, 1)) for image in images]

    def draw(self, mask):
        rows, cols = (mask > 0.5).nonzero().T.float()
        n = min(1, len(rows))
        sides = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1] if n else torch.zeros(4)
        boxes, scores = torch.stack(list(sides)).reshape(1, 4)[:n], torch.full((n,), 0.9)
        return {"boxes": boxes, "scores": scores, "labels": torch.ones(n).long(), "masks": mask[None][:n]}


def build(bands, classes):
    return Drawn()
''',
    "levels": '''
import torch


class Levels(torch.nn.Module):
    """The mean of 5 x 5 pixels, in steps of `level`: 0 is background, about 1 * level the first class, and so on."""

    def __init__(self, classes):
        super().__init__()
        self.level, self.classes = torch.nn.Parameter(torch.zeros(())), classes

    def forward(self, images):
        mean = torch.nn.functional.avg_pool2d(images[:, :1], 5, stride=1, padding=2)
        steps = torch.arange(self.classes + 1).reshape(1, -1, 1, 1) * self.level
        return -(mean - steps).abs()


def build(bands, classes):
    return Levels(classes)
''',
    "brightest": '''
import torch


class Brightest(torch.nn.Module):
    """One logit for each class: how bright the upper left corner is, in steps of `level`; the first class is 0."""

    def __init__(self, classes):
        super().__init__()
        self.level, self.classes = torch.nn.Parameter(torch.zeros(())), classes

    def forward(self, images):
        return -(images[:, :1, 0, 0] / self.level - torch.arange(self.classes)).abs()


def build(bands, classes):
    return Brightest(classes)
''',
    "brighter": '''
import torch


class Brighter(torch.nn.Module):
    """Pixels that are brighter in the second date by `level`; `bands` are those of one date."""

    def __init__(self, bands):
        super().__init__()
        self.level, self.bands = torch.nn.Parameter(torch.zeros(())), bands

    def forward(self, images):
        more = (images[:, self.bands] - images[:, 0]) / self.level - 0.5
        return torch.stack([-more, more], dim=1)


def build(bands, classes):
    assert classes == 1
    return Brighter(bands)
''',
}
FUNCTION = {"levels": "ClassifyPixels", "brightest": "ClassifyObjects", "brighter": "DetectChange"}
KIND = {
    "ClassifyPixels": "ImageClassification",
    "ClassifyObjects": "ObjectClassification",
    "DetectChange": "ImageClassification",
    "DetectObjects": "ObjectDetection",
}
CLASSES = [{"Value": 1, "Name": "Roof", "Color": [230, 60, 40]}, {"Value": 2, "Name": "Pond", "Color": [0, 90, 200]}]
MakeModel = Callable[..., ModelFolder]
MakeRaster = Callable[..., Path]


def definition(network: str, function: str, kind: str, **keys: Any) -> Emd:
    statistics = {"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}
    document: dict[str, Any] = {
        "Framework": "PyTorch",
        "ModelConfiguration": network,
        "InferenceFunction": f"{function}.py",
    }
    document |= {"ModelType": kind, "ModelFile": "town.pth", "ImageHeight": 64, "ImageWidth": 64}
    return Emd({**document, "ExtractBands": [0], "Classes": CLASSES, "AllTilesStats": [statistics], **keys})


@pytest.fixture
def make_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModel:
    """make_model(one of NETWORKS, name="town", level=100, **emd_keys) -> a finished model folder, which is trusted."""
    monkeypatch.setenv("DLPK_TRUSTED", os.pathsep.join([str(tmp_path / "models"), str(settings().cache / "models")]))

    def make(network: str = "squares", name: str = "town", level: float = 100, **keys: Any) -> ModelFolder:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        function = FUNCTION.get(network, "DetectObjects")
        for file in with_siblings(FUNCTIONS / f"{function}.py"):
            shutil.copy(file, folder)
        (folder / f"{network}.py").write_text(NETWORKS[network])
        torch.save({"level": torch.tensor(float(level))}, folder / "town.pth")
        definition(network, function, KIND[function], **keys).write(folder / f"{name}.emd")
        return ModelFolder(folder)

    return make


@pytest.fixture
def make_raster(tmp_path: Path) -> MakeRaster:
    """make_raster(array of (bands, rows, cols) or (rows, cols), **rasterio profile) -> a GeoTIFF, 0.5 m in UTM 33."""

    def make(pixels: Any, name: str = "town.tif", **profile: Any) -> Path:
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        bands, rows, cols = pixels.shape
        grid = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 4600000), "dtype": pixels.dtype}
        shape = {"count": bands, "height": rows, "width": cols}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", **(grid | shape | profile)) as raster:
            raster.write(pixels)
        return tmp_path / name

    return make


@pytest.fixture
def roofs() -> Callable[..., Any]:
    """roofs(rows, cols, [(xmin, ymin, xmax, ymax), ...]) -> a uint8 picture, ground 10, roofs 150."""

    def picture(rows: int, cols: int, boxes: list[tuple[int, int, int, int]]) -> Any:
        pixels = np.full((rows, cols), 10, np.uint8)
        for xmin, ymin, xmax, ymax in boxes:
            pixels[ymin:ymax, xmin:xmax] = 150
        return pixels

    return picture
