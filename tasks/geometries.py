"""Many geometries in little memory: as bytes in one piece, in which a spatial index finds those of a place.

Shapely's objects take ten times as much, and a process that only looks at them gets a copy of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

BATCH = 1024  # geometries that are objects at a time
LEAF = 32  # geometries that the index takes together


@dataclass(frozen=True)
class Geometries:
    """Indexed by rows: `geometries[rows]` are (n,) objects of shapely."""

    wkb: NDArray[np.uint8]
    ends: NDArray[np.int64]  # (n + 1,) where each begins and the last one ends
    bounds: NDArray[np.float64]  # (n, 4) xmin ymin xmax ymax
    areas: NDArray[np.float64]  # (n,)

    @classmethod
    def packed(cls, batches: Iterable[NDArray[np.object_]]) -> "Geometries":
        """`batches` may be read, moved or repaired while they are packed."""
        wkb, sizes = [np.zeros(0, np.uint8)], [np.zeros(1, np.int64)]
        bounds, areas = [np.zeros((0, 4))], [np.zeros(0)]
        for shapes in batches:
            pieces = shapely.to_wkb(shapes)
            wkb.append(np.frombuffer(b"".join(pieces), np.uint8))
            sizes.append(np.fromiter(map(len, pieces), np.int64, len(pieces)))
            bounds.append(shapely.bounds(shapes).reshape(-1, 4))
            areas.append(shapely.area(shapes))
        ends = np.cumsum(np.concatenate(sizes))
        return cls(np.concatenate(wkb), ends, np.concatenate(bounds), np.concatenate(areas))

    def __len__(self) -> int:
        return len(self.areas)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        pieces = [self.wkb[a:b].tobytes() for a, b in zip(self.ends[rows], self.ends[rows + 1], strict=True)]
        return np.asarray(shapely.from_wkb(np.array(pieces, object)))

    def batches(self, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.object_]]:
        """All of them, or those of `rows`, in order."""
        rows = np.arange(len(self)) if rows is None else rows
        return (self[rows[i : i + BATCH]] for i in range(0, len(rows), BATCH))

    def near(self, area: tuple[float, float, float, float]) -> NDArray[np.int64]:
        """Ascending rows of those whose bounds meet the area xmin, ymin, xmax, ymax."""
        order, tree = self._index
        leaves = tree.query(shapely.box(*area))
        rows = order[(leaves[:, None] * LEAF + np.arange(LEAF)).ravel()]
        rows = rows[rows >= 0]
        low, high = self.bounds[rows, :2], self.bounds[rows, 2:]
        return np.sort(rows[((low <= area[2:]) & (high >= area[:2])).all(axis=1)])

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], shapely.STRtree]:
        """Rows by leaf, -1 = none, and a tree of the bounds of the leaves: slices by x, in each of them by y."""
        x, y = (self.bounds[:, :2] + self.bounds[:, 2:]).T / 2
        leaves = -(-len(self) // LEAF)
        slices = np.argsort(np.argsort(x, kind="stable")) // (LEAF * max(1, round(leaves**0.5)))
        order = np.full(leaves * LEAF, -1)
        order[: len(self)] = np.lexsort((y, slices))
        starts = np.arange(0, len(self), LEAF)
        placed = self.bounds[order[: len(self)]]
        low = np.minimum.reduceat(placed[:, :2], starts) if leaves else placed[:, :2]
        high = np.maximum.reduceat(placed[:, 2:], starts) if leaves else placed[:, 2:]
        return order, shapely.STRtree(shapely.box(*low.T, *high.T))


def moved(shapes: NDArray[np.object_], to: Affine) -> NDArray[np.object_]:
    """Where the affine puts them."""
    a, b, c, d, e, f, *_ = to
    return np.asarray(shapely.transform(shapes, lambda xy: xy @ np.array([[a, d], [b, e]]) + [c, f]))


def polygons_of(
    points: NDArray[np.float64], points_per_ring: Sequence[int], rings_per_polygon: Sequence[int]
) -> NDArray[np.object_]:
    """All at once, out of (n, 2) points in order; a polygon's first ring is its outline, the others are holes."""
    rings, polygons = len(points_per_ring), len(rings_per_polygon)
    if not polygons:
        return np.zeros(0, object)
    lines = shapely.linearrings(points, indices=np.repeat(np.arange(rings), points_per_ring))
    return np.asarray(shapely.polygons(lines, indices=np.repeat(np.arange(polygons), rings_per_polygon)))
