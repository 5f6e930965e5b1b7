"""How well a model does on chips it has never seen: one tally for each task, fed chip by chip.

Detection as Compute Accuracy For Object Detection (ArcGIS formats F.6) and COCO, pixels as Compute Accuracy For Pixel
Classification. The same tallies score the validation chips in training and the held-out chips in evaluation. A tally
keeps what it counted of each chip, so that chips can be drawn again (`tasks.bootstrap`) and the worst be shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.emd import ClassLabel, background_name
from tasks.bootstrap import Interval
from tasks.calibration import BINS, Calibration, binned, calibrate, calibrated
from tasks.matching import IOUS, average_precision, iou, mask_iou, match

Floats = NDArray[np.float64]
Key = tuple[str, str]  # class name ("" = all classes), name of the figure
Figures = dict[Key, Floats]  # (draws,) each
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)  # where precision and recall are told for the page
AT_ONCE, ROOM = 100, 20_000_000  # draws counted together, and detections in them: more would only take more memory


@dataclass(frozen=True)
class Scores:
    """`values[primary]` decides between models; more is better."""

    primary: str
    values: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion_matrix: Sequence[Sequence[int]] = ()  # rows = truth, columns = prediction; background first if it counts
    threshold: float | None = None  # detectors: the confidence, 0-1, at which precision, recall and F1 were counted
    chips: int = 0
    intervals: Mapping[Key, Interval] = field(default_factory=dict)  # 95 %, of the chips drawn again
    calibration: Calibration | None = None
    by_threshold: Sequence[Sequence[float]] = ()  # rows of threshold, precision, recall, F1
    facts: Mapping[str, Any] = field(default_factory=dict)  # what was scored: data digest

    def document(self) -> dict[str, Any]:
        """Plain JSON values; what is not there has no key."""
        ends: dict[str, dict[str, Interval]] = {}
        for (label, name), pair in self.intervals.items():
            ends.setdefault(label, {})[name] = pair
        optional = {
            "confusion_matrix": self.confusion_matrix,
            "threshold": self.threshold,
            "intervals": ends.pop("", {}),
            "per_class_intervals": ends,
            "calibration": self.calibration.document() if self.calibration else None,
            "by_threshold": self.by_threshold,
        }
        told = {"primary": self.primary, **self.values, "per_class": self.per_class, "chips": self.chips, **self.facts}
        return told | {key: value for key, value in optional.items() if value not in (None, (), {}, [])}


class Tally(Protocol):
    """What was counted of chips so far."""

    @property
    def chips(self) -> int: ...

    def compute(self, threshold: float = ...) -> Scores: ...

    def resampled(self, draws: Floats, threshold: float = ...) -> Figures:
        """Every figure that has an interval, for each row of draws (draws, chips)."""

    def chip_scores(self, threshold: float = ...) -> Floats:
        """(chips,) 0-1, how right each chip is; nan where there was nothing to find and nothing was found."""


@dataclass(frozen=True)
class _Found:
    """One chip's detections, surest first, and its truths."""

    scores: NDArray[np.float32]  # (n,) 0-1
    labels: NDArray[np.int64]  # (n,) class index from 1
    hits: NDArray[np.bool_]  # (n, IOUS) whether it is a truth of its class
    kinds: NDArray[np.int64]  # (n,) class index of the truth of any class that it takes at IoU 0.5, 0 = none
    truths: NDArray[np.int64]  # (classes + 1,) objects of each class index


