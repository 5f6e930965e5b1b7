"""An invented shelf: models with pictures, scores, champions and results, published for real into a home folder.

python -m tests.web.shelf FOLDER && DLPK_HOME=FOLDER dlpk browse
"""

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from registry import promotion
from registry.catalog import Version
from registry.dlpk import ModelFolder, pack
from registry.emd import Emd
from registry.publishing import publish

FUNCTION = """
class DetectObjects:
    def initialize(self, **kwargs): ...
    def getParameterInfo(self): return []
    def getConfiguration(self, **scalars): return {}
    def vectorize(self, **blocks): return {}
    def updatePixels(self, tlc, shape, props, **blocks): return blocks
"""
METRICS = "<!doctype html><title>report</title><h1>Report</h1><p>Average precision 0.71</p><script>alert(1)</script>"
Color = tuple[int, int, int]
Classes = Mapping[str, Color]
TOWN = [79.861, 6.905, 79.897, 6.934]  # west, south, east, north
MODELS: Mapping[str, tuple[str, str, Classes, Sequence[float], str]] = {  # type, network, classes, scores, metric
    "roofs": (
        "ObjectDetection",
        "fcos",
        {"roof": (214, 69, 65), "tank": (45, 125, 210)},
        (0.52, 0.61, 0.58, 0.71),
        "ap50",
    ),
    "land-cover": (
        *("ImageClassification", "unet"),
        {"water": (52, 120, 190), "trees": (46, 125, 50), "built": (190, 90, 70), "field": (220, 190, 90)},
        *((0.66, 0.7, 0.74), "mIoU"),
    ),
    "palms": ("InstanceDetection", "maskrcnn", {"palm": (34, 139, 84)}, (0.48,), "ap50"),
}


def fill(models: Mapping[str, Any] = MODELS) -> list[Version]:
    """Publish the models into the home folder that is set, promote some, and leave two results."""
    made = [
        _publish(name, i, scores[: i + 1], *facts, metric=metric)
        for name, (*facts, scores, metric) in models.items()
        for i in range(len(scores))
    ]
    for version in made:
        if version.number in (2, len(models[version.name][3])):
            promotion.promote(version.name, version.number, reason="seen on the map of the new district", by="anna")
    for i, version in enumerate(v for v in made if "roofs" in v.name):
        _result(version, i)
    return made


def _publish(
    name: str, i: int, scores: Sequence[float], kind: str, network: str, classes: Classes, *, metric: str
) -> Version:
    folder = Path(os.environ["DLPK_HOME"]) / "made" / f"{name}-{i}"
    dlpk = pack(_folder(folder / "model", name, kind, network, classes, i), folder / f"{name}.dlpk")
    score = scores[-1]
    made = {
        "recipe": {"imagery": "s3://imagery/town.tif", "train": {"epochs": 20 + 10 * i, "network": network}},
        "evaluation": {
            "primary": metric,
            "chips": 120,
            "data_digest": "held-out",
            "intervals": {metric: [round(score - 0.04, 3), round(score + 0.05, 3)]},
            "per_class": {word: {metric: round(score - 0.03 * j, 3)} for j, word in enumerate(classes)},
        },
        "environment": {"Python": "3.11", "torch": "2.6"},
        "extent": {"bbox": TOWN, "geometry": _polygon(TOWN)},
    }
    made |= {"pretrained_model": f"{name}@1"} if i else {}
    several = {metric: score, "precision": round(score + 0.08, 3), "recall": round(score - 0.05, 3)}
    return publish(dlpk, scores=several, data_digest=f"{name}-chips", git_commit="c0ffee" * 6, made=made)


def _folder(folder: Path, name: str, kind: str, network: str, classes: Classes, i: int) -> ModelFolder:
    (folder / "ModelCharacteristics").mkdir(parents=True)
    (folder / f"{name}.pth").write_bytes(f"{name} {i}".encode() * 1000)
    (folder / "DetectObjects.py").write_text(FUNCTION)
    (folder / "model_metrics.html").write_text(METRICS)
    picture(classes, seed=i).save(folder / "ModelCharacteristics" / "show_results.png")
    losses(i).save(folder / "ModelCharacteristics" / "loss_graph.png")
    document = {
        "Framework": "PyTorch",
        "ModelConfiguration": network,
        "ModelType": kind,
        "ModelFile": f"{name}.pth",
        "InferenceFunction": "DetectObjects.py",
        "Description": f"Finds {', '.join(classes)} in aerial imagery of an invented town.",
        "ImageHeight": 256,
        "ImageWidth": 256,
        "ExtractBands": [0, 1, 2],
        "MinCellSize": {"x": 0.3, "y": 0.3, "spatialReference": {"wkid": 32644, "latestWkid": 32644}},
        "InputRastersProps": {"RasterCount": 1, "SensorName": "aerial", "BandNames": ["Red", "Green", "Blue"]},
        "Classes": [{"Value": j, "Name": word, "Color": list(c)} for j, (word, c) in enumerate(classes.items(), 1)],
    }
    Emd(document).write(folder / f"{name}.emd")
    return ModelFolder(folder)


