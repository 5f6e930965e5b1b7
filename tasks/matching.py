"""Which detections are true, and what average precision that gives, as COCO counts (ArcGIS formats F.6).

Detections are counted with a weight each, so the same code scores the chips as they are (all weights 1) and a thousand
resamples of them at once.
"""

import numpy as np
from numpy.typing import NDArray

IOUS = np.linspace(0.5, 0.95, 10)  # the first is that of AP50; AP50:95 is the mean over all
RECALLS = np.linspace(0, 1, 101)  # where the precision-recall curve is read


def iou(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2, dtype=np.float64)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (one, two)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9))


def mask_iou(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, m) intersection over union of (n, rows, cols) and (m, rows, cols) masks."""
    flat = [masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32) for masks in (one, two)]
    both = (flat[0] @ flat[1].T).astype(np.float64)
    areas = [masks.sum(axis=1, dtype=np.float64) for masks in flat]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9))


def match(
    overlaps: NDArray[np.float64], scores: NDArray[np.float32], least: NDArray[np.float64] = IOUS
) -> NDArray[np.int64]:
    """(n, thresholds) the truth that each detection takes, -1 = none, at each of the `least` overlaps.

    `overlaps` is (n, m). In order of confidence each takes the free truth that it overlaps most.
    """
    taken = np.full((len(scores), len(least)), -1)
    free = np.ones((len(least), overlaps.shape[1]), bool)
    if not overlaps.size:
        return taken
    at = np.arange(len(least))
    reach = overlaps.max(axis=1) >= least[0]  # the others, most of the doubtful ones, take nothing
    for i in np.argsort(-scores, kind="stable"):
        if reach[i]:
            open_to = np.where(free & (overlaps[i] >= least[:, None]), overlaps[i], -1.0)
            best = open_to.argmax(axis=1)
            found = open_to[at, best] >= 0
            taken[i, found] = best[found]
            free[at[found], best[found]] = False
    return taken


def average_precision(
    hits: NDArray[np.bool_], weights: NDArray[np.float64], truths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(resamples,) area under the precision-recall curve, 0-1; nan where there is no truth.

    hits: (n,) of the detections, surest first; weights: (resamples, n) how often each counts; truths: (resamples,).
    """
    total = np.cumsum(weights, axis=1)[:, hits]  # precision is highest at the true ones: the others need no place
    true = np.cumsum(weights[:, hits], axis=1)
    precision = true / np.maximum(total, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(truths, 1)[:, None]
    closed = np.pad(precision, ((0, 0), (0, 1)))  # beyond the last recall reached precision is 0
    area = [row[np.searchsorted(reached, RECALLS)].mean() for row, reached in zip(closed, recall, strict=True)]
    return np.where(truths > 0, area, np.nan)
