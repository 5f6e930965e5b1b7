"""A model that costs nothing, for drills of the rest: a pixel brighter than 100 in the first band is a roof."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from registry.catalog import Version
from registry.dlpk import ModelFolder, pack
from registry.emd import Emd
from registry.publishing import publish

SIDE = 64  # pixels of a tile, and of a scene
BRIGHT = """
import torch


class Bright(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        more = images[:, :1] - self.level
        return torch.cat([-more, more], dim=1)


def build(bands, classes):
    return Bright()
"""


def bright(folder: Path, name: str = "roofs", level: float = 100.0, code: str = BRIGHT) -> ModelFolder:
    """A model folder for Classify Pixels, of one band."""
    import torch

    from tasks import raster_functions
    from tasks.travelling import with_siblings

    folder.mkdir(parents=True, exist_ok=True)
    for file in with_siblings(Path(str(raster_functions.__file__)).parent / "ClassifyPixels.py"):
        shutil.copy(file, folder)
    (folder / "bright.py").write_text(code)
    torch.save({"level": torch.tensor(level)}, folder / f"{name}.pth")
    document = {"Framework": "PyTorch", "ModelConfiguration": "bright", "ModelType": "ImageClassification"}
    files: dict[str, Any] = {"ModelFile": f"{name}.pth", "InferenceFunction": "ClassifyPixels.py", "ExtractBands": [0]}
    band = {"BandName": "Band_1", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}
    classes = [{"Value": 1, "Name": "roof", "Color": [230, 60, 40]}]
    Emd(
        {**document, **files, "ImageHeight": SIDE, "ImageWidth": SIDE, "Classes": classes, "AllTilesStats": [band]}
    ).write(folder / f"{name}.emd")
    return ModelFolder(folder)


def published(folder: Path, name: str = "roofs", level: float = 100.0, code: str = BRIGHT) -> Version:
    """The same in the registry; another level is another version."""
    package = pack(bright(folder / f"{name}-{level}", name, level, code), folder / f"{level}" / f"{name}.dlpk")
    return publish(package, scores={}, data_digest="", git_commit="")


def scene(path: Path, roof: int = 16, place: int = 0, age: float = 3600) -> Path:
    """One band of 64 x 64 dark pixels of 1 m with a bright square of `roof` pixels; `age`: seconds since its change."""
    pixels = np.full((1, SIDE, SIDE), 40, np.uint8)
    pixels[0, 8 : 8 + roof, 8 : 8 + roof] = 200
    profile: dict[str, Any] = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8"}
    grid = Affine(1, 0, 500_000 + SIDE * place, 0, -1, 5_500_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=grid) as raster:
        raster.write(pixels)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path