def picture(classes: Classes, seed: int, width: int = 640, height: int = 360) -> Image.Image:
    """A street grid from above with coloured outlines."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(0, 7, (height, width, 1)) + np.array([118, 128, 104])
    image = Image.fromarray(ground.clip(0, 255).astype("uint8"))
    draw, colors = ImageDraw.Draw(image), list(classes.values())
    for x in range(0, width, 128):
        draw.rectangle((x, 0, x + 14, height), fill=(150, 148, 144))
    draw.rectangle((0, 170, width, 186), fill=(150, 148, 144))
    for i in range(46):
        x, y = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        w, h = (int(n) for n in rng.integers(18, 44, 2))
        draw.rectangle((x, y, x + w, y + h), fill=tuple(int(n) for n in rng.integers(120, 205, 3)))
        draw.rectangle((x - 2, y - 2, x + w + 2, y + h + 2), outline=colors[i % len(colors)], width=3)
    return image


def losses(seed: int) -> Image.Image:
    image = Image.new("RGB", (640, 360), "white")
    draw = ImageDraw.Draw(image)
    for color, lift in (((11, 107, 87), 0), ((194, 65, 12), 30)):
        draw.line([(40 + 6 * i, 40 + lift + 260 * (1 - np.exp(-i / (18 + seed)))) for i in range(95)], color, 3)
    draw.line([(40, 20), (40, 330), (620, 330)], (90, 90, 90), 2)
    return image


def _result(version: Version, i: int) -> None:
    """As the flows write it: item.json last."""
    west, south = TOWN[:2]
    box = [west + 0.004 * i, south, west + 0.004 * i + 0.01, south + 0.008]
    folder = Path(os.environ["DLPK_HOME"]) / "results" / f"district-{i + 1}"
    (folder / "a1").mkdir(parents=True)
    rng = np.random.default_rng(i)
    places = [(rng.uniform(box[0], box[2] - 3e-4), rng.uniform(box[1], box[3] - 3e-4)) for _ in range(60)]
    found = [
        {
            "type": "Feature",
            "geometry": _polygon([x, y, x + 2e-4, y + 2e-4]),
            "properties": {
                "Class": "roof" if j % 3 else "tank",
                "Confidence": 0.9,
                "Note": "<img src=x onerror=alert(1)>",
            },
        }
        for j, (x, y) in enumerate(places)
    ]
    (folder / "a1" / "preview.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    content = io.BytesIO()
    picture(MODELS["roofs"][2], seed=40 + i, width=320, height=180).save(content, "PNG")
    (folder / "a1" / "thumbnail.png").write_bytes(content.getvalue())
    properties = {
        "datetime": f"2026-05-0{i + 1}T10:00:00Z",
        "created": f"2026-05-0{i + 1}T12:00:00+00:00",
        "dlpk:model": version.ref,
        "dlpk:sha256": version.sha256,
        "dlpk:scene": f"district-{i + 1}.tif",
        "dlpk:tool": "detect_objects",
        "dlpk:counts": {"roof": 40, "tank": 20},
        "dlpk:colors": {word: list(color) for word, color in MODELS["roofs"][2].items()},
    }
    assets = {
        "data": {"href": "./a1/found.parquet"},
        "preview": {"href": "./a1/preview.geojson", "type": "application/geo+json"},
        "thumbnail": {"href": "./a1/thumbnail.png", "type": "image/png"},
    }
    item = {"type": "Feature", "id": folder.name, "geometry": _polygon(box), "bbox": box}
    (folder / "item.json").write_text(json.dumps({**item, "properties": properties, "assets": assets}))


def _polygon(box: Sequence[float]) -> dict[str, Any]:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


if __name__ == "__main__":
    os.environ["DLPK_HOME"] = str(Path(sys.argv[1]).absolute())
    fill()
