"""Detect Objects: objects out of pixels, each once and whole on the seams of tiles (ArcGIS formats E.7). It travels."""

from __future__ import annotations

import importlib
import json
import sys
import types
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

HOME = Path(__file__).resolve().parent
if TYPE_CHECKING:
    from . import _outlines, _tiles
else:
    # a package of a unique name over this folder: sys.path stays as it is, and two packages cannot mix their files
    _package = types.ModuleType("dlpk_" + uuid.uuid4().hex)
    _package.__path__ = [str(HOME)]
    sys.modules[_package.__name__] = _package
    _outlines = importlib.import_module(_package.__name__ + "._outlines")
    _tiles = importlib.import_module(_package.__name__ + "._tiles")

JITTER = 4.0  # pixels by which two tiles may disagree on an object's centre, and it is still found
EDGE = 2.0  # pixels: a box that ends this near to the border of its mini tile may be cut by it
FIELDS = [("Class", "esriFieldTypeString"), ("Confidence", "esriFieldTypeDouble"), ("Value", "esriFieldTypeInteger")]


class Found(NamedTuple):
    """What was found in a tile, n objects."""

    boxes: _tiles.Array  # (n, 4) float32 xmin ymin xmax ymax, pixels
    scores: _tiles.Array  # (n,) 0-1
    labels: _tiles.Array  # (n,) position in Classes, from 1
    outlines: _tiles.Array  # (n,) of lists of rings (k, 2) in the same pixels; None stands for the box

    def where(self, chosen: _tiles.Array) -> Found:
        return Found(*(part[chosen] for part in self))


