"""Many geometries in little memory: as bytes in one piece, in which a spatial index finds those of a place.

Shapely's objects take ten times as much, and a process that only looks at them gets a copy of its own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

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


def brought_to(shapes: NDArray[np.object_], crs: object, wanted: object) -> NDArray[np.object_]:
    """In another coordinate system. What lies across 180 degrees goes on beyond them, not back around the world."""
    series = geopandas.GeoSeries(shapes, crs=crs).to_crs(wanted)
    turn, there = turn_of(series.crs), np.array(series.to_numpy(), object)
    low, _, high, _ = shapely.bounds(there).T
    with np.errstate(invalid="ignore"):  # of what has no place there
        wide = np.flatnonzero(np.isfinite(high - low) & (high - low > turn / 2))
    before, owners = shapely.get_parts(shapes[wide], return_index=True)
    after = shapely.get_parts(there[wide])
    across = _is_ccw(before) != _is_ccw(after)  # one that is truly as wide as the world keeps its sense
    after[across] = shapely.transform(after[across], lambda xy: xy + [turn, 0] * (xy[:, :1] < 0))
    for owner in np.unique(owners[across]):
        there[wide[owner]] = shapely.union_all(after[owners == owner])
    return there


def turn_of(system: object) -> float:
    """Once around the world, in the units of its x; infinite where x does not begin anew."""
    crs = CRS.from_user_input(system)
    if crs.is_geographic:
        return 360.0
    return 2 * math.pi * 6_378_137 if crs.equals("EPSG:3857") else math.inf


def _is_ccw(parts: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.asarray(shapely.is_ccw(shapely.get_exterior_ring(parts)))


def as_counted_by(west: float, east: float, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Shapes in degrees by the longitudes of a raster from `west` to `east`, which may count 181 or 359 on.

    Each part is moved by whole turns to wherever the raster shows it, twice where that shows both of its ends.
    """
    parts, owners = shapely.get_parts(shapes, return_index=True)
    low, _, high, _ = (bounds := shapely.bounds(parts)).T
    if not any(seen := turns_seen(west, east, bounds)):
        return shapes
    turns = np.array(seen)
    with np.errstate(invalid="ignore"):
        home = np.nan_to_num(np.round((west + east - low - high) / 720), posinf=0, neginf=0)
    near = (low + 360 * turns[:, None] < east) & (high + 360 * turns[:, None] > west)
    which, part = np.nonzero(near)
    alone = np.flatnonzero(~near.any(axis=0))
    part, by = np.concatenate([part, alone]), np.concatenate([turns[which], home[alone]])
    order = np.argsort(owners[part], kind="stable")
    part, by = part[order], by[order]
    placed, copies, owners = shapes.copy(), _east_by(parts[part], 360 * by), owners[part]
    begins = np.flatnonzero(np.diff(owners, prepend=-1))
    for rows in np.split(np.arange(len(part)), begins[1:]):
        if by[rows].any():
            placed[owners[rows[0]]] = shapely.union_all(copies[rows])
    return placed


def turns_seen(west: float, east: float, bounds: NDArray[np.float64]) -> range:
    """Whole turns by which some of n bounds would come between two longitudes."""
    low, _, high, _ = bounds[np.isfinite(bounds).all(axis=1)].T
    if not len(low):
        return range(0)
    return range(int((west - high.max()) // 360) + 1, -int((low.min() - east) // 360))


def _east_by(shapes: NDArray[np.object_], degrees: NDArray[np.float64]) -> NDArray[np.object_]:
    points, of = shapely.get_coordinates(shapes, return_index=True)
    return np.asarray(shapely.set_coordinates(shapes, points + np.outer(degrees[of], [1, 0])))


def polygons_of(
    points: NDArray[np.float64], points_per_ring: Sequence[int], rings_per_polygon: Sequence[int]
) -> NDArray[np.object_]:
    """All at once, out of (n, 2) points in order; a polygon's first ring is its outline, the others are holes."""
    rings, polygons = len(points_per_ring), len(rings_per_polygon)
    if not polygons:
        return np.zeros(0, object)
    lines = shapely.linearrings(points, indices=np.repeat(np.arange(rings), points_per_ring))
    return np.asarray(shapely.polygons(lines, indices=np.repeat(np.arange(polygons), rings_per_polygon)))
