"""A unit of a class raster as a file: its finished tiles, itself at half the size for the overviews, its statistics.

8 bytes    length of the JSON that follows
JSON       {"sizes": [bytes of each tile, 0 = only nodata], "half": bytes, "shape": of the half, "counts": ...}
bytes      the tiles one after the other, then the half (deflate)
"""

import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.cog import LEVEL, encode
from tasks.overviews import Pixels, halved
from tasks.tiling import Plan

HEAD = struct.Struct("<Q")


@dataclass
class Tally:
    """What is known of the valid pixels."""

    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0

    def add(self, other: "Tally") -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.count, self.total, self.squares = (
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def tags(self) -> dict[str, str]:
        """As GDAL calls them; nothing of no pixels."""
        if not self.count:
            return {}
        mean = self.total / self.count
        deviation = max(0.0, self.squares / self.count - mean**2) ** 0.5
        told = {"MINIMUM": self.low, "MAXIMUM": self.high, "MEAN": mean, "STDDEV": deviation}
        return {f"STATISTICS_{name}": f"{number:.10g}" for name, number in told.items()}


def packed(pixels: Pixels, tile: tuple[int, int], nodata: float) -> list[bytes]:
    """The parts of a unit's file, given its pixels (bands, rows, cols)."""
    _, rows, cols = pixels.shape
    corners = [(y, x) for y in range(0, rows, tile[1]) for x in range(0, cols, tile[0])]
    tiles = [encode(pixels[:, y : y + tile[1], x : x + tile[0]], tile, nodata) for y, x in corners]
    half, shape = b"", [len(pixels), -(-rows // 2), -(-cols // 2)]
    if any(tiles):
        half = zlib.compress(np.ascontiguousarray(halved(pixels, nodata)).data, LEVEL)
    counts, tally = statistics(pixels[0], nodata) if any(tiles) else ({}, Tally())
    sizes = [len(encoded) for encoded in tiles]
    told = {"sizes": sizes, "half": len(half), "shape": shape, "counts": counts, "tally": vars(tally)}
    head = json.dumps(told).encode()
    return [HEAD.pack(len(head)), head, *tiles, half]


def statistics(pixels: NDArray[np.generic], nodata: float) -> tuple[dict[str, int], Tally]:
    """How often each whole number occurs, and the tally; of floats the tally alone."""
    if pixels.dtype.kind == "f":
        valid = pixels[np.isfinite(pixels)].astype(np.float64)
        if not len(valid):
            return {}, Tally()
        numbers = float(valid.min()), float(valid.max()), float(valid.sum()), float((valid**2).sum())
        return {}, Tally(len(valid), *numbers)
    if pixels.dtype in (np.uint8, np.uint16):  # numpy counts bytes ten times as slowly
        size = np.iinfo(pixels.dtype).max + 1  # type: ignore[type-var]
        often = cv2.calcHist([np.asarray(pixels)], [0], None, [size], [0, size]).ravel()
        values = np.flatnonzero(often)
        often = often[values]
    else:
        values, often = np.unique(pixels, return_counts=True)
    counts = {int(v): int(n) for v, n in zip(values, often, strict=True) if v != nodata}
    return {str(v): n for v, n in counts.items()}, _tally(counts)


def _tally(counts: dict[int, int]) -> Tally:
    if not counts:
        return Tally()
    total, squares = (sum(n * v**power for v, n in counts.items()) for power in (1, 2))
    return Tally(sum(counts.values()), min(counts), max(counts), total, squares)


@dataclass(frozen=True)
class Unit:
    """A finished unit. Tiles are read when they are asked for."""

    file: Path
    told: dict[str, Any]
    begin: int  # of the tiles

    @classmethod
    def open(cls, file: Path) -> "Unit":
        with file.open("rb") as source:
            (length,) = HEAD.unpack(source.read(HEAD.size))
            return cls(file, json.loads(source.read(length)), HEAD.size + length)

    @property
    def sizes(self) -> list[int]:
        return list(self.told["sizes"])

    @property
    def is_empty(self) -> bool:
        return not self.told["half"]

    @property
    def counts(self) -> Counter[int]:
        return Counter({int(value): number for value, number in self.told["counts"].items()})

    @property
    def tally(self) -> Tally:
        return Tally(**self.told["tally"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the half: bands, rows, cols."""
        bands, rows, cols = self.told["shape"]
        return bands, rows, cols

    def half(self, dtype: str) -> Pixels:
        """Of a unit that is not empty."""
        with self.file.open("rb") as source:
            source.seek(self.begin + sum(self.sizes))
            return np.frombuffer(zlib.decompress(source.read()), dtype).reshape(self.shape)

    def tiles(self, first: int, last: int) -> Iterator[bytes]:
        """Those of the positions from first to last, half open, that are stored."""
        sizes = self.sizes
        with self.file.open("rb") as source:
            source.seek(self.begin + sum(sizes[:first]))
            for size in sizes[first:last]:
                if size:
                    yield source.read(size)


@dataclass(frozen=True)
class Units:
    """All units of a raster, finished."""

    plan: Plan
    units: list[Unit]

    @property
    def sizes(self) -> list[int]:
        """Of the raster's tiles, row by row."""
        return [size for row in self._tile_rows() for unit, first, last in row for size in unit.sizes[first:last]]

    def tiles(self) -> Iterator[bytes]:
        for row in self._tile_rows():
            for unit, first, last in row:
                yield from unit.tiles(first, last)

    def _tile_rows(self) -> Iterator[list[tuple[Unit, int, int]]]:
        """For each row of tiles the units that it runs through, and which of their tiles those are."""
        plan = self.plan
        for top in range(plan.rows):
            row = range(top * plan.columns, (top + 1) * plan.columns)
            windows = [plan.window(number) for number in row]
            for down in range(-(-windows[0].height // plan.tile[1])):
                widths = [-(-window.width // plan.tile[0]) for window in windows]
                yield [(self.units[n], down * wide, (down + 1) * wide) for n, wide in zip(row, widths, strict=True)]