class DetectObjects:
    """Rectangles, or outlines of a network that draws masks, with Class, Confidence (0-100) and Value."""

    def __init__(self) -> None:
        self.name = "Detect Objects"
        self.description = "Finds objects with the detector of this package."
        self.model: Any = None  # _tiles.Model once a definition is known

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME)

    def getParameterInfo(self) -> list[dict[str, Any]]:
        document = self.model.document if self.model else {}
        threshold = document.get("Threshold", 0.5)
        # ArcGIS's own 0.1 deletes true neighbours, crowns and houses whose boxes touch
        overlap = (document.get("NetworkOptions") or {}).get("box_nms_thresh", 0.5)
        rows = [
            *_tiles.parameters(self.model),
            _tiles.parameter("threshold", "numeric", threshold, "Threshold", "Least confidence of an object, 0 to 1"),
            _tiles.parameter(
                "nms_overlap", "numeric", overlap, "NMS overlap", "IoU above which the weaker box is removed"
            ),
            _tiles.switch(
                "exclude_pad_detections",
                True,
                "Exclude padding detections",
                "Leave objects that are centred in the padding of a tile to the neighbouring tile",
            ),
            *_tiles.augmentation(self.model),
        ]
        if document.get("ModelType") == "InstanceDetection":
            what = "Rectangles instead of the outlines of the objects"
            rows.append(_tiles.switch("return_bboxes", False, "Return bounding boxes", what))
        return rows

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.padding = int(_tiles.number(values["padding"]))
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.threshold = _tiles.number(values["threshold"])
        self.nms_overlap = _tiles.number(values["nms_overlap"])
        self.exclude_padding = _tiles.truth(values["exclude_pad_detections"])
        self.views = self.model.views(_tiles.truth(values["test_time_augmentation"]))
        self.policy = _tiles.policy(values["merge_policy"])
        self.outlined = not _tiles.truth(values.get("return_bboxes", True))
        answer = _tiles.configuration(self.model, self.padding, self.batch_size)
        return dict(answer, threshold=self.threshold, nms_overlap=self.nms_overlap)

    def getFields(self) -> str:
        rows = [("OID", "esriFieldTypeOID"), *FIELDS, ("Shape", "esriFieldTypeGeometry")]
        return json.dumps({"fields": [{"name": n, "type": t, "alias": n} for n, t in rows]})

    def getGeometryType(self) -> int:
        return 4  # polygon

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:
        pixels, mask = pixelBlocks["raster_pixels"], pixelBlocks["raster_mask"]
        parts = [_NOTHING]
        for spots, tiles in self.model.batches(pixels, mask, self.padding, self.batch_size):
            parts += (self._owned(spot.top, spot.left, tile) for spot, tile in zip(spots, self._look(tiles)))
        found = Found(*(np.concatenate(part) for part in zip(*parts)))
        best = _tiles.keep_best(found.boxes, found.scores, found.labels, self.nms_overlap)
        return {"output_vectors": json.dumps(self._features(found.where(best)))}

    def _look(self, tiles: _tiles.Array) -> list[Found]:
        """What is found in each of (n, bands, S, S), merged over all views."""
        if hasattr(self.model.network, "suppress"):
            self.model.network.suppress(self.nms_overlap)
        seen = [self.model.run(_tiles.turned(tiles, *view), partial(self._to_numpy, view)) for view in self.views]
        return [one[0] if len(one) == 1 else self._merged(one) for one in zip(*seen)]

    def _to_numpy(self, view: tuple[int, bool], answers: list[dict[str, Any]]) -> list[Found]:
        """What a detector answers for a batch, turned back; outlines only of what passes the threshold."""
        back = partial(_tiles.turned_back, turns=view[0], mirrored=view[1], size=self.model.size)
        found = []
        for answer in answers:
            boxes, scores, labels = (answer[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
            outlines = np.full(len(scores), None)
            for i in np.flatnonzero(scores >= self.threshold) if self.outlined and "masks" in answer else ():
                outlines[i] = [back(ring) for ring in _outlines.outline(answer["masks"][i].cpu().numpy())]
            corners = back(boxes.reshape(-1, 2, 2))
            boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
            found.append(Found(boxes, scores, labels, outlines))
        return found

    def _merged(self, views: tuple[Found, ...]) -> Found:
        """One object for what the views found in one place: its mean box; a view that missed it counts as 0."""
        every = Found(*(np.concatenate(part) for part in zip(*views)))
        best = every.where(_tiles.keep_best(every.boxes, every.scores, every.labels, self.nms_overlap))
        if not len(best.scores):
            return best
        shared = _tiles.overlaps(every.boxes, best.boxes) * (every.labels[:, None] == best.labels)
        own = (shared == shared.max(axis=1, keepdims=True)) & (shared >= max(self.nms_overlap, 1e-9))
        weights = own * every.scores[:, None]  # (all, best)
        ends = np.cumsum([len(view.scores) for view in views])[:-1]
        scores = np.stack([part.max(axis=0, initial=0) for part in np.split(weights, ends)])  # (views, best)
        boxes = (weights.T @ every.boxes / np.maximum(weights.sum(axis=0), 1e-9)[:, None]).astype(np.float32)
        return best._replace(boxes=boxes, scores=getattr(np, self.policy)(scores, axis=0))

    def _owned(self, row: int, col: int, found: Found) -> Found:
        """The detections that this mini tile answers for, moved from its own pixels to those of the unpadded block.

        A tile owns the boxes that are centred in its core, half open: an object up to 2 * padding long is whole in the
        tile that owns it. Boxes centred within JITTER outside stay too, unless the border may have cut them, because
        the neighbour may see the centre a little elsewhere; the two copies are merged by their overlap.
        """
        boxes, keep = found.boxes, found.scores >= self.threshold
        if self.exclude_padding and self.padding:
            size, padding = self.model.size, self.padding
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            own = ((centres >= padding) & (centres < size - padding)).all(axis=1)
            band = min(JITTER, padding / 2)
            near = ((centres >= padding - band) & (centres < size - padding + band)).all(axis=1)
            cut = ((boxes[:, :2] < EDGE) | (boxes[:, 2:] > size - EDGE)).any(axis=1)
            keep &= own | (near & ~cut)
        kept, shift = found.where(keep), np.array([col, row], np.float32) - self.padding
        for i, rings in enumerate(kept.outlines):
            kept.outlines[i] = rings and [ring + shift for ring in rings]
        return kept._replace(boxes=kept.boxes + np.tile(shift, 2))

    def _features(self, found: Found) -> dict[str, Any]:
        features = []
        for i, (box, score, label, outline) in enumerate(zip(*(part.tolist() for part in found)), 1):
            xmin, ymin, xmax, ymax = box
            entry = self.model.classes[label - 1]  # detectors count classes by position from 1 (ArcGIS formats A.3)
            attributes = {"OID": i, "Class": entry["Name"], "Confidence": 100 * score, "Value": entry["Value"]}
            corners = [[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]]
            rings = [ring.tolist() for ring in outline] if outline else [corners]
            features.append({"attributes": attributes, "geometry": {"rings": rings}})
        rows = [("FID", "esriFieldTypeOID"), *FIELDS]
        return {
            "displayFieldName": "",
            "fieldAliases": {name: name for name, _ in rows},
            "geometryType": "esriGeometryPolygon",
            "fields": [{"name": n, "type": t, "alias": n} for n, t in rows],
            "features": features,
        }


_NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, object))
