"""Where chips are cut: whole pixels of a working grid, turned or not."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

Window = tuple[int, ...]  # xmin ymin xmax ymax in pixels, half open; one chip per feature: its row follows
Bounds = tuple[int, int, int, int]


def grid(area: Bounds, size: tuple[int, int], step: tuple[int, int]) -> list[Window]:
    """Row by row from the upper left corner of the area; `size` and `step` are x, y."""
    xmin, ymin, xmax, ymax = area
    columns, rows = starts(xmin, xmax, size[0], step[0]), starts(ymin, ymax, size[1], step[1])
    return [(x, y, x + size[0], y + size[1]) for y in rows for x in columns]


def starts(low: int, high: int, size: int, step: int) -> range:
    """Enough chips to reach the far edge, and none that only repeats what the one before has seen."""
    return range(low, max(low + 1, high - max(size - step, 0)), step)


def angles(angle: float) -> tuple[float, ...]:
    """0, a, 2a, ... below 360 degrees (ArcGIS formats D.7)."""
    return (0.0,) if angle == 0 else tuple(float(a) for a in np.arange(0, 360, angle))


def around(centres: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 4) windows of `size` x, y with the points (n, 2) in their middle, to the nearest pixel."""
    corner = np.round(centres - np.array(size) / 2).astype(np.int64)
    return np.hstack([corner, corner + size])


def boxed(bounds: NDArray[np.float64], area: Bounds) -> NDArray[np.int64]:
    """(n, 4) whole pixels around bounds (n, 4), inside the area, each side at least a pixel."""
    low = np.clip(np.floor(bounds[:, :2] + 1e-6), area[:2], np.array(area[2:]) - 1)
    high = np.clip(np.ceil(bounds[:, 2:] - 1e-6), low + 1, area[2:])
    return np.hstack([low, high]).astype(np.int64)


@dataclass(frozen=True)
class Place:
    """A window, turned clockwise about its middle by `angle` degrees, in an area outside of which nothing is seen."""

    window: Bounds
    angle: float
    area: Bounds

    @property
    def size(self) -> tuple[int, int]:
        """columns, rows."""
        return self.window[2] - self.window[0], self.window[3] - self.window[1]

    @cached_property
    def from_chip(self) -> Affine:
        """Pixels of the chip -> pixels of the working grid."""
        xmin, ymin, xmax, ymax = self.window
        if self.angle == 0:
            return Affine.translation(xmin, ymin)
        middle = ((xmax - xmin) / 2, (ymax - ymin) / 2)
        return Affine.translation(xmin, ymin) @ Affine.rotation(self.angle, middle)

    @cached_property
    def outline(self) -> shapely.Polygon:
        """In pixels of the working grid."""
        if self.angle == 0:
            return shapely.box(*self.window)
        columns, rows = self.size
        corners = ((0, 0), (columns, 0), (columns, rows), (0, rows))
        return shapely.Polygon([self.from_chip @ corner for corner in corners])

    @cached_property
    def reach(self) -> Bounds:
        """The window, or the smallest one around it when it is turned."""
        if self.angle == 0:
            return self.window
        xmin, ymin, xmax, ymax = self.outline.bounds
        return int(np.floor(xmin)) - 1, int(np.floor(ymin)) - 1, int(np.ceil(xmax)) + 1, int(np.ceil(ymax)) + 1

    @cached_property
    def seen(self) -> Bounds:
        """The part of the reach inside the area; of no width or height where they do not meet."""
        a, r = self.area, self.reach
        xmin, ymin = max(a[0], r[0]), max(a[1], r[1])
        return xmin, ymin, max(xmin, min(a[2], r[2])), max(ymin, min(a[3], r[3]))

    @property
    def is_whole(self) -> bool:
        """Nothing of the reach is outside the area."""
        return self.seen == self.reach

    @property
    def is_nowhere(self) -> bool:
        """All of the reach is outside the area."""
        return self.seen[0] >= self.seen[2] or self.seen[1] >= self.seen[3]
