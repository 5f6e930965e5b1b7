"""How well a model does on chips it has never seen: torchmetrics counts, this module names and keeps.

Detection as Compute Accuracy For Object Detection (ArcGIS formats F.6) and COCO; pixels as Compute Accuracy For Pixel
Classification. The same classes score the validation chips in training and the held-out chips in evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.detection import MeanAveragePrecision

from registry.emd import ClassLabel

IOU = 0.5  # a detection is true from this overlap with a truth of its class


@dataclass(frozen=True)
class Scores:
    """`values[primary]` decides between models; more is better."""

    primary: str
    values: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion_matrix: Sequence[Sequence[int]] = ()  # rows = truth, columns = prediction; background first
    threshold: float | None = None  # detectors: the confidence, 0-1, at which precision, recall and F1 were counted
    chips: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)  # what was scored: data digest

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        document = {
            "primary": self.primary,
            **self.values,
            "per_class": self.per_class,
            "chips": self.chips,
            **self.facts,
        }
        document |= {"confusion_matrix": self.confusion_matrix} if self.confusion_matrix else {}
        return document | ({"threshold": self.threshold} if self.threshold is not None else {})


class DetectionScores:
    """AP at IoU 0.5 and 0.5:0.95, and precision, recall, F1 at a threshold. Add chips, then compute."""

    def __init__(self, classes: Sequence[ClassLabel]) -> None:
        self.classes = list(classes)
        self.ap = MeanAveragePrecision(
            backend="faster_coco_eval", class_metrics=True, max_detection_thresholds=[1, 100, 500]
        )
        self.ap.warn_on_many_detections = False
        self.matches: list[tuple[float, int, bool]] = []  # score, class index, true
        self.truths = np.zeros(len(self.classes) + 1, int)
        self.chips = 0

    def add(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        true_boxes: NDArray[np.float32],
        true_labels: NDArray[np.int64],
    ) -> None:
        """One chip. boxes (n, 4) xmin ymin xmax ymax, labels (n,) class index from 1, scores (n,) 0-1."""
        found = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "scores": torch.from_numpy(scores),
        }
        truth = {"boxes": torch.from_numpy(true_boxes), "labels": torch.from_numpy(true_labels)}
        self.ap.update([found], [truth])
        self.chips += 1
        for label in range(1, len(self.classes) + 1):
            mine, real = labels == label, true_boxes[true_labels == label]
            self.truths[label] += len(real)
            hits = match(boxes[mine], scores[mine], real)
            self.matches += [(float(s), label, bool(hit)) for s, hit in zip(scores[mine], hits, strict=True)]

    def best_threshold(self) -> float:
        """The confidence, 0-1, with the best F1 over all classes; 0.5 when nothing was found."""
        ranked = sorted(self.matches, reverse=True)
        hits = np.cumsum([hit for _, _, hit in ranked])
        if not ranked or not hits[-1]:
            return 0.5
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + self.truths.sum())
        return min(0.95, max(0.05, round(ranked[int(f1.argmax())][0], 3)))

    def compute(self, threshold: float) -> Scores:
        result = {k: v.tolist() for k, v in self.ap.compute().items()}
        by_class = dict(zip(np.ravel(result["classes"]), np.ravel(result["map_per_class"]), strict=True))
        per_class = {}
        for i, label in enumerate(self.classes, start=1):
            per_class[label.name] = {"AP": max(0.0, by_class.get(i, 0.0)), **self._counts(threshold, i)}
        values = {"AP50": max(0.0, result["map_50"]), "AP50_95": max(0.0, result["map"])}
        keys = {"Precision": "precision", "Recall": "recall", "F1_Score": "f1"}
        values |= {keys[k]: v for k, v in self._counts(threshold).items() if k in keys}
        return Scores("AP50", values, per_class, threshold=threshold, chips=self.chips)

    def _counts(self, threshold: float, label: int | None = None) -> dict[str, float]:
        """The table of Compute Accuracy For Object Detection (F.6) for a class, or for all."""
        chosen = [hit for score, kind, hit in self.matches if score >= threshold and label in (None, kind)]
        truths = int(self.truths.sum() if label is None else self.truths[label])
        true = sum(chosen)
        false, missed = len(chosen) - true, truths - true
        return {
            "Precision": true / len(chosen) if chosen else 0.0,
            "Recall": true / truths if truths else 0.0,
            "F1_Score": 2 * true / (len(chosen) + truths) if chosen or truths else 0.0,
            "True_Positive": true,
            "False_Positive": false,
            "False_Negative": missed,
        }


class PixelScores:
    """Confusion matrix, and from it IoU, F1 and accuracy. Pixels without a true class (index -1) do not count."""

    def __init__(self, classes: Sequence[ClassLabel], *, background: bool) -> None:
        """`background`: whether index 0 is a class of its own, or means that nobody has looked."""
        self.classes, self.background = list(classes), background
        self.matrix = MulticlassConfusionMatrix(len(self.classes) + 1, ignore_index=-1)
        self.chips = 0

    def add(self, mask: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """One chip, each (rows, cols) class index."""
        self.matrix.update(torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
        self.chips += 1

    def compute(self) -> Scores:
        matrix = self.matrix.compute().numpy()
        both, truth, found = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        names = ["background", *(c.name for c in self.classes)]
        first = 0 if self.background else 1
        per_class = {
            names[i]: {
                "IoU": _share(both[i], truth[i] + found[i] - both[i]),
                "F1_Score": _share(2 * both[i], truth[i] + found[i]),
                "Precision": _share(both[i], found[i]),
                "Recall": _share(both[i], truth[i]),
                "Pixels": int(truth[i]),
            }
            for i in range(first, len(names))
        }
        seen = [row for row in per_class.values() if row["Pixels"]]
        values = {
            "mIoU": _mean(seen, "IoU"),
            "F1": _mean(seen, "F1_Score"),
            "accuracy": _share(both.sum(), matrix.sum()),
        }
        values |= {f"IoU_{name}": row["IoU"] for name, row in per_class.items()}
        return Scores("mIoU", values, per_class, confusion_matrix=matrix.tolist(), chips=self.chips)


def match(boxes: NDArray[np.float32], scores: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes are true: in order of confidence each takes the free truth it overlaps most, from IoU 0.5."""
    hits = np.zeros(len(boxes), bool)
    free = np.ones(len(truth), bool)
    if not len(boxes) or not len(truth):
        return hits
    overlaps = iou(boxes, truth)
    for i in np.argsort(-scores, kind="stable"):
        best = int(np.where(free, overlaps[i], -1).argmax())
        if free[best] and overlaps[i, best] >= IOU:
            hits[i], free[best] = True, False
    return hits


def iou(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (one, two)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows])) if rows else 0.0
