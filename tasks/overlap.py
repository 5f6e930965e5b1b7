"""Non Maximum Suppression on map geometries, as the ArcGIS tool of that name does it (ArcGIS formats F.5)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray


def keep_best(
    polygons: NDArray[Any], confidences: NDArray[np.floating[Any]], classes: NDArray[Any], max_overlap_ratio: float
) -> NDArray[np.bool_]:
    """Which of n polygons stay: greedy by confidence, ties in the given order.

    A polygon goes when one that stays, of the same class, overlaps it by more than `max_overlap_ratio`: shared area
    by united area, 0-1; 0 means that any shared area is too much. Found on a tree: time grows with the neighbours.
    """
    order = np.argsort(-np.asarray(confidences), kind="stable")
    ranked, labels = shapely.make_valid(polygons[order]), np.asarray(classes)[order]
    better, weaker = shapely.STRtree(ranked).query(ranked, predicate="intersects")
    rival = (better < weaker) & (labels[better] == labels[weaker])
    better, weaker = better[rival], weaker[rival]
    too_much = overlap(ranked, better, weaker) > max_overlap_ratio
    stays = np.ones(len(ranked), dtype=bool)
    pairs = sorted(zip(better[too_much].tolist(), weaker[too_much].tolist(), strict=True))
    for first, second in pairs:  # by rank of the better one, whose own fate is then settled
        if stays[first]:
            stays[second] = False
    answer = np.empty_like(stays)
    answer[order] = stays
    return answer


def ranks(values: Iterable[object]) -> NDArray[np.float64]:
    """Confidences of any writing, also as texts such as `0,87`. Raises ValueError for what is no number."""
    numbers = np.array([float(str(value).replace(",", ".")) for value in values], np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("some are missing")
    return numbers


def overlap(polygons: NDArray[Any], first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
    """Shared area by united area of pairs; upright boxes by arithmetic, the rest by geometry."""
    areas, bounds = shapely.area(polygons), shapely.bounds(polygons)
    sides = bounds[:, 2:] - bounds[:, :2]
    upright = np.isclose(areas, sides.prod(axis=1), rtol=1e-9)
    low, high = np.maximum(bounds[first, :2], bounds[second, :2]), np.minimum(bounds[first, 2:], bounds[second, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    odd = ~(upright[first] & upright[second])
    shared[odd] = shapely.area(shapely.intersection(polygons[first[odd]], polygons[second[odd]]))
    united = areas[first] + areas[second] - shared
    ratio: NDArray[np.float64] = shared / np.maximum(united, np.finfo(float).tiny)
    return ratio
