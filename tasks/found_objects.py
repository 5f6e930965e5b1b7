"""The objects of a whole raster, block by block through the function, kept in files as they are found.

A file of the run holds what a stretch of blocks gave, in pixels of the raster: `<first block>-<behind the last>.found`
is JSON, deflated. A run that was killed does the stretches that are missing.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from tasks.feature_sets import Detection
from tasks.geometries import polygons_of
from tasks.host import Configuration
from tasks.inference import AnyFunction, blocks
from tasks.parts import Part, Readable
from tasks.run_folder import RunFolder, Share
from tasks.tiling import Window, block_windows

SECONDS, MOST = 10.0, 20_000  # of work, and objects, in a stretch: what a kill may cost
LEVEL = 1  # of deflate
Polygons = NDArray[np.object_]
Tick = Callable[[int, int, int], None]  # blocks done, blocks in all, objects found


def find_objects(
    function: AnyFunction,
    image: Readable,
    bands: tuple[int, ...] | None,
    run: RunFolder,
    tick: Tick,
    share: Share | None = None,
) -> None:
    """The objects of all blocks, or of a share of them, into files of the run; what is there is not done anew."""
    c = function.configuration
    windows = _windows(image, c)
    mine = share.range(len(windows)) if share else range(len(windows))
    gaps = _gaps(run, mine)
    done, found = len(mine) - sum(map(len, gaps)), 0
    with closing(blocks(image, c, bands, [windows[number] for gap in gaps for number in gap])) as ahead:
        for gap in gaps:
            stretch = _Stretch(gap.start)
            for number in gap:
                col, row, block = next(ahead)
                if block.valid.any():
                    here = function.vectorize(block.pixels, block.valid, at=(col, row))
                    stretch.objects += (_moved(one, col, row) for one in here)
                    found += len(here)
                if stretch.is_due or number == gap[-1]:
                    run.write(f"{stretch.first:09d}-{number + 1:09d}.found", _packed(stretch.objects))
                    stretch = _Stretch(number + 1)
                done += 1
                tick(done, len(mine), found)


def _windows(image: Readable, c: Configuration) -> list[Window]:
    """Blocks of a raster; of a part of it those around, too, out of which objects reach into the part."""
    left, top, right, bottom = 0, 0, image.width, image.height
    if isinstance(image, Part):
        col, row = image.window[:2]
        left, top = -c.tx if col and c.padding else 0, -c.ty if row and c.padding else 0
        right, bottom = (
            min(right + c.padding, image.whole.width - col),
            min(bottom + c.padding, image.whole.height - row),
        )
    within = Window(left, top, right - left, bottom - top)
    return list(block_windows(within, (right, bottom), (c.tx, c.ty), c.fixed_tile_size))


def found_in(run: RunFolder, grid: Affine) -> tuple[list[Detection], Polygons]:
    """All objects in the order of their blocks, and their polygons in map coordinates: the objects lose their rings.

    `grid`: pixels to map coordinates.
    """
    found, polygons = list[Detection](), [np.zeros(0, object)]
    for name, _, _ in _kept(run):
        here = _unpacked(run.file(name).read_bytes())
        found += (replace(one, rings=()) for one in here)
        polygons.append(on_map(here, grid))
    return found, np.concatenate(polygons)


@dataclass
class _Stretch:
    first: int
    objects: list[Detection] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        return len(self.objects) >= MOST or time.monotonic() - self.since >= SECONDS


def _kept(run: RunFolder) -> list[tuple[str, int, int]]:
    """The files in the order of their blocks: name, first block, and the one behind the last."""
    parts = ((name, name.removesuffix(".found").split("-")) for name in run.finished())
    return [(name, int(first), int(end)) for name, (first, end) in parts]


def _gaps(run: RunFolder, mine: range) -> list[range]:
    """The blocks of mine that are in no file."""
    gaps, start = list[range](), mine.start
    for _, first, end in [*_kept(run), ("", mine.stop, mine.stop)]:
        if start < min(first, mine.stop):
            gaps.append(range(start, min(first, mine.stop)))
        start = max(start, end)
    return gaps


def _moved(one: Detection, col: int, row: int) -> Detection:
    """From pixels of a block to those of the raster."""
    return replace(one, rings=tuple(tuple((col + x, row + y) for x, y in ring) for ring in one.rings))


def _packed(objects: Iterable[Detection]) -> bytes:
    rows = [(one.class_name, one.value, one.confidence, one.rings, dict(one.extra)) for one in objects]
    return zlib.compress(json.dumps(rows).encode(), LEVEL)


def _unpacked(content: bytes) -> list[Detection]:
    rows = json.loads(zlib.decompress(content))
    return [
        Detection(name, value, confidence, tuple(tuple((x, y) for x, y in ring) for ring in rings), extra)
        for name, value, confidence, rings, extra in rows
    ]


def on_map(objects: Sequence[Detection], grid: Affine) -> Polygons:
    """Their polygons, all at once; the first ring is the outline, the others are holes."""
    rings = [ring for one in objects for ring in one.rings]
    if not rings:
        return np.zeros(0, object)
    x, y = np.array([point for ring in rings for point in ring], np.float64).T
    placed = np.stack([grid.a * x + grid.b * y + grid.c, grid.d * x + grid.e * y + grid.f], axis=1)
    return polygons_of(placed, [len(ring) for ring in rings], [len(one.rings) for one in objects])
