"""Packages to measure inference with: `null`, `unet18` and `oracle`, beside the raster functions that we ship.

null     a 1 x 1 convolution: what is timed is the framework
unet18   a U-Net on ResNet-18, as segmentation-models-pytorch builds it, which must be installed for it
oracle   colours and connected components: right about whole objects, so what is cut or doubled is the tiling's fault
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

TILE, MARGIN, BATCH, CLASSES = 512, 32, 4, 2
SOURCES = {
    "null": """
import torch


def build(bands, classes):
    torch.manual_seed(0)
    return torch.nn.Conv2d(bands, classes + 1, 1).eval()
""",
    "unet18": """
import segmentation_models_pytorch
import torch


def build(bands, classes):
    torch.manual_seed(0)
    unet = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, in_channels=bands, classes=classes + 1)
    return unet.eval()
""",
    "oracle": """
import cv2
import numpy as np
import torch


class Oracle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return [self.look(image.numpy()) for image in images]

    def look(self, image):
        red, blue = image[0], image[2]
        boxes, labels = [], []
        for label, shown in ((1, (red > 0.68) & (blue < 0.46)), (2, (red > 0.62) & (blue > 0.66))):
            closed = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
            found = cv2.connectedComponentsWithStats(closed, connectivity=8)[2][1:]
            for x, y, w, h, area in found[found[:, 4] >= 25]:
                boxes.append([x, y, x + w, y + h, area])
                labels.append(label)
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
        scores = (0.5 + boxes[:, 4] / 8000).clamp(max=0.999)
        return {"boxes": boxes[:, :4], "scores": scores, "labels": torch.tensor(labels, dtype=torch.int64)}


def build(bands, classes):
    return Oracle()
""",
}


def builder(name: str) -> Callable[..., Any]:
    place: dict[str, Any] = {}
    exec(SOURCES[name], place)  # the text above
    build: Callable[..., Any] = place["build"]
    return build


def make_model(folder: Path, name: str, weights: Path | None = None) -> Path:
    """A finished model folder, as a training would leave it."""
    import torch

    from registry.emd import Emd
    from tasks import raster_functions
    from tasks.receptive_field import reach
    from tasks.travelling import with_siblings

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    function = "DetectObjects" if name == "oracle" else "ClassifyPixels"
    for file in with_siblings(Path(str(raster_functions.__file__)).parent / f"{function}.py"):
        shutil.copy(file, folder)
    (folder / f"{name}.py").write_text(SOURCES[name])
    network = builder(name)(bands=3, classes=CLASSES)
    if weights:
        network.load_state_dict(torch.load(weights, weights_only=True))
    torch.save(network.state_dict(), folder / f"{name}.pth")
    classes = [{"Value": i, "Name": f"kind {i}", "Color": [i, 0, 0]} for i in range(1, CLASSES + 1)]
    statistics = [{"BandName": f"Band_{i}", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 255} for i in (1, 2, 3)]
    kind = "ObjectDetection" if name == "oracle" else "ImageClassification"
    document = {"Framework": "PyTorch", "ModelConfiguration": name, "ModelType": kind}
    files = {"ModelFile": f"{name}.pth", "InferenceFunction": f"{function}.py", "ExtractBands": [0, 1, 2]}
    size = {"ImageHeight": TILE, "ImageWidth": TILE, "Classes": classes, "AllTilesStats": statistics}
    looks = {} if name == "oracle" else reach(network, bands=3)
    Emd({**document, **files, **size, **looks}).write(folder / f"{name}.emd")
    return folder
