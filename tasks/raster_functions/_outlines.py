"""Outlines of masks, as smooth as the mask is: they run between the centres of pixels. Travels in the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

# Every side between a pixel that is inside and one that is not is walked with the inside on the right hand: east along
# its top, south along its right, west along its bottom, north along its left. For each heading: where the pixel outside
# lies (rows, cols), where the walk along this side begins, and the step to where it ends.
HEADINGS = (((-1, 0), (0, 0), (0, 1)), ((0, 1), (0, 1), (1, 0)), ((1, 0), (1, 1), (0, -1)), ((0, -1), (1, 0), (-1, 0)))

LEAST = 0.02  # pixels between the outline and the centre of a pixel inside; at 0 two of its sides would meet there


def outline(mask: Array) -> list[Array]:
    """Rings (k, 2) of x y, pixels from the upper left corner, not closed: of the largest patch, then of its holes.

    `mask` (rows, cols) is bool, or a probability 0-1 that is cut at 0.5 between pixels; [] when it never gets there.
    """
    sides = _sides(np.pad(mask.astype(np.float32), 1))
    rings, todo = [], dict.fromkeys(sides)
    while todo:
        walk = _walk(sides, next(iter(todo)))
        for side in walk:
            del todo[side]
        rings.append(np.array([sides[side] for side in walk], np.float32))
    if not rings:
        return []
    areas = [_area(ring) for ring in rings]  # of holes they are negative, because these are walked the other way
    largest = rings[int(np.argmax(areas))]
    holes = [ring for ring, area in zip(rings, areas) if area < 0 and _contains(largest, ring[0])]
    return [_without_needless(ring) for ring in (largest, *holes)]


def _sides(level: Array) -> dict[tuple[int, int, int], tuple[float, float]]:
    """(row, col, heading) where a side begins -> x, y where the level crosses 0.5; one pixel of `level` is a frame."""
    inside = level >= 0.5
    sides: dict[tuple[int, int, int], tuple[float, float]] = {}
    for heading, ((down, right), (row, col), _) in enumerate(HEADINGS):
        rows, cols = (inside & ~np.roll(inside, (-down, -right), (0, 1))).nonzero()
        here, there = level[rows, cols], level[rows + down, cols + right]
        share = np.maximum((here - 0.5) / (here - there), LEAST)
        x, y = cols - 0.5 + right * share, rows - 0.5 + down * share
        begins = zip((rows + row).tolist(), (cols + col).tolist(), [heading] * len(rows))
        sides.update(zip(begins, zip(x.tolist(), y.tolist())))
    return sides


def _walk(sides: dict[tuple[int, int, int], Any], begin: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The sides of one ring; where two patches touch at a corner it turns right and stays with its own."""
    walk, at = [begin], begin
    while True:
        down, right = HEADINGS[at[2]][2]
        turns = ((at[0] + down, at[1] + right, (at[2] + turn) % 4) for turn in (1, 0, -1))
        at = next(side for side in turns if side in sides)
        if at == begin:
            return walk
        walk.append(at)


def _area(ring: Array) -> float:
    (x, y), (u, v) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x * v - u * y).sum() / 2)


def _contains(ring: Array, point: Array) -> bool:
    (x, y), (u, v) = ring.T, np.roll(ring, -1, axis=0).T
    crossed = (y > point[1]) != (v > point[1])
    at = x[crossed] + (point[1] - y[crossed]) / (v - y)[crossed] * (u - x)[crossed]
    return bool((at > point[0]).sum() % 2)


def _without_needless(ring: Array) -> Array:
    """Without the points on straight lines."""
    came, goes = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    corners: Array = ring[np.abs(came[:, 0] * goes[:, 1] - came[:, 1] * goes[:, 0]) > 1e-4]
    return corners
