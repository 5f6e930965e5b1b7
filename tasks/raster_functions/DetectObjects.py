"""Detect Objects: boxes out of pixels, each once and whole on the seams of tiles (ArcGIS formats E.7). It travels."""

from __future__ import annotations

import importlib
import json
import sys
import types
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Tuple

import numpy as np

HOME = Path(__file__).resolve().parent
if TYPE_CHECKING:
    from . import _tiles

    Detections = Tuple[_tiles.Array, _tiles.Array, _tiles.Array]  # boxes (n, 4), scores (n,) 0-1, labels (n,) from 1
else:
    # a package of a unique name over this folder: sys.path stays as it is, and two packages cannot mix their files
    _package = types.ModuleType("dlpk_" + uuid.uuid4().hex)
    _package.__path__ = [str(HOME)]
    sys.modules[_package.__name__] = _package
    _tiles = importlib.import_module(_package.__name__ + "._tiles")

JITTER = 4.0  # pixels by which two tiles may disagree on an object's centre, and it is still found
EDGE = 2.0  # pixels: a box that ends this near to the border of its mini tile may be cut by it
FIELDS = [("Class", "esriFieldTypeString"), ("Confidence", "esriFieldTypeDouble"), ("Value", "esriFieldTypeInteger")]


class DetectObjects:
    """Rectangles with Class, Confidence (0-100) and Value."""

    def __init__(self) -> None:
        self.name = "Detect Objects"
        self.description = "Finds objects with the detector of this package."
        self.model: Any = None  # _tiles.Model once a definition is known

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME)

    def getParameterInfo(self) -> list[dict[str, Any]]:
        threshold = self.model.document.get("Threshold", 0.5) if self.model else 0.5
        return [
            *_tiles.parameters(self.model),
            _tiles.parameter("threshold", "numeric", threshold, "Threshold", "Least confidence of an object, 0 to 1"),
            # ArcGIS's own 0.1 deletes true neighbours, crowns and houses whose boxes touch
            _tiles.parameter("nms_overlap", "numeric", 0.5, "NMS overlap", "IoU above which the weaker box is removed"),
            _tiles.parameter(
                "exclude_pad_detections",
                "string",
                "True",
                "Exclude padding detections",
                "Leave objects that are centred in the padding of a tile to the neighbouring tile",
                domain=("True", "False"),
            ),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.padding = int(_tiles.number(values["padding"]))
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.threshold = _tiles.number(values["threshold"])
        self.nms_overlap = _tiles.number(values["nms_overlap"])
        self.exclude_padding = _tiles.truth(values["exclude_pad_detections"])
        answer = _tiles.configuration(self.model, self.padding, self.batch_size)
        return dict(answer, threshold=self.threshold, nms_overlap=self.nms_overlap)

    def getFields(self) -> str:
        rows = [("OID", "esriFieldTypeOID"), *FIELDS, ("Shape", "esriFieldTypeGeometry")]
        return json.dumps({"fields": [{"name": n, "type": t, "alias": n} for n, t in rows]})

    def getGeometryType(self) -> int:
        return 4  # polygon

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:
        pixels, mask = pixelBlocks["raster_pixels"], pixelBlocks["raster_mask"]
        found = [_NOTHING]
        for corners, tiles in self.model.batches(pixels, mask, self.padding, self.batch_size):
            for (row, col), answer in zip(corners, self.model.run(tiles, _to_numpy)):
                found.append(self._owned(row, col, *answer))
        boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found))
        best = _tiles.keep_best(boxes, scores, labels, self.nms_overlap)
        return {"output_vectors": json.dumps(self._features(boxes[best], scores[best], labels[best]))}

    def _owned(self, row: int, col: int, boxes: _tiles.Array, scores: _tiles.Array, labels: _tiles.Array) -> Detections:
        """The detections that this mini tile answers for, moved from its own pixels to those of the unpadded block.

        A tile owns the boxes that are centred in its core, half open: an object up to 2 * padding long is whole in the
        tile that owns it. Boxes centred within JITTER outside stay too, unless the border may have cut them, because
        the neighbour may see the centre a little elsewhere; the two copies are merged by their overlap.
        """
        keep = scores >= self.threshold
        if self.exclude_padding and self.padding:
            size, padding = self.model.size, self.padding
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            own = ((centres >= padding) & (centres < size - padding)).all(axis=1)
            band = min(JITTER, padding / 2)
            near = ((centres >= padding - band) & (centres < size - padding + band)).all(axis=1)
            cut = ((boxes[:, :2] < EDGE) | (boxes[:, 2:] > size - EDGE)).any(axis=1)
            keep &= own | (near & ~cut)
        shift = np.array([col, row, col, row], np.float32) - self.padding
        return boxes[keep] + shift, scores[keep], labels[keep]

    def _features(self, boxes: _tiles.Array, scores: _tiles.Array, labels: _tiles.Array) -> dict[str, Any]:
        features = []
        for i, (box, score, label) in enumerate(zip(boxes.tolist(), scores.tolist(), labels.tolist()), 1):
            xmin, ymin, xmax, ymax = box
            entry = self.model.classes[label - 1]  # detectors count classes by position from 1 (ArcGIS formats A.3)
            attributes = {"OID": i, "Class": entry["Name"], "Confidence": 100 * score, "Value": entry["Value"]}
            ring = [[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]]
            features.append({"attributes": attributes, "geometry": {"rings": [ring]}})
        rows = [("FID", "esriFieldTypeOID"), *FIELDS]
        return {
            "displayFieldName": "",
            "fieldAliases": {name: name for name, _ in rows},
            "geometryType": "esriGeometryPolygon",
            "fields": [{"name": n, "type": t, "alias": n} for n, t in rows],
            "features": features,
        }


_NOTHING: Detections = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _to_numpy(answers: Any) -> list[Detections]:
    """What a detector answers for a batch, as arrays: boxes xmin ymin xmax ymax in tile pixels, labels from 1."""
    return [(a["boxes"].cpu().numpy(), a["scores"].cpu().numpy(), a["labels"].cpu().numpy()) for a in answers]
