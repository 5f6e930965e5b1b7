"""Classify Objects: a class, or several, for the image of each object (ArcGIS formats E.7). Travels in the package."""

from __future__ import annotations

import importlib
import json
import sys
import types
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

HOME = Path(__file__).resolve().parent
if TYPE_CHECKING:
    from . import _tiles
else:
    # a package of a unique name over this folder: sys.path stays as it is, and two packages cannot mix their files
    _package = types.ModuleType("dlpk_" + uuid.uuid4().hex)
    _package.__path__ = [str(HOME)]
    sys.modules[_package.__name__] = _package
    _tiles = importlib.import_module(_package.__name__ + "._tiles")

FIELDS = [("Confidence", "esriFieldTypeString"), ("Label", "esriFieldTypeString")]  # texts, as ArcGIS's own function


class ClassifyObjects:
    """A Label and its Confidence (0-1) for every raster of a call, in order.

    Models of several labels join by semicolons: the names that reach the threshold, and the confidences of all classes.
    """

    def __init__(self) -> None:
        self.name = "Classify Objects"
        self.description = "Classifies objects with the network of this package."
        self.model: Any = None  # _tiles.Model once a definition is known
        self.several = False

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME)
            self.several = self.model.document.get("MetaDataMode") == "MultiLabeled_Tiles"

    def getParameterInfo(self) -> list[dict[str, Any]]:
        rows = {row["name"]: row for row in _tiles.parameters(self.model)}
        stack = _tiles.parameter("rasters", "rasters", None, "Rasters", "Images of the objects", required=True)
        threshold = self.model.document.get("Threshold", 0.5) if self.model else 0.5
        told = "Least confidence of a label, 0 to 1"
        return [
            stack,
            *(rows[name] for name in ("model", "device", "batch_size")),
            *([_tiles.parameter("threshold", "numeric", threshold, "Threshold", told)] if self.several else []),
            *_tiles.augmentation(self.model),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.threshold = _tiles.number(values.get("threshold", 0.5))
        self.views = self.model.views(_tiles.truth(values["test_time_augmentation"]))
        self.policy = _tiles.policy(values["merge_policy"])
        crop = {key: int(self.model.document.get(key, 0)) for key in ("CropSizeFixed", "BlackenAroundFeature")}
        answer = _tiles.configuration(self.model, 0, self.batch_size)
        return dict(answer, tx=self.model.size, ty=self.model.size, batch_size=self.batch_size, **crop)

    def getFields(self) -> str:
        rows = [("OID", "esriFieldTypeOID"), *FIELDS, ("Shape", "esriFieldTypeGeometry")]
        return json.dumps({"fields": [{"name": n, "type": t, "alias": n} for n, t in rows]})

    def getGeometryType(self) -> int:
        return 4  # polygon

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:
        rasters, masks = pixelBlocks["rasters_pixels"], pixelBlocks["rasters_mask"]
        features: list[dict[str, Any]] = []
        for i in range(0, len(rasters), self.batch_size):
            some = rasters[i : i + self.batch_size]
            tiles = np.stack([self._tile(p, m) for p, m in zip(some, masks[i : i + self.batch_size])])
            shares = self.model.look(tiles, self._shares, self.views, self.policy).cpu().numpy()
            features += [self._feature(n, p, row) for n, p, row in zip(range(i + 1, len(rasters) + 1), some, shares)]
        return {"output_vectors": json.dumps(self._feature_set(features))}

    def _tile(self, pixels: _tiles.Array, mask: _tiles.Array) -> _tiles.Array:
        """Normalised, in the middle of the model's tile."""
        return _tiles.centred(self.model.normalise(pixels, mask), (self.model.size, self.model.size))

    def _shares(self, logits: Any) -> Any:
        """(n, classes) -> probabilities."""
        return logits.float().sigmoid() if self.several else logits.float().softmax(1)

    def _feature(self, number: int, pixels: _tiles.Array, shares: _tiles.Array) -> dict[str, Any]:
        names = [entry["Name"] for entry in self.model.classes]  # by position from 0 (ArcGIS formats A.3)
        if self.several:
            label = ";".join(name for name, share in zip(names, shares) if share >= self.threshold)
            confidence = ";".join("%.4f" % share for share in shares)
        else:
            label, confidence = names[shares.argmax()], "%.4f" % shares.max()
        right, low = pixels.shape[2] - 1, pixels.shape[1] - 1
        ring = [[0, 0], [right, 0], [right, low], [0, low]]
        attributes = {"OID": number, "Confidence": confidence, "Label": label}
        return {"attributes": attributes, "geometry": {"rings": [ring]}}

    def _feature_set(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [("FID", "esriFieldTypeOID"), *FIELDS]
        return {
            "displayFieldName": "",
            "fieldAliases": {name: name for name, _ in rows},
            "geometryType": "esriGeometryPolygon",
            "fields": [{"name": n, "type": t, "alias": n} for n, t in rows],
            "features": features,
        }
