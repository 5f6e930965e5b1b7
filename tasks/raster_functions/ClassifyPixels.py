"""Classify Pixels: a class value for every pixel (ArcGIS formats E.8). Travels in the package."""

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

PIXEL_TYPES = ("u1", "u2", "i2", "i4")  # the first that holds 0 and every class value is the output's
INTEGER, TEXT = "esriFieldTypeInteger", "esriFieldTypeString"
COLUMNS = [("Value", INTEGER), ("Class", TEXT), ("Red", INTEGER), ("Green", INTEGER), ("Blue", INTEGER)]


class ClassifyPixels:
    """One band of class values; 0 is background, and what has no data is masked."""

    def __init__(self) -> None:
        self.name = "Classify Pixels"
        self.description = "Classifies pixels with the network of this package."
        self.model: Any = None  # _tiles.Model once a definition is known

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME)
            self.values = np.array([0] + [c["Value"] for c in self.model.classes])  # index in the network -> Value
            self.pixel_type = next(t for t in PIXEL_TYPES if (self.values.astype(t) == self.values).all())

    def getParameterInfo(self) -> list[dict[str, Any]]:
        background = self.model.document.get("PredictBackground", True) if self.model else True
        return [
            *_tiles.parameters(self.model),
            _tiles.parameter(
                "predict_background",
                "string",
                str(bool(background)),
                "Predict background",
                "False gives every pixel to its likeliest class",
                domain=("True", "False"),
            ),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.padding = int(_tiles.number(values["padding"]))
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.background = _tiles.truth(values["predict_background"])
        return _tiles.configuration(self.model, self.padding, self.batch_size)

    def updateRasterInfo(self, **kwargs: Any) -> dict[str, Any]:
        classes = self.model.classes
        colors = np.array([c["Color"] for c in classes]).clip(0, 255).astype("u1")
        kwargs["output_info"].update(
            bandCount=1,
            pixelType=self.pixel_type,
            colormap=(self.values[1:].astype("i4"), colors[:, 0], colors[:, 1], colors[:, 2]),
            rasterAttributeTable=json.dumps(self._table(classes)),
        )
        return kwargs

    def updatePixels(self, tlc: Any, shape: Any, props: Any, **pixelBlocks: Any) -> dict[str, Any]:
        pixels, mask = pixelBlocks["raster_pixels"], pixelBlocks["raster_mask"]
        rows, cols = (length - 2 * self.padding for length in pixels.shape[1:])
        result = np.zeros((1, rows, cols), np.int64)
        for corners, tiles in self.model.batches(pixels, mask, self.padding, self.batch_size):
            for (row, col), indexes in zip(corners, self.model.run(tiles, self._indexes)):
                place = result[0, row : row + indexes.shape[0], col : col + indexes.shape[1]]
                place[:] = self.values[indexes[: place.shape[0], : place.shape[1]]]
        valid = mask[:, self.padding : self.padding + rows, self.padding : self.padding + cols].all(axis=0)[None]
        result[~valid] = 0
        rows, cols = shape[-2:]
        pixelBlocks["output_pixels"] = result[:, :rows, :cols].astype(props["pixelType"])
        pixelBlocks["output_mask"] = valid[:, :rows, :cols].astype("u1")
        return pixelBlocks

    def _indexes(self, logits: Any) -> _tiles.Array:
        """(n, classes + 1, S, S) -> the likeliest index of each pixel of the cores, (n, S - 2p, S - 2p)."""
        core = slice(self.padding, self.model.size - self.padding)
        logits = logits[:, :, core, core]
        if not self.background:
            logits[:, 0] = -float("inf")
        indexes: _tiles.Array = logits.max(1)[1].cpu().numpy()  # argmax costs ten times as much on a CPU
        return indexes

    def _table(self, classes: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [("OID", "esriFieldTypeOID"), *COLUMNS]
        features = []
        for i, entry in enumerate(classes, 1):
            red, green, blue = entry["Color"]
            row = {"OID": i, "Value": entry["Value"], "Class": entry["Name"], "Red": red, "Green": green, "Blue": blue}
            features.append({"attributes": row})
        return {
            "displayFieldName": "",
            "fieldAliases": {name: name for name, _ in rows},
            "fields": [{"name": n, "type": t, "alias": n} for n, t in rows],
            "features": features,
        }
