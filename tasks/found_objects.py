"""The objects of a whole raster, block by block through the function, kept in files as they are found.

A file of the run holds what a stretch of blocks gave, in pixels of the raster: `<first block>-<behind the last>.found`
is JSON, deflated. A run that was killed goes on behind the last stretch that is there.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from tasks.feature_sets import Detection
from tasks.inference import AnyFunction, Readable, blocks
from tasks.run_folder import RunFolder
from tasks.tiling import Window, block_windows

SECONDS, MOST = 10.0, 20_000  # of work, and objects, in a stretch: what a kill may cost
LEVEL = 1  # of deflate
Polygons = NDArray[np.object_]
Tick = Callable[[int, int, int], None]  # blocks done, blocks in all, objects found


@dataclass
class Found:
    """Objects and their polygons in map coordinates. Objects lose their rings, which would be kept twice."""

    grid: Affine  # pixels to map coordinates
    objects: list[Detection] = field(default_factory=list)
    polygons: list[Polygons] = field(default_factory=list)

    def add(self, objects: Sequence[Detection]) -> None:
        """`objects` in pixels of the raster."""
        self.objects += (replace(one, rings=()) for one in objects)
        self.polygons.append(on_map(objects, self.grid))

    @property
    def shapes(self) -> Polygons:
        return np.concatenate(self.polygons) if self.polygons else np.zeros(0, object)


def find_objects(
    function: AnyFunction, image: Readable, bands: tuple[int, ...] | None, run: RunFolder, tick: Tick
) -> tuple[list[Detection], Polygons]:
    """All objects of all blocks, and their polygons in map coordinates."""
    c, size = function.configuration, (image.width, image.height)
    windows = list(block_windows(Window(0, 0, *size), size, (c.tx, c.ty), c.fixed_tile_size))
    found, done = Found(image.transform), 0
    for file, end in _stretches(run):
        found.add(_unpacked(run.file(file).read_bytes()))
        done = end
    with closing(blocks(image, c, bands, windows[done:])) as ahead:
        first, waiting, since = done, list[Detection](), time.monotonic()
        for col, row, block in ahead:
            if block.valid.any():
                here = function.vectorize(block.pixels, block.valid, at=(col, row))
                waiting += (_moved(one, col, row) for one in here)
            done += 1
            if done == len(windows) or len(waiting) >= MOST or time.monotonic() - since >= SECONDS:
                run.write(f"{first:09d}-{done:09d}.found", _packed(waiting))
                found.add(waiting)
                first, waiting, since = done, [], time.monotonic()
            tick(done, len(windows), len(found.objects) + len(waiting))
    return found.objects, found.shapes


def _stretches(run: RunFolder) -> list[tuple[str, int]]:
    """The files that follow each other without a gap, and the block behind each."""
    kept, end = list[tuple[str, int]](), 0
    for name in run.finished():
        first, last = (int(part) for part in name.removesuffix(".found").split("-"))
        if first == end:
            kept.append((name, last))
            end = last
    return kept


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
    lines = shapely.linearrings(placed, indices=np.repeat(np.arange(len(rings)), [len(ring) for ring in rings]))
    owners = np.repeat(np.arange(len(objects)), [len(one.rings) for one in objects])
    polygons: Polygons = shapely.polygons(lines, indices=owners)
    return polygons