class DetectionScores:
    """AP at IoU 0.5 and 0.5:0.95, and precision, recall, F1 at a threshold; by boxes, or by masks where given."""

    def __init__(self, classes: Sequence[ClassLabel]) -> None:
        self.classes = list(classes)
        self.found: list[_Found] = []
        self.whole = 100.0  # what the function calls sure

    @property
    def chips(self) -> int:
        return len(self.found)

    def settle(self) -> None:
        """After the last chip: of a function that never told more than 1, confidence is a share, not per cent.

        Functions of ArcGIS's templates tell it so (ArcGIS formats E.7).
        """
        if max((float(f.scores.max(initial=0)) for f in self.found), default=0) * self.whole <= 1:
            self.found = [replace(f, scores=f.scores * np.float32(self.whole)) for f in self.found]
            self.whole = 1.0

    def add(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        true_boxes: NDArray[np.float32],
        true_labels: NDArray[np.int64],
        *,
        masks: NDArray[np.bool_] | None = None,
        true_masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """One chip. boxes (n, 4) xmin ymin xmax ymax, labels (n,) class index from 1, scores (n,) 0-1.

        With masks, (n, rows, cols) and (m, rows, cols), objects overlap by their pixels: instances.
        """
        order = np.argsort(-scores, kind="stable")
        by_masks = masks is not None and true_masks is not None
        overlaps = mask_iou(masks, true_masks) if by_masks else iou(boxes, true_boxes)  # type: ignore[arg-type]
        overlaps, labels, scores = overlaps[order], labels[order], scores[order]
        hits = np.zeros((len(scores), len(IOUS)), bool)
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            hits[mine] = match(overlaps[np.ix_(mine, true_labels == label)], scores[mine]) >= 0
        taken = match(overlaps, scores, IOUS[:1])[:, 0]
        kinds = np.append(true_labels, 0)[taken]  # -1, none, is the last
        counts = np.bincount(true_labels, minlength=len(self.classes) + 1)
        self.found.append(_Found(scores, labels, hits, kinds, counts))

    def best_threshold(self) -> float | None:
        """The confidence, 0-1, with the best F1 over all classes; None when no object was found."""
        scores, hits, _ = self._all()
        order = np.argsort(-scores, kind="stable")
        true = np.cumsum(hits[order, 0])
        if not len(true) or not true[-1]:
            return None
        f1 = 2 * true / (np.arange(1, len(true) + 1) + sum(int(f.truths.sum()) for f in self.found))
        steps = np.floor(scores[order].astype(float).clip(0.05, 0.95) * 1000)  # down: the best one itself must pass
        last = np.diff(steps, append=-1) != 0  # those of one step pass together
        return float(steps[np.where(last, f1, 0).argmax()] / 1000)

    def compute(self, threshold: float = 0.5) -> Scores:
        figures = self.resampled(np.ones((1, self.chips)), threshold)
        true, found, truths = (rows.sum(axis=0) for rows in self._counts(threshold))
        per_class = {}
        for i, label in enumerate(self.classes, start=1):
            row = {name: _plain(figures[label.name, name]) for name in ("Precision", "Recall", "F1_Score")}
            row |= {name: _plain(figures[label.name, name]) for name in ("AP", "AP50_95")}
            counts = {
                "True_Positive": true[i],
                "False_Positive": found[i] - true[i],
                "False_Negative": truths[i] - true[i],
            }
            per_class[label.name] = row | {name: int(count) for name, count in counts.items()}
        values = {name: _plain(values) for (label, name), values in figures.items() if not label}
        scores, hits, _ = self._all()
        calibration = calibrate(scores, hits[:, 0])
        values |= {"calibration_error": calibration.error} if calibration else {}
        matrix = self._confusion(threshold) if len(self.classes) > 1 else ()
        curve = [[float(t), *self._curve(t)] for t in THRESHOLDS]
        return Scores(
            "AP50", values, per_class, matrix, threshold, self.chips, calibration=calibration, by_threshold=curve
        )

    def resampled(self, draws: Floats, threshold: float = 0.5) -> Figures:
        step = max(1, min(AT_ONCE, ROOM // max(1, sum(len(f.scores) for f in self.found))))
        parts = [self._resampled(part, threshold) for part in np.array_split(draws, -(-len(draws) // step))]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _resampled(self, draws: Floats, threshold: float) -> Figures:
        scores, hits, labels = self._all()
        chip = np.repeat(np.arange(self.chips), [len(f.scores) for f in self.found])
        truths = draws @ np.array([f.truths for f in self.found])
        figures: Figures = {}
        for i, label in enumerate(self.classes, start=1):
            mine = np.flatnonzero(labels == i)
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            weights = draws[:, chip[mine]]
            by_iou = [average_precision(hits[mine, t], weights, truths[:, i]) for t in range(len(IOUS))]
            figures |= {(label.name, "AP"): by_iou[0], (label.name, "AP50_95"): np.mean(by_iou, axis=0)}
        names = [label.name for label in self.classes]
        figures |= {("", "AP50"): _over([figures[name, "AP"] for name in names])}
        figures |= {("", "AP50_95"): _over([figures[name, "AP50_95"] for name in names])}
        true, found, real = (draws @ rows for rows in self._counts(threshold))
        for i, name in enumerate(names, start=1):
            values = zip(("Precision", "Recall", "F1_Score"), _prf(true[:, i], found[:, i], real[:, i]), strict=True)
            figures |= {(name, key): value for key, value in values}
        totals = _prf(true.sum(axis=1), found.sum(axis=1), real.sum(axis=1))
        return figures | {("", key): value for key, value in zip(("precision", "recall", "f1"), totals, strict=True)}

    def chip_scores(self, threshold: float = 0.5) -> Floats:
        true, found, truths = (rows.sum(axis=1) for rows in self._counts(threshold))
        return _ratio(2 * true, found + truths)

    def _all(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """Confidence, hits and labels of the detections of every chip."""
        hits = [np.zeros((0, len(IOUS)), bool), *(f.hits for f in self.found)]
        none = np.zeros(0, np.float32), np.zeros(0, np.int64)
        scores, labels = [none[0], *(f.scores for f in self.found)], [none[1], *(f.labels for f in self.found)]
        return np.concatenate(scores), np.concatenate(hits), np.concatenate(labels)

    def _counts(self, threshold: float) -> tuple[Floats, Floats, Floats]:
        """(chips, classes + 1) each: true detections, detections, truths; column 0 is empty."""
        size = len(self.classes) + 1
        sure = [f.scores >= threshold for f in self.found]
        true = [np.bincount(f.labels[s & f.hits[:, 0]], minlength=size) for f, s in zip(self.found, sure, strict=True)]
        found = [np.bincount(f.labels[s], minlength=size) for f, s in zip(self.found, sure, strict=True)]
        counted = (true, found, [f.truths for f in self.found])
        return tuple(np.array(rows, float).reshape(-1, size) for rows in counted)  # type: ignore[return-value]

    def _curve(self, threshold: float) -> list[float]:
        true, found, truths = (rows.sum() for rows in self._counts(threshold))
        return [_share(true, found), _share(true, truths), _share(2 * true, found + truths)]

    def _confusion(self, threshold: float) -> list[list[int]]:
        """What was taken for what; row 0: invented, column 0: missed."""
        size = len(self.classes) + 1
        matrix = np.zeros((size, size), int)
        for f in self.found:
            sure = f.scores >= threshold
            np.add.at(matrix, (f.kinds[sure], f.labels[sure]), 1)
            matrix[:, 0] += f.truths - np.bincount(f.kinds[sure], minlength=size) * (np.arange(size) > 0)
        rows: list[list[int]] = matrix.tolist()
        return rows


class PixelScores:
    """Confusion matrix, and from it IoU, F1 and accuracy. Pixels without a true class (index -1) do not count."""

    primary = "mIoU"

    def __init__(self, classes: Sequence[ClassLabel], *, background: bool) -> None:
        """`background`: whether index 0 is a class of its own, or means that nobody has looked."""
        self.classes, self.background = list(classes), background
        self.matrices: list[NDArray[np.int64]] = []  # (classes + 1, classes + 1) of each chip
        self.sure = np.zeros((3, BINS))  # of the pixels whose confidence was told: too many to keep

    @property
    def chips(self) -> int:
        return len(self.matrices)

    @property
    def names(self) -> list[str]:
        names = [c.name for c in self.classes]
        return [background_name(names), *names] if self.background else names

    def add(
        self, mask: NDArray[np.integer], truth: NDArray[np.integer], confidence: NDArray[np.float32] | None = None
    ) -> None:
        """One chip, each (rows, cols): class index, and where it is known the confidence 0-1 of the answer."""
        counts, size = truth >= 0, len(self.classes) + 1
        pairs = np.ravel_multi_index((truth[counts], mask[counts]), (size, size))
        self.matrices.append(np.bincount(pairs, minlength=size**2).reshape(size, size))
        if confidence is not None:
            self.sure += binned(confidence[counts], (mask == truth)[counts])

    def compute(self, threshold: float = 0.5) -> Scores:
        figures = self.resampled(np.ones((1, self.chips)))
        matrix = self._matrices().sum(axis=0)
        truths = dict(zip(self.names, matrix.sum(axis=1)[-len(self.names) :], strict=True))
        per_class = {
            name: {key: _plain(values) for (label, key), values in figures.items() if label == name}
            | {"Pixels": int(truths[name])}
            for name in self.names
        }
        values = {key: _plain(value) for (label, key), value in figures.items() if not label}
        calibration = calibrated(self.sure)
        values |= {"calibration_error": calibration.error} if calibration else {}
        kept = (matrix if self.background else matrix[1:, 1:]).astype(int).tolist()
        return Scores(self.primary, values, per_class, kept, chips=self.chips, calibration=calibration)

    def resampled(self, draws: Floats, threshold: float = 0.5) -> Figures:
        size = len(self.classes) + 1
        matrix = (draws @ self._matrices().reshape(self.chips, -1)).reshape(-1, size, size)
        both, truth, found = np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2), matrix.sum(axis=1)
        figures: Figures = {}
        for i, name in enumerate(self.names, start=size - len(self.names)):
            precision, recall, f1 = _prf(both[:, i], found[:, i], truth[:, i])
            share = _ratio(both[:, i], truth[:, i] + found[:, i] - both[:, i])
            figures |= {(name, "IoU"): share, (name, "F1_Score"): f1}
            figures |= {(name, "Precision"): precision, (name, "Recall"): recall}
        accuracy = _ratio(both.sum(axis=1), matrix.sum(axis=(1, 2)))
        return figures | self._overall(figures, truth[:, size - len(self.names) :] > 0, accuracy)

    def _overall(self, figures: Figures, seen: NDArray[np.bool_], accuracy: Floats) -> Figures:
        """Means over the classes that are there, which `seen` (draws, classes) tells, and IoU by class."""
        means = {
            key: _over(
                [np.where(seen[:, i], np.nan_to_num(figures[name, of]), np.nan) for i, name in enumerate(self.names)]
            )
            for key, of in (("mIoU", "IoU"), ("F1", "F1_Score"))
        }
        overall: Figures = {("", key): value for key, value in means.items()} | {("", "accuracy"): accuracy}
        told = [name for name in self.names if np.isfinite(figures[name, "IoU"]).any()]
        return overall | {("", f"IoU_{name}"): figures[name, "IoU"] for name in told}

    def chip_scores(self, threshold: float = 0.5) -> Floats:
        matrices = self._matrices()
        return _ratio(np.trace(matrices, axis1=1, axis2=2), matrices.sum(axis=(1, 2)))

    def _matrices(self) -> Floats:
        size = len(self.classes) + 1
        return np.array(self.matrices, float).reshape(-1, size, size)


class ChangeScores(PixelScores):
    """Pixels of two dates: how well the one class, change, is told from the rest."""

    primary = "f1_score"

    def _overall(self, figures: Figures, seen: NDArray[np.bool_], accuracy: Floats) -> Figures:
        change = self.classes[0].name
        names = {"precision": "Precision", "recall": "Recall", "f1_score": "F1_Score", "IoU": "IoU"}
        return {("", key): figures[change, of] for key, of in names.items()} | {("", "accuracy"): accuracy}


class ObjectScores:
    """Whole objects: one label for each chip, or with `multilabel` a set of them."""

    def __init__(self, classes: Sequence[ClassLabel], *, multilabel: bool = False) -> None:
        self.classes, self.multilabel = list(classes), multilabel
        self.primary = "f1_score" if multilabel else "accuracy"
        self.counted: list[NDArray[np.int64]] = []  # (3, classes) of each chip: true, found, truths
        self.right: list[bool] = []  # of each chip: every label, and no other
        self.pairs: list[tuple[int, int]] = []  # class index of truth and answer
        self.sure: list[tuple[float, bool]] = []  # confidence 0-1 of each answer, and whether it is true

    @property
    def chips(self) -> int:
        return len(self.counted)

    def add(self, labels: NDArray[np.int64], truth: NDArray[np.int64], confidence: NDArray[np.float32]) -> None:
        """One chip. labels (n,) and truth (m,) class index from 1, one each unless multilabel; confidence (n,) 0-1."""
        size = len(self.classes) + 1
        found, real = (np.bincount(values, minlength=size)[1:].clip(max=1) for values in (labels, truth))
        self.counted.append(np.stack([found & real, found, real]))
        self.right.append(bool((found == real).all()))
        self.sure += [(float(c), bool(np.isin(label, truth))) for c, label in zip(confidence, labels, strict=True)]
        if not self.multilabel:
            self.pairs.append((int(truth[0]), int(labels[0]) if len(labels) else 0))

    def compute(self, threshold: float = 0.5) -> Scores:
        figures = self.resampled(np.ones((1, self.chips)))
        truths = self._counted().sum(axis=0)[2]
        per_class = {
            label.name: {key: _plain(figures[label.name, key]) for key in ("Precision", "Recall", "F1_Score")}
            | {"Objects": int(truths[i])}
            for i, label in enumerate(self.classes)
        }
        values = {key: _plain(value) for (label, key), value in figures.items() if not label}
        confidence, true = np.array(self.sure, float).reshape(-1, 2).T
        calibration = calibrate(confidence, true > 0)
        values |= {"calibration_error": calibration.error} if calibration else {}
        matrix = self._confusion() if self.pairs else ()
        return Scores(self.primary, values, per_class, matrix, chips=self.chips, calibration=calibration)

    def resampled(self, draws: Floats, threshold: float = 0.5) -> Figures:
        true, found, real = (draws @ rows for rows in self._counted().transpose(1, 0, 2))
        figures: Figures = {}
        for i, label in enumerate(self.classes):
            rows = zip(("Precision", "Recall", "F1_Score"), _prf(true[:, i], found[:, i], real[:, i]), strict=True)
            figures |= {(label.name, key): value for key, value in rows}
        seen = [
            np.where(real[:, i] > 0, np.nan_to_num(figures[c.name, "F1_Score"]), np.nan)
            for i, c in enumerate(self.classes)
        ]
        accuracy = _ratio(draws @ np.array(self.right, float), draws.sum(axis=1))
        return figures | {("", "accuracy"): accuracy, ("", "f1_score"): _over(seen)}

    def chip_scores(self, threshold: float = 0.5) -> Floats:
        true, found, real = self._counted().sum(axis=2).T
        return _ratio(2 * true, found + real)

    def _counted(self) -> Floats:
        return np.array(self.counted, float).reshape(-1, 3, len(self.classes))

    def _confusion(self) -> list[list[int]]:
        """Rows truth, columns answer, without background: an object always is of a class."""
        matrix = np.zeros((len(self.classes) + 1,) * 2, int)
        np.add.at(matrix, tuple(np.array(self.pairs).T), 1)
        rows: list[list[int]] = matrix[1:, 1:].tolist()
        return rows


def _prf(true: Floats, found: Floats, truths: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1; nan where nothing was found, there is no truth, neither."""
    return _ratio(true, found), _ratio(true, truths), _ratio(2 * true, found + truths)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0))


def _over(rows: Sequence[Floats]) -> Floats:
    """The mean over classes for each draw, of those that it holds."""
    values = np.array(rows)
    held = np.isfinite(values)
    return _ratio(np.where(held, values, 0).sum(axis=0), held.sum(axis=0).astype(float))


def _plain(values: Floats) -> float:
    """The one figure of chips as they are; 0 where there was nothing to divide by."""
    return float(np.nan_to_num(values[0]))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
